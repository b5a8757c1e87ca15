"""Middleware for Flask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .wsgi import RoutedMiddleware, note_route

__all__ = ["init_app"]


def init_app(app: Any, **options: Any) -> None:
    """Make each request of a Flask application an ``rprof.request``; the URL rule is its route.

    >>> rprof.middleware.flask.init_app(app, slow_after=2.0)

    Args:
        app: The ``flask.Flask``.
        **options: As of ``rprof.middleware.Options``.
    """
    app.wsgi_app = RoutedMiddleware(app.wsgi_app, **options)

    from flask import request

    served_now: Callable[[], Any] = request._get_current_object  # type: ignore[attr-defined]
    own = vars(app).get("preprocess_request")

    def preprocess(*context: Any) -> Any:
        served = served_now()
        rule = served.url_rule
        if rule is not None:
            note_route(served.environ, rule.rule)
        if own is not None:
            return own(*context)
        # Looked up anew: others may have put their own into the class meanwhile.
        return type(app).preprocess_request(app, *context)

    # Before the application's own functions, which belong to the route already. Among them Flask
    # would look at each request anew whether this is a coroutine.
    app.preprocess_request = preprocess
