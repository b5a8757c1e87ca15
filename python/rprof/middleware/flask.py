"""Middleware for Flask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._options import UNMATCHED
from .wsgi import KEY, WSGIMiddleware

__all__ = ["init_app"]


class _Middleware(WSGIMiddleware):
    known_route = UNMATCHED


def init_app(app: Any, **options: Any) -> None:
    """Make each request of a Flask application an ``rprof.request``; the URL rule is its route.

    >>> rprof.middleware.flask.init_app(app, slow_after=2.0)

    Args:
        app: The ``flask.Flask``.
        **options: As of ``rprof.middleware.Options``.
    """
    app.wsgi_app = _Middleware(app.wsgi_app, **options)

    from flask import request

    served_now: Callable[[], Any] = request._get_current_object  # type: ignore[attr-defined]
    own = vars(app).get("preprocess_request")

    def note_route(*context: Any) -> Any:
        served = served_now()
        rule = served.url_rule
        # No request is there in the application's own tests that make none, or where it is renamed.
        begun = served.environ.get(KEY) if rule is not None else None
        if begun is not None and begun.route == UNMATCHED:
            begun.set_route(rule.rule)
        if own is not None:
            return own(*context)
        # Looked up anew: others may have put their own into the class meanwhile.
        return type(app).preprocess_request(app, *context)

    # Before the application's own functions, which belong to the route already. Among them Flask
    # would look at each request anew whether this is a coroutine.
    app.preprocess_request = note_route
