"""Where trio keeps which task runs, told by a specimen of which everything is known.

As `_tasks` has it of asyncio. No task is run; nothing of the program's is touched.
"""

import sys

from . import _imported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["learn"]

# What is told of by its address must not give that to another.
_kept: "list[Any]" = []


def learn(native: "Any") -> None:
    """Find out which task trio runs, once the program has imported trio."""
    _imported.learn("trio", lambda _: _tell(native), native.no_trio)


def _tell(native: "Any") -> None:
    async def nothing() -> None:
        """Be a coroutine."""

    coroutine: Any = nothing()
    try:
        _tell_of(native, coroutine)
    finally:
        coroutine.close()


def _tell_of(native: "Any", coroutine: "Any") -> None:
    run = sys.modules["trio._core._run"]
    code = run.unrolled_run.__code__
    task = object.__new__(run.Task)
    task.coro, task.name = coroutine, "a specimen of rprof's"
    objects = {
        "run code": code,
        "task": task,
        "type task": run.Task,
        "name": task.name,
        "type str": str,
        "coroutine": coroutine,
        "coroutine code": coroutine.cr_code,
    }
    if sys.version_info < (3, 11):
        objects["frame"] = coroutine.cr_frame
    _kept.extend((code, run.Task))
    told = [(key, id(value)) for key, value in objects.items()]
    native.learn_trio([*told, ("variable", code.co_varnames.index("task"))])
