"""The tasks of a running process, from what its endpoint answers: grouped by where they wait."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from .._text import inert, short_file
from ..errors import RprofOSError
from ._fetch import fetch

__all__ = ["Tasks", "ask_for_tasks", "describe_tasks"]

_Task = dict[str, Any]

_MAX_LOCKS = 8
_MAX_CIRCLES = 4
# Of a chain of calls: the outermost and the innermost that are named.
_OUTER, _INNER = 2, 4
_MAX_NAMES = 3
_OWN_FUNCTIONS = "asyncio."
_UNKNOWN = "<unknown holder>"


class Tasks(NamedTuple):
    """What was seen at one moment."""

    address: str
    at: float
    """Seconds since the epoch."""
    tasks: Sequence[_Task]
    omitted: int
    """How many more are listed, of which nothing else is known."""
    circles: Sequence[Sequence[int]]
    """Tasks that wait for each other, by their places in `tasks`."""


def ask_for_tasks(address: str, timeout: float) -> Tasks:
    """Return the tasks that an endpoint tells of.

    Raises:
        RprofOSError: It does not answer, refuses, or is no endpoint of rprof.
    """
    answer = fetch(address, "/debug/pprof/threads?format=json", timeout)
    try:
        data = json.loads(answer)
        circles = [found["tasks"] for found in data["deadlocks"] if "tasks" in found]
        return Tasks(address, time.time(), data["tasks"], int(data["omitted_tasks"]), circles)
    except (ValueError, KeyError, TypeError):
        raise RprofOSError(f"{address} does not tell of tasks; is it an older rprof?") from None


def describe_tasks(seen: Tasks, n: int, fits: Callable[[Sequence[str]], bool]) -> str:
    """Return the view as plain text: `n` groups at the most, and no more than what fits."""
    groups: dict[tuple[str, ...], list[_Task]] = {}
    for task in seen.tasks:
        groups.setdefault(_group(seen.tasks, task), []).append(task)
    lines = _facts(seen)
    for circle in seen.circles[:_MAX_CIRCLES]:
        lines.append(_circle(seen.tasks, circle))
    if len(seen.circles) > _MAX_CIRCLES:
        lines.append(f"and {len(seen.circles) - _MAX_CIRCLES} more deadlocks")
    lines += _locks(seen.tasks)
    shown = number = 0
    for group, tasks in sorted(groups.items(), key=lambda item: -len(item[1]))[:n]:
        block = _block(group, tasks)
        # The first one is always shown, and one line is for what is not.
        if shown and not fits([*lines, *block, ""]):
            break
        lines += block
        shown, number = shown + 1, number + len(tasks)
    if shown < len(groups):
        lines.append(
            f"and {_counted(len(groups) - shown, 'more group')} of "
            f"{_counted(len(seen.tasks) - number, 'task')}"
        )
    return "\n".join(lines)


def _facts(seen: Tasks) -> list[str]:
    kinds = Counter(task["kind"] for task in seen.tasks)
    found = [_counted(count, kind) for kind, count in kinds.most_common()]
    text = ", ".join(found) or "no tasks"
    if seen.omitted:
        # Whether these have ended is not asked of them, nor are there no others.
        text += f" looked at, and {seen.omitted:,} more listed"
    clock = time.strftime("%H:%M:%S", time.localtime(seen.at))
    lines = [f"{seen.address} at {clock}: {text}"]
    states = Counter(task["state"] for task in seen.tasks)
    if states:
        lines.append(", ".join(f"{count:,} {state}" for state, count in states.most_common()))
    return [*lines, ""]


def _counted(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _place(frame: dict[str, Any]) -> str:
    """Return a line of a file, short."""
    return f"{short_file(frame['file'])}:{frame['line']}"


def _own(task: _Task) -> dict[str, Any] | None:
    """Return the innermost frame that is not asyncio's; where all are, the innermost."""
    frames = task["frames"]
    own = (frame for frame in frames if not frame["function"].startswith(_OWN_FUNCTIONS))
    return next(own, frames[0] if frames else None)


def _called(task: _Task) -> str:
    """Return what to call one task: its name and where it is, as far as they are known."""
    text = str(task["kind"])
    if task["name"] is not None:
        text += f' "{inert(task["name"])}"'
    own = _own(task)
    return text if own is None else f"{text} in {inert(own['function'])} ({_place(own)})"


def _lock(tasks: Sequence[_Task], task: _Task) -> str:
    """Return what a task waits for that is no task, and who keeps it; empty without."""
    lock = task["lock"]
    if lock is None:
        return ""
    text = inert(lock["name"])
    if lock["holder_index"] is not None:
        return f"{text}, held by {_called(tasks[lock['holder_index']])}"
    return f"{text}, held by {_UNKNOWN}" if lock["holder"] is not None else text


def _chain(functions: Sequence[str]) -> str:
    """Return calls, the outermost first; of very many, those between are left out."""
    names = [inert(function) for function in functions]
    omitted = len(names) - _OUTER - _INNER
    if omitted > 1:
        names[_OUTER:-_INNER] = [f"<{omitted} frames omitted>"]
    return " > ".join(names)


def _group(tasks: Sequence[_Task], task: _Task) -> tuple[str, ...]:
    """Return what tasks have in common that are shown as one: the lines of their entry."""
    frames = task["frames"]
    chain = _chain([frame["function"] for frame in reversed(frames)])
    words = task["state"] if task["kind"] == "task" else f"{task['kind']}, {task['state']}"
    if not frames and task["state"] == "running":
        chain = "its thread's stack shows where"
    lines = [words, chain]
    own = _own(task)
    if own is not None:
        place = f"at {_place(own)}"
        if own is not frames[0]:
            place += f", in {inert(frames[0]['function'])} ({_place(frames[0])})"
        lines.append(place)
    lock = _lock(tasks, task)
    if lock:
        lines.append(f"waits for {lock}")
    waiters = sorted({_root(tasks[waiter]) for waiter in task["awaited_by"]})
    if waiters:
        lines.append(f"awaited by {_listed(waiters)}")
    return tuple(lines)


def _root(task: _Task) -> str:
    """Return a task by what it began with, or its name where that is not known."""
    if task["frames"]:
        return inert(task["frames"][-1]["function"])
    return _called(task)


def _listed(words: Sequence[str]) -> str:
    more = len(words) - _MAX_NAMES
    text = ", ".join(words[:_MAX_NAMES])
    return f"{text} and {more:,} more" if more > 0 else text


def _block(group: tuple[str, ...], tasks: Sequence[_Task]) -> list[str]:
    words, chain, *rest = group
    lines = [f"{len(tasks):>7,}  {words:<9}  {chain}"]
    names = [f'"{inert(task["name"])}"' for task in tasks if task["name"] is not None]
    if names:
        rest.append(f"named {_listed(names)}")
    return lines + [f"{'':20}{line}" for line in rest]


def _locks(tasks: Sequence[_Task]) -> list[str]:
    """Return a line for each lock, or what else tasks wait to be told, with how many wait."""
    found = Counter(filter(None, (_lock(tasks, task) for task in tasks)))
    lines = [
        f"{_counted(count, 'task')} {'waits' if count == 1 else 'wait'} for {lock}"
        for lock, count in found.most_common(_MAX_LOCKS)
    ]
    if len(found) > _MAX_LOCKS:
        lines.append(f"and {_counted(len(found) - _MAX_LOCKS, 'more lock')}")
    return [*lines, ""] if lines else []


def _circle(tasks: Sequence[_Task], circle: Iterable[int]) -> str:
    waits = [f"{_called(tasks[place])} waits for {_lock(tasks, tasks[place])}" for place in circle]
    return f"deadlock: {'; '.join(waits)}"
