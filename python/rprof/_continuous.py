"""Continuous profiling: ``rprof.start``, its end, and how it is doing."""

# Imports nothing that the interpreter has not imported by itself, as _config.

import os

# Loaded with this one: when a dump is asked for it may be too late.
from . import _dumps  # noqa: F401
from ._account import MemoryAccount, account_in_passing
from ._config import UNSET, Config, given_options, program_name, resolve
from ._loading import as_path, native
from ._process import Continuous, current, lasting, log, report_trouble
from ._recordings import begin_flight, begin_output, end_flight, finished, leave_unless_writing
from ._rows import NamedTuple
from .errors import RprofError, RprofOSError, RprofStateError, RprofTypeError, RprofValueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

    from ._profile import Profile

__all__ = [
    "LockStatus",
    "MemoryStatus",
    "Status",
    "TaskSteps",
    "flush",
    "heap",
    "is_running",
    "output_directory",
    "recent",
    "start",
    "start_if_possible",
    "status",
    "stop",
    "task_steps",
]

# Our threads, as their counters are called.
_THREADS = ("sampler", "writer", "names")


class MemoryStatus(NamedTuple):
    """How the heap is being sampled, since that began."""

    rate: float
    """Bytes between two samples by now."""
    samples: int
    """Samples taken."""
    lost: int
    """Samples that were not taken because another thread was taking one."""
    live: int
    """Samples of blocks that are in use."""
    live_limit: int
    """As many of these are kept; were there more, the rate would be doubled."""
    overflow: int
    """Samples whose stacks found no room, in ``<overflow>``."""
    own_cpu_seconds: float
    """CPU time spent on samples."""
    own_bytes: int
    """Memory of the tables, once all of it is in use."""
    displaced: int
    """Times another hook in the allocators took the place of ours; what was known of blocks in use
    was forgotten then."""
    account: MemoryAccount
    """Who has the memory of the process now."""


class LockStatus(NamedTuple):
    """Locks since they note who takes them; only ``threading.Lock`` does.

    A thread that waits for a lock that it has taken itself waits to be told something, as
    ``Condition.wait`` does, and is not counted. Before CPython 3.13 ``Thread.join`` is counted.
    """

    problem: str
    """Why they cannot note it, so that all is as with ``locks="sampled"``; empty if they do."""
    contended: int | None
    """Times a thread found a lock taken, and had it then; None if that is not counted."""
    given_up: int | None
    """Times it did not have it: it only tried, or did not wait any longer."""
    waited_seconds: float | None
    """How long both took, until the thread went on."""


class Status(NamedTuple):
    """How the profiler itself is doing. Counters cover this process since its first recording."""

    running: bool
    """Whether continuous profiling is on."""
    engine: str
    """The engine that takes the snapshots; empty before the first recording."""
    engine_reason: str
    """Why this engine."""
    rate: float
    """Asked ticks per second (Hz) of continuous profiling; 0 when it is off."""
    achieved_rate: float
    """Ticks per second (Hz) since continuous profiling began."""
    late: int
    """Ticks that were missed; their time went to the next one. Those are among them that were left
    out while nothing happened, if something had happened by the next look."""
    skipped: int
    """Ticks at which no snapshot could be taken."""
    incomplete: int
    """Stacks that could not be read whole."""
    overflow: int
    """Stacks beyond ``max_nodes``, folded into ``<overflow>``."""
    unasked_locks: int
    """Locks, counted at each look, of which nobody was asked who holds them, because too many were
    waited for, or too many threads might have had them: they are in ``<unknown holder>``."""
    gaps: int
    """Times the whole process stood still; that time is credited to no stack."""
    own_cpu_seconds: float
    """CPU time of rprof's own threads."""
    own_bytes: int
    """Memory held in call trees and caches, estimated."""
    hold_max_seconds: float
    """The longest the GIL was held for one look at the threads."""
    windows: int
    """Files written."""
    merged_windows: int
    """Windows that could not be written in time and were merged into the next."""
    files: list[str]
    """Files of this process that are in place, oldest first."""
    last_error: str | None
    """The newest trouble in words; None if there was none."""
    endpoint: str
    """Where ``rprof.serve`` answers in this process; empty if it does not."""
    refused_threads: int
    """Times the system refused rprof a thread, as at a limit of processes and threads, or had no
    memory for one."""
    unattended_seconds: float
    """Time in which nobody took samples because no thread could be had; credited to no stack."""
    memory: MemoryStatus | None
    """How the heap is being sampled; None if it is not."""
    locks: LockStatus | None
    """How often locks were waited for; None without ``locks="exact"``."""


def start(
    output: str | os.PathLike[str] | None = UNSET,
    *,
    rate: float = UNSET,
    window: float = UNSET,
    engine: str = UNSET,
    max_overhead: float = UNSET,
    keep_files: int = UNSET,
    keep_bytes: int = UNSET,
    max_nodes: int = UNSET,
    max_depth: int = UNSET,
    threads: "str | Sequence[str]" = UNSET,
    recent: float = UNSET,
    recent_bytes: int = UNSET,
    exit_hooks: bool = UNSET,
    memory: "bool | int | None" = UNSET,
    task_steps: bool = UNSET,
    locks: str | None = UNSET,
    **unknown: "Any",
) -> None:
    """Profile this process continuously, until ``stop()`` or the end of the process.

    What is not given is taken from the variable ``RPROF_<OPTION>``, else from the default.

    Args:
        output: A directory, which gets a file for each window (default ``"rprof/"``); a path
            ending in ``.pb.gz``, which is written once at the end; or ``None`` to keep the profile
            in memory for ``stop()``. ``{program}``, ``{pid}``, ``{time}`` and ``{seq}`` in a file
            name are filled in; with ``{seq}`` there is a file for each window. A name with
            ``{pid}``, ``{time}`` or ``{seq}`` that is taken gets another number. A relative path is
            that of the working directory now.
        rate: Ticks per second, 0.01 to 10,000 Hz (default 100).
        window: Length of a window, 0.005 s to a year (default 60).
        engine: ``"direct"`` reads stacks without the GIL, ``"gil"`` with it; ``"auto"`` (default)
            takes ``direct`` where its self-test passes, else ``gil``.
        max_overhead: CPU time rprof may use, as a fraction of one core (default 0.01); the rate is
            lowered to keep it. 0 is no limit.
        keep_files: Files kept of this process, and of its dead predecessors (default 60); other
            processes that live keep their own.
        keep_bytes: Bytes kept of all processes of this program (default 256 MiB).
        max_nodes: Nodes of one window's call tree (default 200,000).
        max_depth: Frames of one stack; the middle of a deeper one is left out (default 512).
        threads: ``"all"`` (default), ``"current"``, ``"main"`` (the main thread, whatever it is
            called) or a list of names with ``*`` and ``?``.
        recent: Seconds kept in memory for ``rprof.recent()`` (default 300); 0 keeps none.
        recent_bytes: Memory for that, in bytes (default 16 MiB).
        exit_hooks: Whether the last window is also written at ``os._exit``, and at SIGTERM where
            the program does not handle it (default True). The end then takes up to 0.2 s.
        memory: ``True`` also samples allocations, with a file of their own beside each window's
            (``.heap.pb.gz``): who allocated how much, and what of it is in use. A number is the
            bytes between two samples, 1 KiB to 1 GiB; ``True`` has it chosen. ``None`` (default)
            hooks nothing.
        task_steps: Whether steps of asyncio's tasks are timed (default False): ``task_steps()``.
        locks: ``"sampled"`` (default) tells which locks threads wait for and whose; ``"exact"`` has
            each ``Lock`` note who takes it, for some ns, and counts waits; or ``None``.
        **unknown: Refused, with a list of the options.

    Raises:
        RprofTypeError: An unknown option or a value of the wrong type.
        RprofValueError: A value out of range.
        RprofStateError: Profiling is on already with other options.
        RprofOSError: The output cannot be written.
    """
    config = resolve(given_options(locals()))
    if callable(config.threads):
        raise RprofValueError(
            "threads=callable works for rprof.profile() only: continuous profiles are written by a "
            "native thread that runs no Python code; use a list of thread names"
        )
    state = current()
    with native().take_turn():
        if state.continuous is not None:
            if state.continuous.config == config:
                log().warning("rprof.start(): profiling is on already with this configuration")
                return
            raise RprofStateError(
                "profiling is on already with another configuration; call rprof.stop() first "
                f"(on: {_describe(state.continuous.config)}; asked: {_describe(config)})"
            )
        _begin_continuous(config, config.output)


def _begin_continuous(config: Config, output: str | None) -> None:
    state = current()
    ticks, age_ns = native().counters()["ticks"], native().age_ns()
    has_flight = state.flight is not None
    recording = None
    try:
        recording = begin_output(config._replace(output=output))
        state.continuous = Continuous(
            recording, config, lasting(output), ticks, age_ns or native().age_ns()
        )
        if config.recent:
            begin_flight(config)
        if config.task_steps:
            native().begin_task_steps()
    except BaseException:
        # What has begun ends with its owner, which the exception's traceback may hold for long.
        state.continuous = None
        if recording is not None:
            recording.abandon()
        if not has_flight:
            state.flight = None
        raise


def start_if_possible(**given: "Any") -> None:
    """Start as ``start`` does; if that cannot be, the program goes on and the log tells why.

    Raises:
        RprofTypeError, RprofValueError: As for ``start``.
    """
    try:
        start(**given)
    except (RprofStateError, RprofOSError) as error:
        log().warning("not profiling this process: %s", error)


def _describe(config: Config) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in config._asdict().items())


def stop() -> "Profile":
    """End continuous profiling and return its last window, which is also written.

    Raises:
        RprofStateError: Profiling is not on.
    """
    state = current()
    continuous = state.continuous
    if continuous is None:
        raise _off()
    # An exception of a signal's handler may come between any two instructions. What has ended is
    # forgotten last: until then another call finds all as it was, and gets the same answer.
    try:
        outcome = continuous.recording.stop()
    except RprofError:
        # It cannot be ended any better.
        state.continuous = None
        end_flight()
        raise
    with native().take_turn():
        if state.continuous is not continuous or outcome is None:
            # Ended by another thread, or with the process.
            raise _off()
        if state.flight is not None and not state.is_watching:
            state.flight.stop()
            state.flight = None
        state.continuous = None
        native().end_task_steps()
    leave_unless_writing()
    return finished(outcome)


def _off() -> RprofStateError:
    return RprofStateError("profiling is not on; call rprof.start() first")


class TaskSteps(NamedTuple):
    """What is known of the steps of one coroutine function; times in seconds."""

    coroutine: str
    """``module.qualname`` of the function that the tasks were made of; ``<other>`` for those beyond
    2,048. The steps of what it awaits are its own."""
    steps: int
    """Steps that have ended: from where a task goes on to where it next gives way."""
    run: float
    """How long they took, by the clock."""
    cpu: float
    """CPU time of these. It is measured of steps of 1 ms and more, to 50 µs; shorter ones count as
    computing."""
    longest: float
    """The longest step."""
    stalls: int
    """Steps longer than 0.1 s, in which nothing else of their event loop could go on."""


def task_steps() -> list[TaskSteps]:
    """Return how long the steps of asyncio's tasks took since the start, most time first.

    Each step is counted, none is sampled. Not seen are tasks that are written in Python, the first
    step of an eager task, and a task that waited already when the first new one was made.

    Raises:
        RprofStateError: Steps are not counted: ``rprof.start(task_steps=True)``.
    """
    continuous = current().continuous
    if continuous is None or not continuous.config.task_steps:
        raise RprofStateError("steps are not counted; call rprof.start(task_steps=True) first")
    return [
        TaskSteps(coroutine, steps, run_ns / 1e9, cpu_ns / 1e9, longest_ns / 1e9, stalls)
        for coroutine, steps, run_ns, cpu_ns, longest_ns, stalls in native().task_step_figures()
    ]


def flush() -> "Path | None":
    """Close the current window now and return the file it was written to.

    Returns:
        The file, or None if there is no output or it could not be written (a warning on the
        ``rprof`` logger says why; what was recorded is kept and written with the next window).

    Raises:
        RprofStateError: Profiling is not on.
    """
    state = current()
    continuous = state.continuous
    if continuous is None:
        raise _off()
    _, path, problem = continuous.recording.rotate()
    if problem is not None or native().try_again():
        report_trouble(state)
    return as_path(path) if path is not None else None


def is_running() -> bool:
    """Return whether continuous profiling is on in this process."""
    return current().continuous is not None


def status() -> Status:
    """Return how the profiler itself is doing."""
    state = current()
    report_trouble(state)
    counters = native().counters()
    continuous = state.continuous
    achieved = 0.0
    if continuous is not None:
        seconds = (native().age_ns() - continuous.age_at_start_ns) / 1e9
        achieved = (counters["ticks"] - continuous.ticks_at_start) / seconds if seconds else 0.0
    engine, engine_reason = native().engine()
    figures, lock_figures = native().heap_figures(), native().lock_figures()
    return Status(
        running=continuous is not None,
        engine=engine,
        engine_reason=engine_reason or "no recording yet",
        rate=continuous.config.rate if continuous is not None else 0.0,
        achieved_rate=achieved,
        late=counters["late"],
        skipped=counters["skipped"],
        incomplete=counters["incomplete"],
        overflow=counters["overflow"],
        unasked_locks=counters["unasked_locks"],
        gaps=counters["gaps"],
        own_cpu_seconds=sum(counters[f"{name}_cpu_ns"] for name in _THREADS) / 1e9,
        own_bytes=counters["own_bytes"],
        hold_max_seconds=counters["hold_max_ns"] / 1e9,
        windows=counters["windows"],
        merged_windows=counters["merged_windows"],
        files=native().kept_files(),
        last_error=native().last_error(),
        endpoint=state.endpoint_address,
        refused_threads=counters["refused_threads"] + counters["starved_threads"],
        unattended_seconds=counters["unattended_ns"] / 1e9,
        memory=None if figures is None else MemoryStatus(**figures, account=account_in_passing()),
        locks=None if lock_figures is None else LockStatus(**lock_figures),
    )


def heap() -> "Profile":
    """Return what was allocated since ``memory=`` is on, and what of it is in use.

    The measures are ``alloc_objects``, ``alloc_space``, ``inuse_objects`` and ``inuse_space``, all
    of them estimates from samples. Of what was allocated before, nothing is known. It runs no
    collection: what waits for one is in use.

    Raises:
        RprofStateError: The heap is not being sampled.
    """
    from ._profile import Profile

    current()
    return Profile(native().heap_profile(program_name()))


def recent(seconds: float = 60.0) -> "Profile":
    """Return what was recorded in the last seconds: what has been slow, seen afterwards.

    ``rprof.start()`` keeps the last ``recent=`` seconds (300) in at most ``recent_bytes=`` of
    memory (16 MiB). The beginning is exact to a second. Seconds are those of the monotonic clock:
    setting the system's clock changes nothing, and while the machine is suspended none pass.

    Raises:
        RprofStateError: Nothing keeps the last minutes, or nothing was recorded in that time.
        RprofValueError: ``seconds`` is not positive.
    """
    from ._profile import Profile

    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise RprofTypeError(f"seconds must be a number, not {seconds!r}")
    if not 0 < seconds <= 1e9:
        raise RprofValueError(f"seconds={seconds!r} is out of range; choose for example 60")
    current()
    return Profile(native().recent(round(seconds * 1e9)))


def output_directory() -> str | None:
    """Return the directory that continuous profiling writes to, if it does."""
    continuous = current().continuous
    output = continuous.output if continuous is not None else None
    if output is None:
        return None
    return (os.path.dirname(output) or ".") if output.endswith(".pb.gz") else output
