"""Middleware for Flask."""

from __future__ import annotations

from typing import Any

from ._options import UNMATCHED
from .wsgi import KEY, WSGIMiddleware

__all__ = ["init_app"]


def init_app(app: Any, **options: Any) -> None:
    """Make each request of a Flask application an ``rprof.request``; the URL rule is its route.

    >>> rprof.middleware.flask.init_app(app, slow_after=2.0)

    Args:
        app: The ``flask.Flask``.
        **options: As of ``rprof.middleware.Options``.
    """
    app.wsgi_app = WSGIMiddleware(app.wsgi_app, **options)
    if options.get("route") is not None:
        return

    def note_route() -> None:
        from flask import request

        rule = request.url_rule
        request.environ[KEY].set_route(UNMATCHED if rule is None else rule.rule)

    # First, so that the application's own functions belong to the route already.
    app.before_request_funcs.setdefault(None, []).insert(0, note_route)
