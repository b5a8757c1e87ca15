"""What the native watcher has seen, told by a thread that may run Python code."""

from __future__ import annotations

import contextlib
import fnmatch  # noqa: F401
import json
import os
import re
from collections import deque
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

# _profile and fnmatch, by which it chooses labels, are loaded here because a report needs them,
# perhaps where they cannot be loaded any more.
from . import _profile
from ._account import memory_account
from ._config import absolute, program_name
from ._continuous import heap, output_directory, recent
from ._hooks import native
from ._recordings import expand, recent_of
from ._records import forget_thread, tell
from .errors import RprofError

if TYPE_CHECKING:
    from ._native import request
    from ._profile import Profile
    from ._watch import watch_loop

__all__ = ["Reporter", "keep_directory", "loops", "pending", "watched"]

# Profiles of slow requests kept by one process.
_KEEP_FILES = 60
# Requests whose profile is written at a time; of more, only the log tells.
_MAX_PENDING = 100
# What a slow request has in common: nearly all its samples.
_COMMON_PART = 0.9

watched: dict[int, request] = {}
"""Requests under way that may become slow, by number."""
pending: deque[tuple[request, int, tuple[int, int, int | None], str]] = deque(maxlen=_MAX_PENDING)
"""Requests that have ended and were looked at."""
loops: WeakValueDictionary[int, watch_loop] = WeakValueDictionary()
"""Loops that are watched, by number."""

_files: deque[str] = deque()
# Where files go if nothing else does; as absolute once watching has begun, for programs change
# their directory.
_directory = "rprof"

Place = tuple[int, str, str, list[tuple[str, str, int]]]


def keep_directory() -> None:
    """Have files go where they would go now, wherever the program goes."""
    global _directory
    _directory = absolute(_directory)


class Reporter:
    """Tells what was seen. A native thread calls it, which threading knows nothing of.

    That thread takes no signals, is in no list that a program could wait for, and has the GIL only
    during a call. It is the only one of ours on which code of the application runs: log handlers.
    """

    def __init__(self) -> None:
        self._stacks: dict[int, str] = {}
        # Where the tasks of each waited when they were last looked at.
        self._waits: dict[int, str] = {}
        # Loops of which it was told that they do not turn.
        self._stalls: set[int] = set()
        self._finished: deque[int] = deque(maxlen=_MAX_PENDING)
        # What a fork has left here is the parent's.
        pending.clear()

    def __call__(self, events: list[dict[str, Any]]) -> None:
        """Tell these events, and then of the requests that have ended."""
        problems: list[BaseException] = []
        try:
            # What was seen of a request comes before its end.
            while events:
                for event in events:
                    self._attempt(problems, self._tell, event)
                events = native().take_events()
            while pending:
                self._attempt(problems, self._finish, *pending.popleft())
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
            loop = loops.get(event["number"])
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
            who = (
                "all threads have waited for locks"
                if event["is_of_all"]
                else "threads have waited for each other"
            )
            tell(
                *("rprof.watch", "ERROR"),
                "%s for %.1f s: is it a deadlock? %s\n%s",
                *(who, seconds, _written(path), event["text"].rstrip()),
                extra={"rprof": {"seconds": seconds, "profile": path}},
            )
        elif kind == "cpu":
            path = _write_recent(kind, 120.0)
            before, after = event["from"], event["to"]
            tell(
                *("rprof.watch", "WARNING"),
                "CPU use has gone from %.2f to %.2f cores; %s",
                *(before, after, _written(path)),
                extra={"rprof": {"kind": kind, "from": before, "to": after, "profile": path}},
            )
        elif kind == "rss":
            _tell_growth(event["from"], event["to"])

    def _tell_slow(self, event: dict[str, Any]) -> None:
        number, seconds = event["number"], event["elapsed_ns"] / 1e9
        if number in self._finished:
            return
        slow = _find(number)
        stack = _stack(event["places"]) + _indented(event["tasks"])
        if not stack:
            stack = (
                "  (on no thread at this moment)\n" if event["is_seen"] else "  (not readable)\n"
            )
        is_same = self._stacks.get(number) == stack
        if len(self._stacks) > 1_000:
            self._stacks.clear()
            self._waits.clear()
        self._stacks[number] = stack
        self._waits[number] = event["waits_in"]
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
                    "waits_in": event["waits_in"],
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
        waits_in = self._waits.pop(number, "")
        self._finished.append(number)
        path = where = None
        took, allocated, heap = _allocated(slow, number, began_ns)
        spent = ("" if cpu is None else f", {cpu:.3f} s of CPU") + took
        try:
            profile = recent_of(began_ns, [number])
        except RprofError as problem:
            where = f"it has no profile: {problem}"
        else:
            own = profile.only_labels({"request task": "own"})
            if any(profile.totals.get(kind) for kind in ("samples", "task_wall")):
                path = _write(profile, f"slow-{slow.route}-{number}")
            if own.totals.get("task_wall"):
                # All of its life, whether its task ran or waited.
                where = own.divide("task_wall", part=_COMMON_PART).describe()
            elif path is not None:
                where = profile.divide(part=_COMMON_PART).describe()
            else:
                where = "it was on no thread whenever samples were taken"
        if waits_in:
            where += f"; when it was last looked at, it waited in {waits_in}"
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
                    "allocated": allocated,
                    "heap": heap,
                    "info": dict(slow.info),
                    "profile": path,
                    "where": where,
                    "waits_in": waits_in,
                }
            },
        )


def _allocated(slow: request, number: int, began_ns: int) -> tuple[str, int | None, str | None]:
    """Return what a request allocated: in words, in bytes, and the file that tells of it."""
    found = native().heap_of_request(number, began_ns, program_name())
    if found is None:
        return "", None, None
    profile, is_whole = _profile.Profile(found[0]), found[1]
    size = profile.totals["alloc_space"]
    text = native().format_value
    words = f", allocated {'about' if is_whole else 'at least'} {text(size, 'bytes')}"
    for row in profile.top(1, by="alloc_space", lines=True):
        words += f", {text(row.self_value, 'bytes')} of it in {row.name} ({row.file}:{row.line})"
    return words, size, _write(profile, f"slow-{slow.route}-{number}", ".heap.pb.gz")


def _tell_growth(before: float, after: float) -> None:
    """Tell that memory has grown; the process may be killed for it at any moment."""
    # First what tells most of it.
    heap_path = _write_heap("rss")
    account = memory_account()
    path = _write_recent("rss", 120.0)
    tell(
        *("rprof.watch", "WARNING"),
        "memory has grown from %.0f to %.0f MiB; %s%s\n%s",
        *(before / 2**20, after / 2**20, _written(path)),
        *(f"; heap: {heap_path}" if heap_path else "", account),
        extra={
            "rprof": {
                "kind": "rss",
                "from": before,
                "to": after,
                "profile": path,
                "heap": heap_path,
                "account": account._asdict(),
            }
        },
    )


def _find(number: int) -> request | None:
    """Return a request that was looked at; it may have ended since."""
    slow = watched.get(number)
    if slow is None:
        slow = next((ended for ended, known, *_ in tuple(pending) if known == number), None)
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


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" if line else "\n" for line in text.splitlines())


def _written(path: str | None) -> str:
    return f"profile: {path}" if path else "no profile"


def _write_recent(name: str, seconds: float) -> str | None:
    try:
        return _write(recent(seconds), name)
    except RprofError:
        return None


def _write_heap(name: str) -> str | None:
    if native().heap_figures() is None:
        return None
    try:
        return _write(heap(), name, ".heap.pb.gz")
    except RprofError:
        return None


def _write(profile: Profile, name: str, suffix: str = ".pb.gz") -> str | None:
    directory = output_directory() or _directory
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")[:80]
    # Not by the clock that Python tells, which tests freeze: names would repeat.
    ended_ns = profile.time_ns + profile.duration_ns
    file = expand(f"{slug}-{{pid}}-{{time}}{suffix}", program_name(), 1, ended_ns)
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
