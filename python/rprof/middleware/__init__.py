"""Middleware: each HTTP request of a web framework is an ``rprof.request``.

``wsgi.WSGIMiddleware``, ``asgi.ASGIMiddleware``, ``django.RprofMiddleware``, ``flask.init_app`` and
``paste.filter_factory`` take the same options; they are explained at ``Options``.
"""

from __future__ import annotations

from ._options import Options

__all__ = ["Options"]
