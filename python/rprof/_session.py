"""The one place that starts and ends native recordings: continuous profiling, forks, exit.

The native module is loaded on first use, so that ``import rprof`` only defines names.
"""

# Imports nothing that the interpreter has not imported by itself, as _config.

import os
import sys
from _thread import RLock, get_native_id

# By its own name: a test that replaces os.getpid is no fork.
from os import getpid

from ._config import (
    UNSET,
    Config,
    given_options,
    import_roots,
    native_threads,
    program_name,
    resolve,
)
from ._loading import as_path, prepare
from ._loading import native as _load_native
from ._rows import NamedTuple
from .errors import RprofError, RprofStateError, RprofTypeError, RprofValueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Any

    from . import _native
    from ._profile import Profile

__all__ = [
    "Status",
    "dump",
    "dump_on_signal",
    "flush",
    "is_running",
    "recent",
    "start",
    "status",
    "stop",
]

# Our threads, as their counters are called.
_THREADS = ("sampler", "writer", "names")
# How exactly the past can be cut.
_FLIGHT_WINDOW_NS = 1_000_000_000
_PACKAGE_DIRECTORY = os.path.dirname(os.path.abspath(__file__)) + os.sep


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


class _Continuous(NamedTuple):
    recording: int
    config: Config
    ticks_at_start: int
    age_at_start_ns: int


class EndpointRequest(NamedTuple):
    """What ``rprof.serve`` was asked for, to be asked for again in a forked child."""

    address: str
    token: str | None

    def __repr__(self) -> str:
        # Where tracebacks show the values of variables, they are no place for a token.
        return f"EndpointRequest(address={self.address!r}, token={self.token and '***'!r})"

    @property
    def is_for_each_process(self) -> bool:
        """Whether a child can listen as well: at a free port, or a path with its own id."""
        return self.address.endswith(":0") or "{pid}" in self.address


class _State:
    """What this process has going on; replaced as a whole in a forked child."""

    def __init__(self) -> None:
        self.pid = getpid()
        self.lock = RLock()
        self.continuous: _Continuous | None = None
        self.recordings: set[int] = set()
        self.flight: int | None = None
        self.is_watching = False
        self.reported_error: str | None = None
        self.dumps = False
        self.endpoint: EndpointRequest | None = None
        self.endpoint_address = ""


# Whether this process was forked by a thread that was not the main one. CPython up to 3.12 ends
# with "thread state already initialized" when a thread state is made while there is no other
# (Python/pystate.c, new_threadstate), as in such a child when that thread ends; the sampler then
# makes one beforehand and keeps it.
_forked_from_thread = False
_state = _State()
_forker_is_main = True
_hooks_installed = False
_threading_hooked = False
_follows_logging = True
_watch_hooks_installed = False


class _Nobody:
    """The logger of a program without ``logging``: nobody could have asked to see anything."""

    def info(self, *_: object, **__: object) -> None:
        pass

    warning = info


def log() -> "Any":
    """Return the logger of rprof, which prints nothing unless the application wants it.

    ``logging`` is not imported for it: that would import ``threading`` into programs that have no
    use for either, and might have to read files that are not there any more.
    """
    get = getattr(sys.modules.get("logging"), "getLogger", None)
    if get is None:
        return _Nobody()
    logger = get("rprof")
    if not logger.handlers:
        # Where the application has set up no logging, Python would print warnings to stderr.
        logger.addHandler(sys.modules["logging"].NullHandler())
    return logger


def _current() -> _State:
    """Return this process's state, a new one if the process was forked without Python's hooks."""
    global _state
    if _state.pid != getpid():
        _state = _State()
    return _state


def _install_hooks(native: "Any") -> None:
    global _hooks_installed
    if not _hooks_installed:
        _hooks_installed = True
        import atexit

        atexit.register(_at_exit)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
            _hook_parent(native)
    _hook_threading()


def _hook_parent(native: "Any") -> None:
    """Have the threads start again after a fork.

    On CPython 3.13 by a hook behind those of ``logging``. They are Python functions, and before
    ours they would be that next instruction for which ``after_fork_in_parent_later`` waits. So once
    ``logging`` has been imported, another hook is added, and the last one alone acts.
    """
    global _follows_logging
    is_later = sys.version_info[:2] == (3, 13)
    _follows_logging = not is_later or "logging" in sys.modules
    native.expect_parent_hook()
    os.register_at_fork(
        after_in_parent=(
            native.after_fork_in_parent_later if is_later else native.after_fork_in_parent
        )
    )


def _hook_threading() -> None:
    """Have the end of a child of ``multiprocessing`` noticed, once ``threading`` is there.

    They end by ``os._exit``, without ``atexit`` (``multiprocessing.popen_fork``), and what forks
    them has imported ``threading``. ``_register_atexit`` is private, in CPython 3.9 and later, and
    refuses once shutdown has begun; without it only those children lose their last window.
    """
    global _threading_hooked
    register = getattr(sys.modules.get("threading"), "_register_atexit", None)
    if _threading_hooked or register is None:
        return
    _threading_hooked = True
    try:
        register(_at_threading_exit)
    except RuntimeError:
        return


def _at_threading_exit() -> None:
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        _at_exit()


def _at_exit() -> None:
    state = _current()
    close_endpoint()
    end_watching()
    with state.lock:
        recordings = sorted(state.recordings)
        state.recordings.clear()
        state.continuous = state.flight = None
    if not recordings:
        return
    native = _load_native()
    for recording in recordings:
        try:
            _, _, problem = native.stop_recording(recording)
        except RprofError as error:
            problem = error
        if problem is not None:
            log().warning("the last window could not be written: %s", problem)


def _before_fork() -> None:
    global _forker_is_main
    # By the kernel's ids: gevent replaces threading.get_ident() with the greenlet's. Where the main
    # thread does not have the id of the process, "no" costs a kept thread state and no more.
    _forker_is_main = get_native_id() == os.getpid()
    state = _current()
    if state.recordings or state.dumps or state.endpoint or state.is_watching:
        native = _load_native()
        if not _follows_logging and "logging" in sys.modules:
            _hook_parent(native)
        native.before_fork()


def _after_fork_in_child() -> None:
    global _state, _forked_from_thread
    _forked_from_thread = _forked_from_thread or not _forker_is_main
    parent = _state
    if not (parent.recordings or parent.dumps or parent.endpoint or parent.is_watching):
        _state = _State()
        return
    native = _load_native()
    native.after_fork_in_child()
    _hook_threading()
    _state = _State()
    _state.dumps = parent.dumps
    if parent.continuous is not None:
        config = parent.continuous.config
        try:
            _begin_continuous(config._replace(output=_child_output(config.output)))
        except (RprofError, OSError, RuntimeError) as error:
            # A child that cannot be profiled must work all the same.
            log().warning("a forked child is not profiled: %s", error)
    if parent.endpoint is not None and parent.endpoint.is_for_each_process:
        try:
            open_endpoint(parent.endpoint)
        except (RprofError, OSError, RuntimeError) as error:
            log().warning("a forked child has no endpoint: %s", error)


def _child_output(output: str | None) -> str | None:
    """Return the output of a forked child: a single file gets the child's pid into its name."""
    if output is None or not output.endswith(".pb.gz") or "{pid}" in output:
        return output
    return output.removesuffix(".pb.gz") + "-{pid}.pb.gz"


def _tracing_possible() -> bool:
    return (
        "_tracemalloc" in sys.modules
        or "tracemalloc" in sys._xoptions
        or bool(os.environ.get("PYTHONTRACEMALLOC"))
    )


def begin(
    config: Config, *, window_ns: int | None = None, output: str | None = None, **requests: "Any"
) -> int:
    """Start a native recording and remember it."""
    native = _load_native()
    # While it can be loaded: the end of a recording needs it.
    prepare()
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        raise RprofStateError(
            "rprof cannot sample a free-threaded interpreter yet: without the GIL this version's "
            "engine could read frames that are being freed; run with PYTHON_GIL=1"
        )
    _install_hooks(native)
    return begin_again(_options(config, window_ns=window_ns, output=output, **requests))


def _options(
    config: Config, *, window_ns: int | None, output: str | None, **requests: "Any"
) -> "dict[str, Any]":
    return {
        "period_ns": max(1, round(1e9 / config.rate)),
        "max_overhead": config.max_overhead,
        "max_nodes": config.max_nodes,
        "max_depth": config.max_depth,
        "threads": native_threads(config),
        "window_ns": window_ns,
        "program": program_name(),
        "output": output,
        "keep_files": config.keep_files,
        "keep_bytes": config.keep_bytes,
        "engine": config.engine,
        "import_roots": import_roots(),
        "own_directory": _PACKAGE_DIRECTORY,
        "keep_thread_state": _forked_from_thread or _tracing_possible(),
        **requests,
    }


def rehearse(config: Config) -> "dict[str, Any]":
    """Begin a block's recording and end it, and return what ``begin_again`` needs for another.

    That one asks nothing any more of ``os`` and imports nothing: a test may have replaced all of
    it. Its end is ``end_output``.
    """
    end_output(begin(config))
    return _options(config, window_ns=None, output=None)


def begin_again(options: "dict[str, Any]") -> int:
    """Start a native recording with the options of an earlier one, and remember it."""
    recording: int = _load_native().start_recording(**options)
    _current().recordings.add(recording)
    return recording


def begin_output(config: Config) -> int:
    """Start a native recording that writes to the configured output, window by window."""
    rotates = config.output is not None and _load_native().output_rotates(config.output)
    return begin(
        config,
        window_ns=round(config.window * 1e9) if rotates else None,
        output=config.output,
    )


def begin_growing(config: Config, path: str) -> int:
    """Start a native recording whose one file is written again with each window, whole."""
    return begin(config, window_ns=round(config.window * 1e9), output=path, grows=True)


def _begin_continuous(config: Config) -> None:
    native = _load_native()
    ticks, age_ns = native.counters()["ticks"], native.age_ns()
    recording = begin_output(config)
    _current().continuous = _Continuous(recording, config, ticks, age_ns or native.age_ns())
    if config.recent:
        begin_flight(config)


def begin_flight(config: Config) -> None:
    """Keep the last minutes in memory, unless they are kept already."""
    state = _current()
    with state.lock:
        if state.flight is None:
            state.flight = begin(
                config,
                window_ns=_FLIGHT_WINDOW_NS,
                requests_apart=True,
                ring_ns=round(config.recent * 1e9),
                ring_bytes=config.recent_bytes,
            )


def native() -> "Any":
    """Return the native module, for the modules that drive it on behalf of this one."""
    module = _load_native()
    _install_hooks(module)
    return module


def watch(
    report: "Callable[[list[dict[str, Any]]], None]", *, keep_thread_state: bool = False
) -> None:
    """Begin to watch; `report` is called by a thread of ours with what has been seen.

    `keep_thread_state`: that thread is to be the same one to the interpreter in all calls.
    """
    global _watch_hooks_installed
    module = native()
    if not _watch_hooks_installed:
        _watch_hooks_installed = True
        import atexit

        # Both before what logging does: at the end it closes its handlers, and at a fork it holds
        # its lock, for which a report may be waiting. What is registered later comes earlier.
        atexit.register(end_watching)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=module.pause_reports)
    module.start_watch(import_roots(), _PACKAGE_DIRECTORY)
    keep_thread_state = keep_thread_state or _forked_from_thread or _tracing_possible()
    module.start_reports(report, keep_thread_state)
    _current().is_watching = True


def is_watching() -> bool:
    """Return whether what is seen in this process is reported."""
    return _current().is_watching


def end_watching() -> None:
    """End watching and the thread that reports, at the end of the process."""
    state = _current()
    if state.is_watching:
        state.is_watching = False
        module = _load_native()
        if not module.stop_reports():
            from ._records import abandon

            abandon()
        module.stop_watch()


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
    return Profile(_load_native().recent(round(seconds * 1e9)))


def recent_of(since_ns: int, requests: list[int]) -> "Profile":
    """Return what was recorded of these requests since a time of the monotonic clock in ns."""
    from ._profile import Profile

    return Profile(_load_native().recent_of(since_ns, requests))


def output_directory() -> str | None:
    """Return the directory that continuous profiling writes to, if it does."""
    continuous = _current().continuous
    output = continuous.config.output if continuous is not None else None
    if output is None:
        return None
    return (os.path.dirname(output) or ".") if output.endswith(".pb.gz") else output


def _report_trouble(state: _State) -> None:
    """Log the newest trouble of the native threads, once; they cannot log themselves."""
    error = _load_native().last_error()
    logger = log()
    if error is not None and error != state.reported_error and not isinstance(logger, _Nobody):
        state.reported_error = error
        logger.warning("%s", error)


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
    **unknown: "Any",
) -> None:
    """Profile this process continuously, until ``stop()`` or the end of the process.

    What is not given is taken from the variable ``RPROF_<OPTION>``, else from the default.

    Args:
        output: A directory, which gets a file for each window (default ``"rprof/"``); a path
            ending in ``.pb.gz``, which is written once at the end; or ``None`` to keep the profile
            in memory for ``stop()``. ``{program}``, ``{pid}``, ``{time}`` and ``{seq}`` in a file
            name are filled in; with ``{seq}`` there is a file for each window.
        rate: Ticks per second, 0.01 to 10,000 Hz (default 100).
        window: Length of a window, 0.005 s to a year (default 60).
        engine: ``"direct"`` reads stacks without the GIL, ``"gil"`` with it; ``"auto"`` (default)
            takes ``direct`` where its self-test passes, else ``gil``.
        max_overhead: CPU time rprof may use, as a fraction of one core (default 0.01); the rate is
            lowered to keep it. 0 is no limit.
        keep_files: Files kept of this process, and of its dead predecessors (default 60).
        keep_bytes: Bytes kept of all processes of this program (default 256 MiB).
        max_nodes: Nodes of one window's call tree (default 200,000).
        max_depth: Frames of one stack; the middle of a deeper one is left out (default 512).
        threads: ``"all"`` (default), ``"current"``, ``"main"`` (the main thread, whatever it is
            called) or a list of names with ``*`` and ``?``.
        recent: Seconds of which all samples are kept in memory for ``rprof.recent()`` (default
            300); 0 keeps none.
        recent_bytes: Memory for that, in bytes (default 16 MiB).
        **unknown: Refused, with a list of the options.

    Raises:
        RprofTypeError: An unknown option or a value of the wrong type.
        RprofValueError: A value out of range.
        RprofStateError: Profiling is on already with other options.
        RprofOSError: The output cannot be written.
    """
    given = given_options(
        output=output,
        rate=rate,
        window=window,
        engine=engine,
        max_overhead=max_overhead,
        keep_files=keep_files,
        keep_bytes=keep_bytes,
        max_nodes=max_nodes,
        max_depth=max_depth,
        threads=threads,
        recent=recent,
        recent_bytes=recent_bytes,
        **unknown,
    )
    config = resolve(given)
    if callable(config.threads):
        raise RprofValueError(
            "threads=callable works for rprof.profile() only: continuous profiles are written by a "
            "native thread that runs no Python code; use a list of thread names"
        )
    state = _current()
    with state.lock:
        if state.continuous is not None:
            if state.continuous.config == config:
                log().warning("rprof.start(): profiling is on already with this configuration")
                return
            raise RprofStateError(
                "profiling is on already with another configuration; call rprof.stop() first "
                f"(on: {_describe(state.continuous.config)}; asked: {_describe(config)})"
            )
        _begin_continuous(config)


def _describe(config: Config) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in config._asdict().items())


def stop() -> "Profile":
    """End continuous profiling and return its last window, which is also written.

    Raises:
        RprofStateError: Profiling is not on.
    """
    state = _current()
    with state.lock:
        if state.continuous is None:
            raise RprofStateError("profiling is not on; call rprof.start() first")
        recording = state.continuous.recording
        state.continuous = None
        state.recordings.discard(recording)
        if state.flight is not None and not state.is_watching:
            end(state.flight)
            state.flight = None
    return _finish(_load_native().stop_recording(recording))


def flush() -> "Path | None":
    """Close the current window now and return the file it was written to.

    Returns:
        The file, or None if there is no output or it could not be written (a warning on the
        ``rprof`` logger says why; what was recorded is kept and written with the next window).

    Raises:
        RprofStateError: Profiling is not on.
    """
    state = _current()
    continuous = state.continuous
    if continuous is None:
        raise RprofStateError("profiling is not on; call rprof.start() first")
    _, path, problem = _load_native().rotate_recording(continuous.recording)
    if problem is not None:
        _report_trouble(state)
    return as_path(path) if path is not None else None


def _finish(outcome: "tuple[_native.Profile, str | None, Exception | None]") -> "Profile":
    from ._profile import Profile

    native_profile, _, problem = outcome
    if problem is not None:
        _report_trouble(_current())
    return Profile(native_profile)


def is_running() -> bool:
    """Return whether continuous profiling is on in this process."""
    return _current().continuous is not None


def status() -> Status:
    """Return how the profiler itself is doing."""
    state = _current()
    native = _load_native()
    counters = native.counters()
    continuous = state.continuous
    achieved = 0.0
    if continuous is not None:
        seconds = (native.age_ns() - continuous.age_at_start_ns) / 1e9
        achieved = (counters["ticks"] - continuous.ticks_at_start) / seconds if seconds else 0.0
    _report_trouble(state)
    engine, engine_reason = native.engine()
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
        gaps=counters["gaps"],
        own_cpu_seconds=sum(counters[f"{name}_cpu_ns"] for name in _THREADS) / 1e9,
        own_bytes=counters["own_bytes"],
        hold_max_seconds=counters["hold_max_ns"] / 1e9,
        windows=counters["windows"],
        merged_windows=counters["merged_windows"],
        files=native.kept_files(),
        last_error=native.last_error(),
        endpoint=state.endpoint_address,
    )


def dump() -> str:
    """Return every thread's stack now, the innermost call first.

    Works whether or not profiling is on. Needs the GIL, as every Python call does.
    """
    native = _load_native()
    threads = native.dump_threads(import_roots(), _PACKAGE_DIRECTORY)
    own_id, main_id = get_native_id(), native.main_thread_id()
    blocks = []
    for thread_id, name, doing, labels, frames in threads:
        state = "current" if thread_id == own_id else doing
        state = state and f", {state}"
        said = ", ".join(f"{key}={value}" for key, value in labels)
        said = said and f" [{said}]"
        main = " (the main thread)" if thread_id == main_id and name != "MainThread" else ""
        lines = [f'Thread {thread_id} "{name}"{main}{state}{said} (most recent call first):']
        lines += [f'  File "{file}", line {line}, in {function}' for function, file, line in frames]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def dump_on_signal(signal: int | None, path: str | os.PathLike[str] | None = None) -> None:
    """Write every thread's stack whenever a signal comes, even while the GIL is stuck.

    A native thread does it, and needs no GIL: it answers while a C extension holds the GIL for
    ever, and while all threads wait for each other. Each thread is shown with what it does: holds
    the GIL, waits for the GIL, runs without it, or is blocked.

    Args:
        signal: For example ``signal.SIGUSR2``; what was done on it before is replaced. ``None``
            ends dumping and restores that.
        path: File that dumps are appended to (made with mode 0600); ``None`` is stderr.

    Raises:
        RprofStateError: The direct engine cannot be used here; the message says why.
        RprofValueError: The signal cannot be handled.
    """
    native = _load_native()
    if signal is None:
        native.no_dump_on_signal()
        _current().dumps = False
        return
    if isinstance(signal, bool) or not isinstance(signal, int):
        raise RprofTypeError(f"signal must be a number such as signal.SIGUSR2, not {signal!r}")
    if path is not None:
        path = os.path.abspath(os.fspath(path))
    _install_hooks(native)
    _current().dumps = True
    native.dump_on_signal(int(signal), path, import_roots(), _PACKAGE_DIRECTORY)


def open_endpoint(request: EndpointRequest) -> str:
    """Open this process's endpoint and return its address."""
    from .viewer import frame

    native = _load_native()
    _install_hooks(native)
    program = program_name()
    address: str = native.serve(
        address=request.address,
        token=request.token,
        program=program,
        page=frame(program),
        import_roots=import_roots(),
        own_directory=_PACKAGE_DIRECTORY,
        keep_thread_state=_forked_from_thread or _tracing_possible(),
    )
    state = _current()
    state.endpoint, state.endpoint_address = request, address
    log().info("the endpoint of process %d is %s", state.pid, address)
    return address


def close_endpoint() -> None:
    """Close this process's endpoint, if there is one."""
    state = _current()
    if state.endpoint is not None:
        state.endpoint, state.endpoint_address = None, ""
        _load_native().stop_serving()


def is_local_address(address: str) -> bool:
    """Return whether only this machine can reach an address.

    Raises:
        RprofValueError: It is no address.
    """
    local: bool = _load_native().is_local_address(address)
    return local


def forget(recording: int) -> None:
    """Note that a recording was ended by somebody else."""
    _current().recordings.discard(recording)


def end(recording: int) -> "Profile | None":
    """End a block's recording; None if the end of the process was faster."""
    state = _current()
    if recording not in state.recordings:
        return None
    state.recordings.discard(recording)
    return _finish(_load_native().stop_recording(recording))


def end_output(recording: int) -> "tuple[_native.Profile, Exception | None] | None":
    """End a recording that writes, without a file of ours that would have to be loaded.

    Returns:
        The last window, and why it is in no file; None if it has been ended before.
    """
    state = _current()
    if recording not in state.recordings:
        return None
    state.recordings.discard(recording)
    profile, _, problem = _load_native().stop_recording(recording)
    return profile, problem


def pause(recording: int) -> None:
    """Let a recording record nothing until it is resumed."""
    _load_native().pause_recording(recording)


def resume(recording: int) -> None:
    """Let a paused recording go on."""
    _load_native().resume_recording(recording)


def expand(output: str, program: str, seq: int, start_unix_ns: int) -> str:
    """Fill the fields of a file name in.

    Raises:
        RprofValueError: It has an unknown field.
    """
    path: str = _load_native().expand_output(output, program, seq, start_unix_ns)
    return path
