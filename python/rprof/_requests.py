"""Requests: ``rprof.request``, ``rprof.profile_next`` and figures by route."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from . import _session
from ._config import UNSET, given_options, resolve
from .errors import RprofStateError, RprofTypeError, RprofValueError

if TYPE_CHECKING:
    from ._profile import Profile

__all__ = ["Capture", "RouteFigures", "profile_next", "request", "routes"]

_F = TypeVar("_F", bound=Callable[..., Any])
_ALL = (1 << 64) - 1
_QUANTILES = (0.5, 0.9, 0.99)
_BANDS = (
    ("p0-p50", 0.0, 0.5),
    ("p50-p90", 0.5, 0.9),
    ("p90-p99", 0.9, 0.99),
    ("p99-p100", 0.99, 1.0),
)
_CAPTURE_DEFAULTS = {"output": None, "max_overhead": 0.1}

# By the bit of a capture: whether it wants a request. Empty at most times.
_predicates: dict[int, Callable[[request], Any]] = {}
# The native module and ours that watches, from the first request on: that is faster than to look
# them up for each.
_native: Any = None
_watch: Any = None


class request:
    """One request, job or other unit of work: a context manager, and a decorator.

    Its samples get the label ``route``, its duration counts for its route, and if it is slow it is
    looked at while it runs: a warning on the logger ``rprof.slow`` tells its stack, again every
    `repeat` seconds, and at its end its profile is written, cut out of the last minutes. A request
    that is not slow leaves nothing.

    >>> with rprof.request("checkout", route="/checkout", slow_after=2.0, user=user.id):
    ...     handle()

    Args:
        name: What it is called in logs.
        route: What kind of request it is; `name` if not given. Of more than 1,000 routes the
            others share ``<other>``.
        slow_after: Seconds after which it counts as slow; None: never.
        repeat: Seconds between two looks at a slow request; 0: one look.
        labels: Further labels for its samples, as of ``rprof.labels``.
        **info: What else logs are to say about it. It is kept for as long as the request runs, and
            turned into text only if it is slow.

    Raises:
        RprofTypeError: A value of the wrong type.
        RprofValueError: A negative time.
    """

    __slots__ = (
        "_after_ns",
        "_labels",
        "_repeat_ns",
        "_running",
        "info",
        "name",
        "route",
    )

    def __init__(
        self,
        name: str,
        *,
        route: str | None = None,
        slow_after: float | None = None,
        repeat: float = 1.0,
        labels: dict[str, str | float] | None = None,
        **info: Any,
    ) -> None:
        if type(name) is not str or (route is not None and type(route) is not str):
            raise RprofTypeError(f"name and route must be text, not {name!r} and {route!r}")
        self.name = name
        """What it is called."""
        self.route = route if route is not None else name
        """What kind of request it is."""
        self.info = info
        """What else is said about it."""
        self._labels = labels
        self._after_ns: int | None = None
        if slow_after is not None:
            self._after_ns = _nanoseconds("slow_after", slow_after)
            self._repeat_ns = _nanoseconds("repeat", repeat)
        self._running: Any = None

    def __enter__(self) -> request:
        native = _native or _load()
        allowed = _allowed(self) if _predicates else _ALL
        if self._after_ns is None:
            self._running = native.begin_request(self.route, self._labels, None, 0, allowed)
            return self
        if _session.reporter() is None:
            _watch.ensure()
        self._running = native.begin_request(
            self.route, self._labels, self._after_ns, self._repeat_ns, allowed
        )
        _watch.watched[self._running.number] = self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        running, self._running = self._running, None
        if running is None:
            return
        ended = _native.end_request(running)
        if self._after_ns is not None:
            _watch.ended(running.number, ended, value)

    def set_route(self, route: str) -> None:
        """Say what kind of request it is, if that was not known when it began."""
        if type(route) is not str:
            raise RprofTypeError(f"route must be text, not {route!r}")
        self.route = route
        if self._running is not None:
            self._running = _native.rename_request(
                self._running, route, self._labels, _allowed(self)
            )

    def __call__(self, function: _F) -> _F:
        """Decorate a function: each call is a request."""
        from ._decorate import decorate

        wrapper: _F = decorate(function, self._again)
        return wrapper

    def __repr__(self) -> str:
        return f"<rprof.request {self.name!r}, route {self.route!r}>"

    def _again(self) -> request:
        again = request.__new__(type(self))
        again.name, again.route, again.info = self.name, self.route, self.info
        again._labels, again._after_ns = self._labels, self._after_ns
        again._repeat_ns = self._repeat_ns if self._after_ns is not None else 0
        again._running = None
        return again

    def pause(self) -> None:
        """A generator has yielded: what follows is its caller's."""
        if self._running is not None:
            _native.pause_request(self._running)

    def resume(self) -> None:
        """The generator goes on."""
        if self._running is not None:
            _native.resume_request(self._running)


def _load() -> Any:
    global _native, _watch
    from . import _watch as watch

    _watch = watch
    _native = _session.native()
    return _native


def _nanoseconds(name: str, seconds: float) -> int:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise RprofTypeError(f"{name} must be a number of seconds, not {seconds!r}")
    if not 0 <= seconds <= 1e8:
        raise RprofValueError(f"{name}={seconds!r} is out of range; choose for example {name}=2.0")
    return round(seconds * 1e9)


def _allowed(begun: request) -> int:
    """Return the bits of the captures that may take a request."""
    allowed = _ALL
    for bit, where in list(_predicates.items()):
        try:
            wanted = where(begun)
        except Exception:
            # The application's own request must not fail for it.
            _session.log().warning("where= of profile_next() has failed", exc_info=True)
            wanted = False
        if not wanted:
            allowed &= ~bit
    return allowed


class RouteFigures(NamedTuple):
    """What is known of the requests of one route; times in seconds, by the clock."""

    route: str
    """The route."""
    ended: int
    """Requests that have ended."""
    under_way: int
    """Requests that have not."""
    mean: float
    """Mean duration."""
    p50: float
    """The duration that half of them did not exceed, known to an eighth of itself."""
    p90: float
    """The same for 90 %."""
    p99: float
    """The same for 99 %."""
    max: float
    """The longest."""


def routes() -> list[RouteFigures]:
    """Return the figures of every route, those with the most time first."""
    rows = _session.native().route_figures(list(_QUANTILES))
    rows.sort(key=lambda row: -row[3])
    figures = []
    for route, count, under_way, sum_ns, max_ns, quantiles in rows:
        mean = sum_ns / count / 1e9 if count else 0.0
        p50, p90, p99 = (quantile / 1e9 for quantile in quantiles)
        row = RouteFigures(route, count, under_way, mean, p50, p90, p99, max_ns / 1e9)
        figures.append(row)
    return figures


class Capture:
    """The next so many requests, being recorded; as a context manager, until its end."""

    def __init__(self, native: Any, wanted: int, recording: int) -> None:
        self._native = native
        self._recording = recording
        self._pid = os.getpid()
        self._closed: tuple[Profile, dict[int, float]] | None = None
        self.wanted = wanted
        """How many requests are to be taken."""

    @property
    def count(self) -> int:
        """How many of them have ended."""
        if self._closed is not None:
            return len(self._closed[1])
        ended: int = self._native.progress()[1]
        return ended

    @property
    def done(self) -> bool:
        """Whether all have ended."""
        return self.count >= self.wanted

    def result(self, timeout: float | None = None) -> Profile:
        """Wait for the last of them and return the profile of all.

        Args:
            timeout: Seconds to wait at most; None: for ever.

        Raises:
            RprofStateError: They have not all ended in time; `close()` gives what there is.
        """
        if self._closed is None and not self._native.wait(1e9 if timeout is None else timeout):
            raise RprofStateError(
                f"{self.count} of {self.wanted} requests have ended after {timeout} s; wait "
                "longer, or take what there is with close()"
            )
        return self.close()

    def close(self) -> Profile:
        """Take no more requests and return the profile of those that were taken."""
        return self._close()[0].of_requests()

    @property
    def durations(self) -> list[float]:
        """Seconds that each request took, shortest first; ends the capture."""
        return sorted(self._close()[1].values())

    @property
    def bands(self) -> dict[str, Profile]:
        """A profile for each band of durations: ``p0-p50``, ``p50-p90``, ``p90-p99``, ``p99-p100``.

        What only slow requests do stands out between two of them. Bands without a request are left
        out. Ends the capture.
        """
        profile, durations = self._close()
        numbers = sorted(durations, key=durations.__getitem__)
        found = {}
        for name, low, high in _BANDS:
            chosen = numbers[round(low * len(numbers)) : round(high * len(numbers))]
            if chosen:
                found[name] = profile.of_requests(chosen)
        return found

    def _close(self) -> tuple[Profile, dict[int, float]]:
        from ._profile import Profile

        if self._closed is None:
            _predicates.pop(self._native.bit, None)
            closed = self._native.close()
            if closed is None:
                raise RprofStateError("this capture belongs to the process that was forked")
            _session.forget(self._recording)
            native, durations = closed
            self._closed = Profile(native), {number: ns / 1e9 for number, ns in durations}
        return self._closed

    def __enter__(self) -> Capture:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._pid == os.getpid():
            self._close()

    def __repr__(self) -> str:
        return f"<rprof.Capture: {self.count} of {self.wanted} requests>"


def profile_next(
    count: int,
    *,
    route: str | None = None,
    where: Callable[[request], Any] | None = None,
    rate: float = UNSET,
    max_overhead: float = UNSET,
) -> Capture:
    """Record the next requests of a kind, and only them, whichever threads and tasks serve them.

    >>> capture = rprof.profile_next(100, route="/checkout")
    >>> print(capture.result(timeout=600).top())

    Args:
        count: How many requests, 1 to 1,000,000.
        route: Only those of this route.
        where: Only those for which this returns true; it is called with each ``rprof.request`` of
            the route as it begins, in the thread that serves it.
        rate: Ticks per second, 0.01 to 10,000 Hz (default 100).
        max_overhead: As for ``rprof.start`` (default 0.1).

    Raises:
        RprofTypeError: A value of the wrong type.
        RprofValueError: A value out of range.
        RprofStateError: 16 captures are waiting already.
    """
    if isinstance(count, bool) or not isinstance(count, int):
        raise RprofTypeError(f"count must be a whole number of requests, not {count!r}")
    if route is not None and not isinstance(route, str):
        raise RprofTypeError(f"route must be text, not {route!r}")
    if where is not None and not callable(where):
        raise RprofTypeError(f"where must be callable, not {where!r}")
    if not 1 <= count <= 1_000_000:
        raise RprofValueError(f"count={count} is out of range; choose 1 to 1000000 requests")
    given = given_options(rate=rate, max_overhead=max_overhead)
    config = resolve(given, defaults=_CAPTURE_DEFAULTS, from_environment=frozenset())
    native = _session.native().capture_requests(count)
    recording = _session.begin(config, captures=native.bit, requests_apart=True)
    if where is not None:
        _predicates[native.bit] = where
    native.open(count, route, recording)
    return Capture(native, count, recording)
