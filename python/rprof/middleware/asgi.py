"""Middleware for every ASGI application: Starlette, FastAPI, Quart, Django's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from .. import _session
from ._options import UNMATCHED, Options, capture_only, generic_route, page

if TYPE_CHECKING:
    from .._requests import request

    _ScopeBase = dict[str, Any]
else:
    _ScopeBase = _session.native().make_scope_class()

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

    With Starlette and FastAPI the pattern of the URL is the route, from the moment it is found;
    other middleware that copies the scope on the way would hide it.

    Args:
        app: What answers.
        **options: As of ``rprof.middleware.Options``.
    """

    def __init__(self, app: _Application, **options: Any) -> None:
        self._app = app
        self._options = chosen = Options(**options)
        self._requests = _session.native().AsgiRequests(
            chosen.model,
            generic_route,
            UNMATCHED,
            _WatchedScope,
            hasattr(app, "router"),
            choose_route=chosen.choose_route if chosen.route is not None else None,
        )

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, scope = self._requests.of(scope)
        options = self._options
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


class _WatchedScope(_ScopeBase):
    """A scope in which Starlette's router notes what it has found; the server's gets it all too."""

    __slots__ = ("_begun", "_outer", "_root")

    _begun: request
    _outer: _Scope
    _root: str

    def __ior__(self, other: Any) -> _WatchedScope:  # type: ignore[override,misc]
        self.update(other)
        return self

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: str, *default: Any) -> Any:
        self._outer.pop(key, None)
        return super().pop(key, *default)

    def popitem(self) -> tuple[str, Any]:
        key, value = super().popitem()
        self._outer.pop(key, None)
        return key, value

    def clear(self) -> None:
        super().clear()
        self._outer.clear()

    def _pattern(self, root: str, below: str) -> str:
        """Return the pattern of the path of a request that has been routed.

        The route itself knows the part below what it is mounted at, or included with by FastAPI. In
        the part above, what parameters have matched is replaced by their names.
        """
        route = self.get("route")
        regex = getattr(route, "path_regex", None)
        path: str = self["path"]
        start = len(self.get("root_path", "")) - len(root)
        if root and path.startswith(root):
            path = path[len(root) :]
        params = self.get("path_params") or {}
        if below:
            return _named(path[:start], params) + below
        while regex is not None and 0 <= start < len(path):
            if regex.match(path[start:]):
                pattern: str = route.path  # type: ignore[union-attr]
                if not start:
                    return pattern
                above = {
                    name: value for name, value in params.items() if f"{{{name}" not in pattern
                }
                return _named(path[:start], above) + pattern
            start = path.find("/", start + 1)
        return _named(path, params)


def _named(path: str, params: dict[str, Any]) -> str:
    names = {str(value): f"{{{name}}}" for name, value in params.items()}
    return generic_route("/".join(names.get(part, part) for part in path.split("/")))
