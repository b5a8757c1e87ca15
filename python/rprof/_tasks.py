"""Where asyncio keeps its tasks, told by specimens of which everything is known.

Whoever reads tasks without the GIL (``src/unwind/tasks.rs``) must know where in an object what is.
That moves from version to version, and CPython publishes little of it. So objects are made here,
and their addresses and those of what they refer to are told: an offset is where the one is found
in the other. No loop runs; nothing of the program's is touched.
"""

import sys

from . import _imported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["learn"]

# What is told of by its address must not give that to another.
_kept: "list[Any]" = []


def learn(native: "Any") -> None:
    """Find out where tasks are, once the program has imported asyncio."""

    def tell(asyncio: "Any") -> None:
        itself: list[Any] = []
        telling = _tell(native, asyncio, itself)
        itself.append(telling)
        next(telling)

    _imported.learn("asyncio", tell, native.no_tasks)


class _Loop:
    """What a task asks of its loop, of which this one never calls anything."""

    context: "Any" = None
    step: "Any" = None

    def get_debug(self) -> bool:
        return False

    def call_soon(self, step: "Any", *_: "Any", context: "Any" = None) -> None:
        self.step, self.context = step, context


def _tell(native: "Any", asyncio: "Any", itself: "list[Any]") -> "Iterator[None]":
    """Tell, while running, what is known of specimens; this generator is one."""
    tasks, implementation = asyncio.tasks, sys.modules["_asyncio"]
    loop = _Loop()
    future = implementation.Future(loop=loop)

    async def wait() -> None:
        await future

    def callback(_: "Any") -> "Any":
        return future

    def generate() -> "Iterator[None]":
        yield

    name = "a specimen of rprof's"
    coroutine: Any = wait()
    created, yielding = generate(), generate()
    next(yielding)
    task = implementation.Task(coroutine, loop=loop, name=name)
    task._log_destroy_pending = False
    coroutine.send(None)
    future.add_done_callback(callback)
    objects = {
        "task": task,
        "step": loop.step,
        "coroutine": coroutine,
        "name": name,
        "context": loop.context,
        "future": future,
        "callback": callback,
        "code": callback.__code__,
        "closure": callback.__closure__,
        "cell": (callback.__closure__ or ())[0],
        "coroutine code": coroutine.cr_code,
        "created": created,
        "yielding": yielding,
        "executing": itself.pop(),
        "type coroutine": type(coroutine),
        "type generator": type(created),
        "type asyncgen": sys.modules["types"].AsyncGeneratorType,
        "type step": type(iter(future)),
        "type task": implementation.Task,
        "type future": implementation.Future,
        "type function": type(callback),
        "type method": type(loop.call_soon),
        "type builtin": type(len),
        "type partial": tasks.functools.partial,
        "type weak": tasks.weakref.ref,
        "type set": set,
        "type dict": dict,
        "type str": str,
    }
    if sys.version_info < (3, 11):
        objects["frame"] = coroutine.cr_frame
    objects.update(_waiting(asyncio, task, future))
    objects["loop key"] = sys.intern("__asyncio_running_event_loop__")
    if hasattr(tasks, "_current_tasks"):
        objects["current tasks"] = tasks._current_tasks
    told = [(key, id(value)) for key, value in objects.items()]
    told += _closures(tasks)
    sets = [getattr(tasks, known, None) for known in ("_all_tasks", "_scheduled_tasks")]
    sets = [known.data for known in sets if known is not None]
    sets.append(getattr(tasks, "_eager_tasks", None))
    _kept.append(sets)
    told += [("set", id(known)) for known in sets if known is not None]
    undo, running = _run(asyncio, loop, task)
    told += [("running", id(running)), ("loop", id(asyncio.events._get_running_loop()))]
    try:
        native.learn_tasks(told, asyncio.events._get_running_loop, tasks.current_task)
    finally:
        undo()
        objects["idle loop"].close()
    coroutine.close()
    # They refer to each other, and are to go now.
    future.remove_done_callback(callback)
    objects["getters"].clear()
    yield


def _closures(tasks: "Any") -> "list[tuple[str, int]]":
    """Return what is told of the functions that asyncio has called back."""
    told: list[tuple[str, int]] = []
    for owner, function, variable, via in (
        (tasks.gather, "_done_callback", "outer", 1),
        (tasks._wait, "_on_completion", "waiter", 0),
        (tasks.shield, "_inner_done_callback", "outer", 2),
        (tasks.as_completed, "_on_completion", "done", 0),
    ):
        for code in owner.__code__.co_consts:
            if getattr(code, "co_name", "") == function and variable in code.co_freevars:
                _kept.append(code)
                told.append(("closure code", id(code)))
                told.append(("closure variable", code.co_freevars.index(variable)))
                told.append(("closure via", via))
    return told


def _run(asyncio: "Any", loop: "Any", task: "Any") -> "tuple[Any, Any]":
    """Have asyncio take a task for the running one; return what ends that, and which it is."""
    tasks, events = asyncio.tasks, asyncio.events
    outer = events._get_running_loop()
    is_kept_by_loop = hasattr(tasks, "_current_tasks") and sys.version_info < (3, 14)
    if outer is not None and not is_kept_by_loop:
        # 3.14 and later: a thread runs one task at a time.
        current = asyncio.current_task(outer)
        if current is not None:
            return (lambda: None), current
        tasks._enter_task(outer, task)
        return (lambda: tasks._leave_task(outer, task)), task
    if outer is None:
        events._set_running_loop(loop)
    tasks._enter_task(loop, task)

    def undo() -> None:
        tasks._leave_task(loop, task)
        if outer is None:
            events._set_running_loop(None)

    return undo, task


def _waiting(asyncio: "Any", task: "Any", future: "Any") -> "dict[str, Any]":
    """Return specimens of other ways to wait than `await`; not all versions have all of them."""
    # A loop that is not made to run has nothing open.
    idle = asyncio.BaseEventLoop()
    objects: dict[str, Any] = {"idle loop": idle, "idle queue": idle._ready}
    tasks = asyncio.tasks
    queue = asyncio.Queue()
    queue._getters.append(future)
    objects.update(queue=queue, getters=queue._getters)
    objects.update({"type queue": asyncio.Queue, "type deque": type(queue._getters)})
    if hasattr(tasks, "_release_waiter"):
        # 3.10 and 3.11: what wait_for is called back by.
        objects["release"] = tasks._release_waiter
    if hasattr(asyncio, "TaskGroup"):
        # 3.11 and later.
        group = asyncio.TaskGroup()
        group._parent_task = task
        objects.update({"group": group, "group method": asyncio.TaskGroup._on_task_done})
    if hasattr(tasks, "_AsCompletedIterator"):
        # 3.13 and later.
        iterator = object.__new__(tasks._AsCompletedIterator)
        iterator._done = queue
        objects["iterator method"] = tasks._AsCompletedIterator._handle_completion
        objects["iterator"] = iterator
    note = getattr(asyncio.futures, "future_add_to_awaited_by", None)
    if note is not None:
        # 3.14 and later.
        awaited, shared, other = (type(future)(loop=future.get_loop()) for _ in range(3))
        note(awaited, task)
        note(shared, task)
        note(shared, other)
        objects.update(awaited=awaited, shared=shared, other=other)
    _kept.extend(objects.get(key) for key in ("release", "group method", "iterator method"))
    return objects
