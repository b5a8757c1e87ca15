"""Middleware for every ASGI application: Starlette, FastAPI, Quart, Django's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from .. import _hooks
from ._options import UNMATCHED, Options, capture_only, generic_route, page
from ._routers import watch_routers

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

    With Starlette and FastAPI the pattern of the URL is the route, from the moment it is chosen:
    the ``handle`` of their classes of routes is wrapped for that, once for the whole program.

    Args:
        app: What answers.
        **options: As of ``rprof.middleware.Options``.
    """

    def __init__(self, app: _Application, **options: Any) -> None:
        self._app = app
        self._options = chosen = Options(**options)
        self._requests = _hooks.native().AsgiRequests(
            chosen.model,
            generic_route,
            UNMATCHED,
            hasattr(app, "router"),
            choose_route=chosen.choose_route if chosen.route is not None else None,
        )
        self._begin = self._requests.begin
        self._is_on_demand = chosen.on_demand is not None
        watch_routers()

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._is_on_demand and self._options.wants_page(
            scope.get("query_string", b"").decode("latin-1"), scope
        ):
            await self._profiled(self._requests.of(scope), scope, receive, send)
            return
        # As `with` does, in fewer steps.
        begun = self._begin(scope)
        try:
            await self._app(scope, receive, send)
        except BaseException as error:
            begun.__exit__(None, error)
            raise
        begun.__exit__()

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
