"""The routes that Starlette's and FastAPI's routers choose, noted as they choose them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

from .. import _hooks
from .._process import log
from ._options import generic_route

__all__ = ["watch_routers"]

_MARK = "__rprof_notes__"


def watch_routers() -> None:
    """Have the routes of the frameworks that are loaded tell the request that they serve."""
    routing = sys.modules.get("starlette.routing")
    for name, is_leaf, pattern in _CLASSES:
        found = getattr(routing, name, None)
        for kind in _with_subclasses(found) if isinstance(found, type) else ():
            handle = vars(kind).get("handle")
            if isinstance(handle, FunctionType) and not hasattr(handle, _MARK):
                kind.handle = _noting(handle, is_leaf, pattern)


def _with_subclasses(kind: type) -> Iterator[Any]:
    yield kind
    subclasses: list[type] = kind.__subclasses__()
    for subclass in subclasses:
        yield from _with_subclasses(subclass)


def _noting(
    handle: Callable[..., Any], is_leaf: bool, pattern: Callable[[Any, Any, str], str]
) -> Callable[..., Any]:
    note_route = _hooks.native().note_route

    @functools.wraps(handle)
    def noted(self: Any, scope: Any, receive: Any, send: Any) -> Any:
        try:
            note_route(self, scope, is_leaf, pattern)
        except Exception:
            log().warning("the route of a request cannot be told", exc_info=True)
        return handle(self, scope, receive, send)

    setattr(noted, _MARK, True)
    return noted


def _leaf_pattern(route: Any, scope: Any, root: str) -> str:
    """Return the pattern of the path of a request, whose router has chosen `route`.

    The route itself knows the part below what it is mounted at, or included with by FastAPI. In the
    part above, what parameters have matched is replaced by their names.
    """
    path, start = _below(root, scope)
    params = scope.get("path_params") or {}
    regex = getattr(route, "path_regex", None)
    while regex is not None and 0 <= start < len(path):
        if regex.match(path[start:]):
            pattern: str = route.path
            if not start:
                return pattern
            above = {name: value for name, value in params.items() if f"{{{name}" not in pattern}
            return _named(path[:start], above) + pattern
        start = path.find("/", start + 1)
    return _named(path, params)


def _mount_pattern(_: Any, scope: Any, root: str) -> str:
    """Return the pattern of all that is mounted there; what is mounted may know better."""
    path, start = _below(root, scope)
    return _named(path[:start], scope.get("path_params") or {}) + "/{path}"


def _below(root: str, scope: Any) -> tuple[str, int]:
    """Return the path below `root`, and where in it what is mounted begins."""
    path: str = scope["path"]
    start = len(scope.get("root_path", "")) - len(root)
    return (path[len(root) :] if root and path.startswith(root) else path), start


def _named(path: str, params: dict[str, Any]) -> str:
    names = {str(value): f"{{{name}}}" for name, value in params.items()}
    return generic_route("/".join(names.get(part, part) for part in path.split("/")))


# Of what a router calls `handle`: the class, whether nothing is chosen below, and the pattern. The
# `handle` of a subclass, as of FastAPI's, may call that of the class, or not.
_CLASSES = (
    ("Route", True, _leaf_pattern),
    ("Mount", False, _mount_pattern),
    ("Host", False, _leaf_pattern),
)
