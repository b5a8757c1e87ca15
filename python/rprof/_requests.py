"""Requests: ``rprof.request``, ``rprof.profile_next`` and figures by route."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

# _continuous is loaded with this one: when that is asked for, no file may be readable any more.
from . import _continuous, _hooks, _recordings  # noqa: F401
from ._config import UNSET, given_options, resolve
from ._process import log
from .errors import RprofStateError, RprofTypeError, RprofValueError

if TYPE_CHECKING:
    from ._native import Block, request
    from ._profile import Profile
else:
    # This says why if it cannot be loaded.
    _native = _hooks.native()
    Block, request = _native.Block, _native.request

__all__ = ["Capture", "RouteFigures", "profile_next", "request", "routes"]

_QUANTILES = (0.5, 0.9, 0.99)
_BANDS = (
    ("p0-p50", 0.0, 0.5),
    ("p50-p90", 0.5, 0.9),
    ("p90-p99", 0.9, 0.99),
    ("p99-p100", 0.99, 1.0),
)


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
    cpu: float
    """CPU seconds of the requests that have ended, by their threads' clocks and not by samples.
    From CPython 3.14 on, what other threads and tasks spend under a request's labels counts too."""
    cpu_known: int
    """How many of these requests that is known of. Before CPython 3.14 it is not known of one that
    gave way to other tasks of its event loop: nothing tells when they took turns."""


def routes() -> list[RouteFigures]:
    """Return the figures of every route, those with the most time first."""
    rows = _hooks.native().route_figures(list(_QUANTILES))
    rows.sort(key=lambda row: -row[3])
    found = []
    for route, ended, under_way, sum_ns, max_ns, (cpu_ns, cpu_known), quantiles in rows:
        mean = sum_ns / ended / 1e9 if ended else 0.0
        p50, p90, p99 = (quantile / 1e9 for quantile in quantiles)
        times = (mean, p50, p90, p99, max_ns / 1e9, cpu_ns / 1e9)
        found.append(RouteFigures(route, ended, under_way, *times, cpu_known))
    return found


class Capture(Block):
    """The next so many requests, being recorded; as a context manager, until its end.

    Requests are taken for as long as there is this object.
    """

    def __init__(self, native: Any, wanted: int) -> None:
        self._native = self._owner = native
        self._pid = os.getpid()
        self._closed: tuple[Profile, dict[int, float], Profile | None] | None = None
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
    def heap(self) -> Profile:
        """What these requests allocated, and what of that was in use at the end of the capture.

        Ends the capture.

        Raises:
            RprofStateError: The heap was not being sampled when the capture began.
        """
        _, durations, heap = self._close()
        if heap is None:
            raise RprofStateError(
                "there is no heap profile: call rprof.start(memory=True) before profile_next()"
            )
        return heap.of_requests(durations)

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
        profile, durations, _ = self._close()
        numbers = sorted(durations, key=durations.__getitem__)
        found = {}
        for name, low, high in _BANDS:
            chosen = numbers[round(low * len(numbers)) : round(high * len(numbers))]
            if chosen:
                found[name] = profile.of_requests(chosen)
        return found

    def _close(self) -> tuple[Profile, dict[int, float], Profile | None]:
        from ._profile import Profile

        if self._closed is None:
            closed = self._native.close()
            if closed is None:
                raise RprofStateError("this capture belongs to the process that was forked")
            native, durations, heap = closed
            seconds = {number: ns / 1e9 for number, ns in durations}
            self._closed = Profile(native), seconds, None if heap is None else Profile(heap)
        return self._closed

    def _leave(self) -> None:
        if self._pid == os.getpid():
            self._close()

    def __repr__(self) -> str:
        return f"<rprof.Capture: {self.count} of {self.wanted} requests>"


def _is_wanted(where: Callable[[request], Any], begun: request) -> bool:
    """Ask the application's function; its own request must not fail for it."""
    try:
        return bool(where(begun))
    except Exception:
        log().warning("where= of profile_next() has failed", exc_info=True)
        return False


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
    given = given_options({"rate": rate, "max_overhead": max_overhead})
    config = resolve(given, "requests")
    native = _hooks.native().capture_requests(count)
    try:
        # That object owns the recording from the moment in which there is one.
        native.open(
            count,
            route,
            _recordings.begin(config, captures=native.bit, requests_apart=True),
            None if where is None else partial(_is_wanted, where),
        )
        return Capture(native, count)
    except BaseException:
        # An exception's traceback may hold it for long.
        native.abandon()
        raise
