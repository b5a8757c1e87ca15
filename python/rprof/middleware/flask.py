"""Middleware for Flask."""

from __future__ import annotations

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

    def note_route() -> None:
        from flask import request

        # Not there in the application's own tests that make no request, or where it is renamed.
        begun = request.environ.get(KEY)
        if begun is not None and begun.route == UNMATCHED and request.url_rule is not None:
            begun.set_route(request.url_rule.rule)

    # First, so that the application's own functions belong to the route already.
    app.before_request_funcs.setdefault(None, []).insert(0, note_route)
