"""What all middleware has in common: its options, names and routes, and profiles on demand."""

from __future__ import annotations

import functools
import hmac
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from .. import _hooks, _requests
from .._config import PRESETS
from .._process import log
from ..errors import RprofTypeError, RprofValueError

if TYPE_CHECKING:
    from .._requests import Capture, request

__all__ = ["UNMATCHED", "Options", "generic_route"]

UNMATCHED = "(no route)"
"""The route of requests for which the framework has none, and of others until it has been found."""

_MIN_SECRET_LENGTH = 16
# Parts of a path that name one thing rather than a kind: numbers, UUIDs, long hexadecimal text, and
# long text with digits in it.
_IDENTIFIER = re.compile(
    r"\d+|[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}|[0-9a-fA-F]{16,}|(?=[^/]*\d)[\w-]{20,}"
)
_MAX_PARTS = 8
# Of a query that is searched for `rprof`.
_MAX_QUERY = 10_000
_MAX_FIELDS = 100


@functools.lru_cache(maxsize=4_096)
def generic_route(path: str) -> str:
    """Return `path` with what looks like an identifier replaced by ``{}``."""
    parts = path.split("/", _MAX_PARTS + 1)[: _MAX_PARTS + 1]
    return "/".join("{}" if _IDENTIFIER.fullmatch(part) else part for part in parts)


class Options:
    """The options of every middleware.

    Args:
        slow_after: Seconds after which a request counts as slow; None: never. See
            ``rprof.request``.
        repeat: Seconds between two looks at a slow request.
        route: Called with the environ (WSGI), scope (ASGI) or request (Django) for the route. By
            default, and where it returns None, the framework's pattern if there is one, else the
            path with its numbers and other identifiers replaced.
        on_demand: Allows ``?rprof=SECRET`` in a URL to have that one request profiled at 1 kHz, and
            its page instead of the answer: the secret (16 characters at least), or a function that
            is called with what `route` is called with and says whether the request may. Off by
            default.

    Raises:
        RprofTypeError: A value of the wrong type.
        RprofValueError: A secret that can be guessed, or a negative time.
    """

    def __init__(
        self,
        *,
        slow_after: float | None = None,
        repeat: float = 1.0,
        route: Callable[[Any], str | None] | None = None,
        on_demand: str | Callable[[Any], Any] | None = None,
    ) -> None:
        # Wrong values are told where the application is put together, not at its first request.
        self.model = _requests.request("", slow_after=slow_after, repeat=repeat)
        if route is not None and not callable(route):
            raise RprofTypeError(f"route must be callable, not {route!r}")
        if isinstance(on_demand, str):
            if len(on_demand) < _MIN_SECRET_LENGTH or not on_demand.isascii():
                raise RprofValueError(
                    f"on_demand must have at least {_MIN_SECRET_LENGTH} ASCII characters; make one "
                    "with secrets.token_urlsafe()"
                )
        elif on_demand is not None and not callable(on_demand):
            raise RprofTypeError(f"on_demand must be a secret or callable, not {on_demand!r}")
        self.route = route
        self.on_demand = on_demand
        # What takes time once is done here as well.
        _hooks.native().current_labels()
        if slow_after is not None:
            from .. import _watch  # noqa: F401
        if on_demand is not None:
            from .. import viewer  # noqa: F401

    def request(self, method: str, path: str, source: Any, known: str | None = None) -> request:
        """Return the request to be entered, of a known route or of one made from `path`."""
        route = self.choose_route(source, path, known)
        return self.model._of(method, "", path, route)

    def choose_route(self, source: Any, path: str, known: str | None = None) -> str:
        """Return the route that the application's function says, or else a known or made one."""
        route = None
        if self.route is not None:
            route = _harmless(self.route, source)
        if type(route) is str:
            return route
        return generic_route(path) if known is None else known

    def wants_page(self, query: str, source: Any) -> bool:
        """Whether a request is to be profiled by itself, and may be."""
        if self.on_demand is None or "rprof" not in query or len(query) >= _MAX_QUERY:
            return False
        try:
            values = parse_qs(query, max_num_fields=_MAX_FIELDS).get("rprof")
        except ValueError:
            return False
        if not values:
            return False
        if callable(self.on_demand):
            return bool(_harmless(self.on_demand, source))
        return hmac.compare_digest(values[0].encode(), self.on_demand.encode())


def _harmless(function: Callable[[Any], Any], source: Any) -> Any:
    """Call a function of the application's; None if it fails, as no request may for us."""
    try:
        return function(source)
    except Exception:
        log().warning("a function given to the middleware has failed", exc_info=True)
        return None


def capture_only(wanted: request) -> Capture:
    """Begin to record one request, before it is entered."""
    how = PRESETS["one request"].defaults
    return _requests.profile_next(
        1,
        where=lambda begun: begun is wanted,
        rate=how["rate"],
        max_overhead=how["max_overhead"],
    )


def page(capture: Capture, name: str) -> bytes:
    """Return the report page of a request that has ended."""
    from ..viewer import page as render

    profile = capture.close()
    shown = (name, profile.to_bytes(), profile._native.page_facts)
    return render([shown], title=name).encode()
