"""What the native watcher has seen, told by a thread that may run Python code."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

# _profile is loaded here because a report needs it, perhaps where it cannot be loaded any more.
from . import _profile, _session
from ._config import absolute, program_name, resolve
from ._records import forget_thread, tell
from .errors import RprofError, RprofTypeError, RprofValueError

if TYPE_CHECKING:
    from ._requests import request

__all__ = ["begin", "ended", "ensure", "watch", "watch_loop", "watched"]

# Profiles of slow requests kept by one process.
_KEEP_FILES = 60
# Requests whose profile is written at a time; of more, only the log tells.
_MAX_PENDING = 100
# What could not begin to watch is tried again after this many seconds.
_RETRY_SECONDS = 1.0
# Coroutines of one stack that are shown.
_MAX_AWAITS = 200
_FLIGHT = {"output": None, "max_overhead": 0.01}
# What a slow request has in common: nearly all its samples.
_COMMON_PART = 0.9

watched: dict[int, request] = {}
"""Requests under way that may become slow, by number."""
_pending: deque[tuple[request, int, tuple[int, int, int | None], str]] = deque(maxlen=_MAX_PENDING)
_files: deque[str] = deque()

_tried_at = float("-inf")
# Why the last try has failed.
_problem = ""
# Where files go if nothing else does; as absolute once watching has begun, for programs change
# their directory.
_directory = "rprof"

_loops: WeakValueDictionary[int, watch_loop] = WeakValueDictionary()
"""Loops that are watched, by number."""

Place = tuple[int, str, str, list[tuple[str, str, int]]]


class _Reporter:
    """Tells what was seen. A native thread calls it, which threading knows nothing of.

    That thread takes no signals, is in no list that a program could wait for, and has the GIL only
    during a call. It is the only one of ours on which code of the application runs: log handlers.
    """

    def __init__(self) -> None:
        self._stacks: dict[int, str] = {}
        # Loops of which it was told that they do not turn.
        self._stalls: set[int] = set()
        self._finished: deque[int] = deque(maxlen=_MAX_PENDING)
        # What a fork has left here is the parent's.
        _pending.clear()

    def __call__(self, events: list[dict[str, Any]]) -> None:
        """Tell these events, and then of the requests that have ended."""
        problems: list[BaseException] = []
        try:
            # What was seen of a request comes before its end.
            while events:
                for event in events:
                    self._attempt(problems, self._tell, event)
                events = _session.native().take_events()
            while _pending:
                self._attempt(problems, self._finish, *_pending.popleft())
        finally:
            forget_thread()
        if problems:
            # For status().last_error.
            raise problems[0]

    @staticmethod
    def _attempt(problems: list[BaseException], act: Any, *about: Any) -> None:
        """Do one thing; a log handler that raises, whatever it raises, spoils no other."""
        try:
            act(*about)
        except BaseException as problem:
            problems.append(problem)

    def _tell(self, event: dict[str, Any]) -> None:
        kind = event["kind"]
        if kind == "slow":
            self._tell_slow(event)
        elif kind == "stall":
            loop = _loops.get(event["number"])
            if loop is None or not loop.is_turning():
                # It is not to turn: it was closed, or nobody runs it at the moment.
                return
            self._stalls.add(event["number"])
            name, seconds = event["name"], event["elapsed_ns"] / 1e9
            stack = _stack(event["places"]) or "  (its stack cannot be read here)\n"
            tell(
                *("rprof.watch", "WARNING"),
                "the event loop %s has not turned for %.3f s; it is in:\n%s",
                *(name, seconds, stack.rstrip()),
                extra={"rprof": {"loop": name, "seconds": seconds, "stack": stack}},
            )
        elif kind == "stall_end":
            if event["number"] not in self._stalls:
                return
            self._stalls.discard(event["number"])
            name, seconds = event["name"], event["elapsed_ns"] / 1e9
            tell(
                *("rprof.watch", "WARNING"),
                "the event loop %s turns again, after %.3f s",
                *(name, seconds),
                extra={"rprof": {"loop": name, "seconds": seconds}},
            )
        elif kind == "deadlock":
            seconds = event["elapsed_ns"] / 1e9
            path = _write_recent("deadlock", 300.0)
            tell(
                *("rprof.watch", "ERROR"),
                "all threads have waited for locks for %.1f s: is it a deadlock? %s\n%s",
                *(seconds, _written(path), event["text"].rstrip()),
                extra={"rprof": {"seconds": seconds, "profile": path}},
            )
        elif kind in ("cpu", "rss"):
            path = _write_recent(kind, 120.0)
            before, after = event["from"], event["to"]
            said = (
                f"CPU use has gone from {before:.2f} to {after:.2f} cores"
                if kind == "cpu"
                else f"memory has grown from {before / 2**20:.0f} to {after / 2**20:.0f} MiB"
            )
            tell(
                *("rprof.watch", "WARNING"),
                "%s; %s",
                *(said, _written(path)),
                extra={"rprof": {"kind": kind, "from": before, "to": after, "profile": path}},
            )

    def _tell_slow(self, event: dict[str, Any]) -> None:
        number, seconds = event["number"], event["elapsed_ns"] / 1e9
        if number in self._finished:
            return
        slow = _find(number)
        stack = _stack(event["places"]) or _awaiting(slow)
        if not stack:
            stack = (
                "  (on no thread at this moment)\n" if event["is_seen"] else "  (not readable)\n"
            )
        is_same = self._stacks.get(number) == stack
        if len(self._stacks) > 1_000:
            self._stacks.clear()
        self._stacks[number] = stack
        name = slow.name if slow is not None else event["route"]
        details = _details(slow)
        tell(
            *("rprof.slow", "WARNING"),
            "request %s is slow: %.3f s so far%s%s",
            *(name, seconds, details and f" ({details})"),
            "; same as before" if is_same else ", in:\n" + stack.rstrip(),
            extra={
                "rprof": {
                    "request": name,
                    "route": event["route"],
                    "number": number,
                    "seconds": seconds,
                    "look": event["look"],
                    "info": dict(slow.info) if slow is not None else {},
                    "stack": stack,
                    "same": is_same,
                }
            },
        )

    def _finish(
        self, slow: request, number: int, times: tuple[int, int, int | None], outcome: str
    ) -> None:
        began_ns, duration_ns, cpu_ns = times
        seconds = duration_ns / 1e9
        cpu = None if cpu_ns is None else cpu_ns / 1e9
        self._stacks.pop(number, None)
        self._finished.append(number)
        path = where = None
        spent = "" if cpu is None else f", {cpu:.3f} s of CPU"
        try:
            profile = _session.recent_of(began_ns, [number])
        except RprofError as problem:
            where = f"it has no profile: {problem}"
        else:
            if profile.totals.get("samples"):
                path = _write(profile, f"slow-{slow.route}-{number}")
                where = profile.divide(part=_COMMON_PART).describe()
            else:
                where = "it was on no thread whenever samples were taken"
        tell(
            *("rprof.slow", "WARNING"),
            "request %s took %.3f s%s%s; %s; %s",
            *(slow.name, seconds, spent, outcome, where, _written(path)),
            extra={
                "rprof": {
                    "request": slow.name,
                    "route": slow.route,
                    "number": number,
                    "seconds": seconds,
                    "cpu_seconds": cpu,
                    "info": dict(slow.info),
                    "profile": path,
                    "where": where,
                }
            },
        )


def _find(number: int) -> request | None:
    """Return a request that was looked at; it may have ended since."""
    slow = watched.get(number)
    if slow is None:
        slow = next((ended for ended, known, *_ in tuple(_pending) if known == number), None)
    return slow


def _details(slow: request | None) -> str:
    if slow is None or not slow.info:
        return ""
    return ", ".join(f"{key}={_short(value)}" for key, value in slow.info.items())


def _short(value: Any) -> str:
    try:
        text = value if isinstance(value, str) else json.dumps(value, default=str)
    except Exception as error:
        text = f"<{type(error).__name__}>"
    return text if len(text) <= 200 else text[:200] + "…"


def _stack(places: list[Place]) -> str:
    lines = []
    for thread_id, name, doing, frames in places:
        lines.append(f'  Thread {thread_id} "{name}"{doing and ", " + doing}:\n')
        lines += [f'    File "{file}", line {line}, in {at}\n' for at, file, line in frames]
    return "".join(lines)


def _awaiting(slow: request | None) -> str:
    """Return where the task of a request waits, innermost first; empty if it is in none."""
    task = slow.task if slow is not None else None
    step = task.get_coro() if task is not None else None
    lines: list[str] = []
    while step is not None and len(lines) < _MAX_AWAITS:
        frame = _first(step, "cr_frame", "gi_frame", "ag_frame")
        if frame is not None:
            code = frame.f_code
            name = getattr(code, "co_qualname", code.co_name)
            module = frame.f_globals.get("__name__", "?")
            lines.append(
                f'    File "{code.co_filename}", line {frame.f_lineno}, in {module}.{name}\n'
            )
        step = _first(step, "cr_await", "gi_yieldfrom", "ag_await")
    if not lines or task is None:
        return ""
    return f"  Task {task.get_name()!r}, waiting:\n" + "".join(reversed(lines))


def _first(step: Any, *names: str) -> Any:
    found = (getattr(step, name, None) for name in names)
    return next((value for value in found if value is not None), None)


def _written(path: str | None) -> str:
    return f"profile: {path}" if path else "no profile"


def _write_recent(name: str, seconds: float) -> str | None:
    try:
        return _write(_session.recent(seconds), name)
    except RprofError:
        return None


def _write(profile: _profile.Profile, name: str) -> str | None:
    directory = _session.output_directory() or _directory
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")[:80]
    # Not by the clock that Python tells, which tests freeze: names would repeat.
    ended_ns = profile.time_ns + profile.duration_ns
    file = _session.expand(f"{slug}-{{pid}}-{{time}}.pb.gz", program_name(), 1, ended_ns)
    path = os.path.join(directory, file)
    try:
        os.makedirs(directory, exist_ok=True)
        # In another container there may be a process of the same id.
        path = profile._native.write_new(path)
    except (RprofError, OSError) as problem:
        tell("rprof", "WARNING", "%s could not be written: %s", path, problem)
        return None
    _files.append(path)
    while len(_files) > _KEEP_FILES:
        # Somebody else may have cleared up.
        with contextlib.suppress(OSError):
            os.unlink(_files.popleft())
    return path


def ensure() -> None:
    """See to it that slow requests are looked at, told, and can be cut out of the last minutes."""
    global _directory
    if not _session.is_watching():
        _directory = absolute(_directory)
        try:
            _session.begin_flight(resolve({}, defaults=_FLIGHT, from_environment=frozenset()))
            _session.watch(_Reporter(), keep_thread_state=_has_greenlets())
        except BaseException:
            # What is kept for those who watch is of no use without them.
            _session.end_flight()
            raise


def _has_greenlets() -> bool:
    """Whether locks are gevent's: a thread state that takes one gets an event loop of its own."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def begin() -> Any:
    """See to the watcher for a request that may become slow; return the task it begins in."""
    global _tried_at, _problem
    if not _session.is_watching() and monotonic() >= _tried_at + _RETRY_SECONDS:
        try:
            ensure()
            _problem = ""
        except RprofError as problem:
            # The request is the application's, and more than its watching.
            _tried_at = monotonic()
            if str(problem) != _problem:
                _problem = str(problem)
                _session.log().warning("slow requests are not told for now: %s", problem)
    asyncio = sys.modules.get("asyncio")
    if asyncio is None or asyncio._get_running_loop() is None:
        return None
    return asyncio.current_task()


def tell_trouble() -> None:
    """Tell, once, that whoever looks at slow requests is not there for now."""
    _session.report_trouble()


def ended(
    slow: request,
    number: int,
    times: tuple[int, int, int | None],
    error: BaseException | None,
) -> None:
    """Note the end of a request that was looked at: its start, duration and CPU time in ns."""
    outcome = f" and raised {type(error).__name__}" if error is not None else ""
    _pending.append((slow, number, times, outcome))
    _session.native().wake_event()


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
        for known in list(_loops.values()):
            known._end_if_closed()
        self._heart = _session.native().watch_loop(name, round(stall * 1e9))
        _loops[self._heart.number] = self
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
        deadlock: Seconds for which all threads have waited for locks, and none for anything else.
        cpu: Cores in use over ten seconds.
        rss: Bytes of memory more than the least of the last minute.

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
    _session.native().watch_limits(
        deadlock_ns=None if deadlock is None else round(deadlock * 1e9),
        cpu_cores=cpu,
        rss_bytes=None if rss is None else round(rss),
    )
