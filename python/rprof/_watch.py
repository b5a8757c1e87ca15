"""Watches slow requests, event loops and the process; what is seen is told by ``_reports``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from . import _imported, _tasks
from ._config import resolve
from ._hooks import end_watching, native
from ._process import current, log, report_trouble, tell_native
from ._recordings import begin_flight, end_flight
from ._reports import Reporter, keep_directory, loops, pending, watched
from .errors import RprofError, RprofTypeError, RprofValueError

if TYPE_CHECKING:
    from ._native import request

__all__ = ["begin", "ended", "ensure", "watch", "watch_loop", "watched"]

# What could not begin to watch is tried again after this many seconds.
_RETRY_SECONDS = 1.0

_tried_at = float("-inf")
# Why the last try has failed.
_problem = ""
_watch_hooks_installed = False


def ensure() -> None:
    """See to it that slow requests are looked at, told, and can be cut out of the last minutes."""
    if not current().is_watching:
        keep_directory()
        try:
            begin_flight(resolve({}, "watching"))
            _begin(Reporter(), keep_thread_state=_has_greenlets())
        except BaseException:
            # What is kept for those who watch is of no use without them.
            end_flight()
            raise


def _begin(
    report: Callable[[list[dict[str, Any]]], None], *, keep_thread_state: bool = False
) -> None:
    """Begin to watch; `report` is called by a thread of ours with what has been seen.

    `keep_thread_state`: that thread is to be the same one to the interpreter in all calls.
    """
    global _watch_hooks_installed
    module = native()
    if not _watch_hooks_installed:
        import atexit

        # Both before what logging does: at the end it closes its handlers, and at a fork it holds
        # its lock, for which a report may be waiting. What is registered later comes earlier.
        atexit.register(end_watching)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=module.pause_reports)
        _watch_hooks_installed = True
    state = current()
    tell_native()
    try:
        module.start_watch()
        module.start_reports(report, keep_thread_state)
        state.is_watching = True
    except BaseException:
        # Neither without the other, whatever has come in between.
        state.is_watching = False
        module.stop_reports()
        module.stop_watch()
        raise


def _has_greenlets() -> bool:
    """Whether locks are gevent's: a thread state that takes one gets an event loop of its own."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def begin() -> None:
    """See to the watcher for a request that may become slow."""
    global _tried_at, _problem
    if not current().is_watching and monotonic() >= _tried_at + _RETRY_SECONDS:
        try:
            ensure()
            _problem = ""
        except RprofError as problem:
            # The request is the application's, and more than its watching.
            _tried_at = monotonic()
            if str(problem) != _problem:
                _problem = str(problem)
                log().warning("slow requests are not told for now: %s", problem)
    if "asyncio" not in _imported.settled:
        # The program may have imported asyncio since.
        _tasks.learn(native())


def tell_trouble() -> None:
    """Tell, once, that whoever looks at slow requests is not there for now."""
    report_trouble(current())


def ended(
    slow: request,
    number: int,
    times: tuple[int, int, int | None],
    error: BaseException | None,
) -> None:
    """Note the end of a request that was looked at: its start, duration and CPU time in ns."""
    outcome = f" and raised {type(error).__name__}" if error is not None else ""
    pending.append((slow, number, times, outcome))
    native().wake_event()


class watch_loop:
    """Watch an asyncio event loop, from where it runs, until ``stop()`` or until it is closed.

    Also one of uvloop, or of another library that makes loops for asyncio.

    If it does not turn for `stall` seconds, a warning on the logger ``rprof.watch`` tells what
    keeps it, even if that is C code that holds the GIL.

    Args:
        stall: Seconds, at least 0.01. The loop is woken four times as often.
        name: What the loop is called in logs.

    Raises:
        RprofValueError: A time that is too short.
        RuntimeError: No event loop runs here.
    """

    def __init__(self, stall: float = 0.1, *, name: str = "asyncio") -> None:
        import asyncio

        if isinstance(stall, bool) or not isinstance(stall, (int, float)):
            raise RprofTypeError(f"stall must be a number of seconds, not {stall!r}")
        if not 0.01 <= stall <= 86_400:
            raise RprofValueError(f"stall={stall!r} is out of range; choose 0.01 to 86400 s")
        self._loop = asyncio.get_running_loop()
        self._interval = stall / 4
        ensure()
        for known in list(loops.values()):
            known._end_if_closed()
        self._heart = native().watch_loop(name, round(stall * 1e9))
        loops[self._heart.number] = self
        self._handle = self._loop.call_later(self._interval, self._beat)

    def _beat(self) -> None:
        self._heart.beat()
        self._handle = self._loop.call_later(self._interval, self._beat)

    def is_turning(self) -> bool:
        """Return whether the loop runs; it is watched no more once it is closed."""
        self._end_if_closed()
        return self._loop.is_running()

    def _end_if_closed(self) -> None:
        if self._loop.is_closed():
            self._heart.end()

    def stop(self) -> None:
        """Watch it no more; to be called where the loop runs."""
        self._heart.end()
        self._handle.cancel()


def watch(
    *, deadlock: float | None = None, cpu: float | None = None, rss: float | None = None
) -> None:
    """Watch this process for trouble; what is found is told once a minute at most.

    The logger ``rprof.watch`` gets a record, and what was recorded of the last minutes is written
    beside the other profiles. Each call replaces the last; without arguments it ends.

    Args:
        deadlock: Seconds for which all threads have waited for locks, and none for anything else,
            or some of them for each other.
        cpu: Cores in use over ten seconds.
        rss: Bytes of memory more than the least of the last minute. Who has the memory is told,
            and a heap file written where ``memory=`` is on.

    Raises:
        RprofTypeError: A value that is no number.
        RprofValueError: A value that is not positive.
    """
    for name, value in (("deadlock", deadlock), ("cpu", cpu), ("rss", rss)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise RprofTypeError(f"{name} must be a number, not {value!r}")
        if not 0 < value < 1e15:
            raise RprofValueError(f"{name}={value!r} is out of range; it must be positive")
    if deadlock is not None or cpu is not None or rss is not None:
        ensure()
    native().watch_limits(
        deadlock_ns=None if deadlock is None else round(deadlock * 1e9),
        cpu_cores=cpu,
        rss_bytes=None if rss is None else round(rss),
    )
