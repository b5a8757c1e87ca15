"""Middleware for every ASGI application: Starlette, FastAPI, Quart, Django's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from ._options import Options, capture_only, page

if TYPE_CHECKING:
    from .._requests import request

__all__ = ["KEY", "ASGIMiddleware"]

KEY = "rprof.request"
"""Where an application finds its ``rprof.request`` in the scope, for ``set_route``."""

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[Any]]
_Send = Callable[[Any], Awaitable[None]]
_Application = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


class ASGIMiddleware:
    """Makes each HTTP request of an ASGI application an ``rprof.request``.

    >>> app.add_middleware(ASGIMiddleware, slow_after=2.0)      # Starlette, FastAPI
    >>> app = ASGIMiddleware(app, slow_after=2.0)               # any other

    Args:
        app: What answers.
        **options: As of ``rprof.middleware.Options``.
    """

    def __init__(self, app: _Application, **options: Any) -> None:
        self._app = app
        self._options = Options(**options)

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        options = self._options
        begun = options.request(scope["method"], scope["path"], scope)
        scope[KEY] = begun
        if options.on_demand is not None and options.wants_page(
            scope.get("query_string", b"").decode("latin-1"), scope
        ):
            await self._profiled(begun, scope, receive, send)
            return
        with begun:
            await self._app(scope, receive, send)

    async def _profiled(
        self, begun: request, scope: _Scope, receive: _Receive, send: _Send
    ) -> None:
        async def swallow(_: Any) -> None:
            pass

        with capture_only(begun) as capture:
            with begun:
                await self._app(scope, receive, swallow)
            body = page(capture, begun.name)
        headers = [
            (b"content-type", b"text/html; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
