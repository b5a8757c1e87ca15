"""The one place that starts and ends native recordings: continuous profiling, forks, exit.

The native module is loaded on first use, so that ``import rprof`` only defines names.
"""

# Imports nothing that the interpreter has not imported by itself, as _config.

import os
import sys
from _thread import get_native_id

# By its own name: a test that replaces os.getpid is no fork.
from os import getpid

from ._config import (
    UNSET,
    Config,
    absolute,
    given_options,
    import_roots,
    native_threads,
    program_name,
    resolve,
    well_formed,
)
from ._loading import as_path, prepare
from ._loading import native as _load_native
from ._rows import NamedTuple
from .errors import RprofError, RprofOSError, RprofStateError, RprofTypeError, RprofValueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import FrameType
    from typing import Any

    from . import _native
    from ._profile import Profile

    Recording = _native.Recording
    Serving = _native.Serving

__all__ = [
    "Status",
    "dump",
    "dump_on_signal",
    "flush",
    "is_running",
    "recent",
    "start",
    "start_if_possible",
    "status",
    "stop",
]

# Our threads, as their counters are called.
_THREADS = ("sampler", "writer", "names")
# How exactly the past can be cut.
_FLIGHT_WINDOW_NS = 1_000_000_000
_PACKAGE_DIRECTORY = well_formed(os.path.dirname(absolute(__file__)) + os.sep)


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
    refused_threads: int
    """Times the system refused rprof a thread, as at a limit of processes and threads, or had no
    memory for one."""
    unattended_seconds: float
    """Time in which nobody took samples because no thread could be had; credited to no stack."""


class _Continuous(NamedTuple):
    recording: "Recording"
    config: Config
    output: str | None
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


class _Suspended:
    """What a forked child goes on with, once it has shown that it lives on."""

    def __init__(self) -> None:
        self.calls: dict[str, tuple[Callable[..., Any], dict[str, Any], str | None]] = {}
        # What the native side has got of each, or the exception.
        self.results: dict[str, Any] = {}
        self.config: Config | None = None
        self.output: str | None = None
        self.endpoint: EndpointRequest | None = None


class _State:
    """What this process has going on; replaced as a whole in a forked child."""

    def __init__(self) -> None:
        self.pid = getpid()
        self.continuous: _Continuous | None = None
        self.flight: Recording | None = None
        self.is_watching = False
        self.reported_error: str | None = None
        self.dumps = False
        self.endpoint: EndpointRequest | None = None
        self.endpoint_address = ""
        self.suspended: _Suspended | None = None
        # Recordings that go on for as long as the process does.
        self.kept: list[Recording] = []


# Whether this process was forked by a thread that was not the main one. CPython up to 3.12 ends
# with "thread state already initialized" when a thread state is made while there is no other
# (Python/pystate.c, new_threadstate), as in such a child when that thread ends; the sampler then
# makes one beforehand and keeps it.
_forked_from_thread = False
_state = _State()
_forker_is_main = True
_threading_hooked = False
_follows_logging = sys.version_info[:2] != (3, 13)
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
    """Return this process's state, with what a fork has suspended: somebody asks for it.

    It is a new one if the process was forked without Python's hooks.
    """
    global _state
    if _state.pid != getpid():
        _state = _State()
    if _state.suspended is not None:
        _resume(_state, _state.suspended)
    return _state


def _install_hooks(native: "Any") -> None:
    native.install_hooks(_at_exit, _before_fork, _after_fork_in_child)
    _hook_threading()


def _follow_logging(native: "Any") -> None:
    """Have the threads start again after a fork by a hook behind those of ``logging``.

    For CPython 3.13. Those are Python functions, and before ours they would be that next
    instruction for which ``after_fork_in_parent_later`` waits. So once ``logging`` has been
    imported, another hook is added, and the last one alone acts.
    """
    global _follows_logging
    if not _follows_logging and "logging" in sys.modules:
        native.hook_parent()
        _follows_logging = True


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
    try:
        register(_at_threading_exit)
    except RuntimeError:
        # Shutdown has begun: it is too late now and will be.
        _threading_hooked = True
        return
    _threading_hooked = True


def _at_threading_exit() -> None:
    # The interpreter is about to wait until no pending call is left.
    _current()
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        _at_exit()


def _at_exit() -> None:
    _current()
    close_endpoint()
    end_watching()
    native, state = _load_native(), _current()
    if native.try_again():
        _report_trouble(state)
    for problem in native.end_recordings():
        log().warning("the last window could not be written: %s", problem)
    state.continuous = state.flight = None


def _before_fork() -> None:
    global _forker_is_main
    # By the kernel's ids: gevent replaces threading.get_ident() with the greenlet's. Where the main
    # thread does not have the id of the process, "no" costs a kept thread state and no more.
    _forker_is_main = get_native_id() == os.getpid()
    native = _load_native()
    later = _state.suspended
    if later is not None and later.results:
        _current()
    _follow_logging(native)
    native.before_fork()


def _after_fork_in_child() -> None:
    global _state, _forked_from_thread
    _forked_from_thread = _forked_from_thread or not _forker_is_main
    parent, _state = _state, _State()
    native = _load_native()
    native.after_fork_in_child()
    _hook_threading()
    if _is_for_exec(sys._getframe(1)):
        return
    _state.dumps = parent.dumps
    # A child that has not gone on itself before it forks hands on what it has inherited.
    earlier = parent.suspended or _Suspended()
    config, output = earlier.config, earlier.output
    if parent.continuous is not None:
        # Where the parent writes; it may have changed its directory since.
        config, output = parent.continuous.config, parent.continuous.output
    endpoint = parent.endpoint or earlier.endpoint
    later = _Suspended()
    try:
        if config is not None:
            later.config, later.output = config, _child_output(output)
            _suspend_output(later, "profiling", config._replace(output=later.output))
            if config.recent:
                options = _flight_options(config)
                later.calls["recent"] = native.start_recording, options, "profiling"
        if endpoint is not None and endpoint.is_for_each_process:
            later.endpoint = endpoint
            later.calls["an endpoint"] = native.serve, _endpoint_options(endpoint), None
    except (RprofError, OSError, RuntimeError) as error:
        # A child that cannot be profiled must work all the same.
        log().warning("not all of its parent's profiling goes on in a forked child: %s", error)
    if later.calls or _state.dumps:
        _state.suspended = later
        native.resume_later(later.calls, later.results)


def _is_for_exec(forker: "FrameType | None") -> bool:
    """Return whether a child was forked to become another program: by ``subprocess``.

    Which has hooks called for a ``preexec_fn`` only. Beginning with a frame of ours.
    """
    process = sys.modules.get("subprocess")
    while forker is not None and str(forker.f_globals.get("__name__")).startswith("rprof."):
        forker = forker.f_back
    return (
        process is not None
        and forker is not None
        and forker.f_globals is vars(process)
        and forker.f_code.co_name == "_execute_child"
    )


def begin_output_in_child(config: Config) -> None:
    """Have a forked child write by this configuration too; for a hook behind the session's."""
    if _is_for_exec(sys._getframe(1)):
        return
    later = _state.suspended
    if later is None:
        later = _state.suspended = _Suspended()
    try:
        _suspend_output(later, "the recording of children", config)
    except (RprofError, OSError, RuntimeError):
        # A child that cannot be profiled must work all the same.
        return
    _load_native().resume_later(later.calls, later.results)


def _suspend_output(later: _Suspended, name: str, config: Config) -> None:
    rotates = config.output is not None and _load_native().output_rotates(config.output)
    options = _options(
        config, window_ns=round(config.window * 1e9) if rotates else None, output=config.output
    )
    later.calls[name] = _load_native().start_recording, options, None


def _resume(state: _State, later: _Suspended) -> None:
    """Take over what goes on, and begin it if that has not happened.

    Another call does the same again, until the end has been reached.
    """
    _load_native().resume_now()
    results: dict[str, Any] = {}
    problems: dict[str, BaseException] = {}
    for name, result in later.results.items():
        if isinstance(result, BaseException):
            problems[name] = result
        else:
            results[name] = result
    if later.config is not None and "profiling" in results and "recent" not in problems:
        state.continuous = _Continuous(
            results["profiling"], later.config, _lasting(later.output), 0, 0
        )
        state.flight = results.get("recent")
    if "the recording of children" in results:
        state.kept = [results["the recording of children"]]
    if later.endpoint is not None and "an endpoint" in results:
        state.endpoint, state.endpoint_address = later.endpoint, results["an endpoint"]
    if problems:
        # It tells the same.
        state.reported_error = _load_native().last_error()
    state.suspended = None
    for name, problem in problems.items():
        # A child that cannot be profiled must work all the same.
        log().warning("in a forked child there is nothing of %s: %s", name, problem)
    if state.endpoint is not None:
        _tell_endpoint(state)


def _tell_endpoint(state: _State) -> None:
    log().info("the endpoint of process %d is %s", state.pid, state.endpoint_address)


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
) -> "Recording":
    """Start a native recording and return its owner, with which it ends at the latest.

    An exception of a signal's handler may come between any two instructions. So the owner goes
    straight to whoever keeps it, by no variable of a function: a traceback would keep that.
    """
    _current()
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


def rehearse(config: Config) -> "dict[str, Any]":
    """Begin a block's recording and end it, and return what ``begin_again`` needs for another.

    That one asks nothing any more of ``os`` and imports nothing: a test may have replaced all of
    it. Its end is ``end_output``.
    """
    end_output(begin(config))
    return _options(config, window_ns=None, output=None)


def begin_again(options: "dict[str, Any]") -> "_native.Recording":
    """Start a native recording with the options of an earlier one."""
    return _load_native().start_recording(**options)  # type: ignore[no-any-return]


def _options(
    config: Config, *, window_ns: int | None, output: str | None, **requests: "Any"
) -> "dict[str, Any]":
    """Return what the native side needs to know of a recording."""
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


def begin_output(config: Config) -> "Recording":
    """Start a native recording that writes to the configured output, window by window."""
    rotates = config.output is not None and _load_native().output_rotates(config.output)
    return begin(
        config,
        window_ns=round(config.window * 1e9) if rotates else None,
        output=config.output,
    )


def begin_growing(config: Config, path: str, *, replaces: bool) -> "Recording":
    """Start a native recording whose one file is written again with each window, whole.

    If it does not replace what is there it gets a number; `end_output` tells.
    """
    window_ns = round(config.window * 1e9)
    return begin(config, window_ns=window_ns, output=path, grows=True, replaces=replaces)


def _begin_continuous(config: Config, output: str | None) -> None:
    native = _load_native()
    state = _current()
    ticks, age_ns = native.counters()["ticks"], native.age_ns()
    has_flight = state.flight is not None
    recording = None
    try:
        recording = begin_output(config._replace(output=output))
        state.continuous = _Continuous(
            recording, config, _lasting(output), ticks, age_ns or native.age_ns()
        )
        if config.recent:
            begin_flight(config)
    except BaseException:
        # What has begun ends with its owner, which the exception's traceback may hold for long.
        state.continuous = None
        if recording is not None:
            recording.abandon()
        if not has_flight:
            state.flight = None
        raise


def begin_flight(config: Config) -> None:
    """Keep the last minutes in memory, unless they are kept already."""
    state = _current()
    with _load_native().take_turn():
        if state.flight is None:
            state.flight = begin(config, **_flight_requests(config))


def _flight_requests(config: Config) -> "dict[str, Any]":
    return {
        "window_ns": _FLIGHT_WINDOW_NS,
        "requests_apart": True,
        "ring_ns": round(config.recent * 1e9),
        "ring_bytes": config.recent_bytes,
    }


def _flight_options(config: Config) -> "dict[str, Any]":
    return _options(config, output=None, **_flight_requests(config))


def end_flight() -> None:
    """Keep the last minutes no longer, unless somebody else wants them."""
    state = _current()
    if state.continuous is None and not state.is_watching:
        # It ends with its owner.
        state.flight = None


def native() -> "Any":
    """Return the native module, for the modules that drive it on behalf of this one."""
    module = _load_native()
    _current()
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
        import atexit

        # Both before what logging does: at the end it closes its handlers, and at a fork it holds
        # its lock, for which a report may be waiting. What is registered later comes earlier.
        atexit.register(end_watching)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=module.pause_reports)
        _watch_hooks_installed = True
    state = _current()
    keep_thread_state = keep_thread_state or _forked_from_thread or _tracing_possible()
    try:
        module.start_watch(import_roots(), _PACKAGE_DIRECTORY)
        module.start_reports(report, keep_thread_state)
        state.is_watching = True
    except BaseException:
        # Neither without the other, whatever has come in between.
        state.is_watching = False
        module.stop_reports()
        module.stop_watch()
        raise


def is_watching() -> bool:
    """Return whether what is seen in this process is reported."""
    return _current().is_watching


def end_watching() -> None:
    """End watching and the thread that reports, at the end of the process."""
    state = _current()
    if state.is_watching:
        module = _load_native()
        if not module.stop_reports():
            from ._records import abandon

            abandon()
        module.stop_watch()
        state.is_watching = False


def report_trouble() -> None:
    """Log the newest trouble of the native threads, once."""
    _report_trouble(_current())


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
    _current()
    return Profile(_load_native().recent(round(seconds * 1e9)))


def recent_of(since_ns: int, requests: list[int]) -> "Profile":
    """Return what was recorded of these requests since a time of the monotonic clock in ns."""
    from ._profile import Profile

    return Profile(_load_native().recent_of(since_ns, requests))


def output_directory() -> str | None:
    """Return the directory that continuous profiling writes to, if it does."""
    continuous = _current().continuous
    output = continuous.output if continuous is not None else None
    if output is None:
        return None
    return (os.path.dirname(output) or ".") if output.endswith(".pb.gz") else output


def _lasting(output: str | None) -> str | None:
    """Return an output that is in use as absolute, for programs change their directory.

    As it is where only that can be reached, as after a change of user.
    """
    if output is None:
        return None
    path = absolute(output)
    return path if os.path.isdir(os.path.dirname(path)) else output


def _report_trouble(state: _State) -> None:
    """Log the newest trouble of the native threads, once; they cannot log themselves."""
    native = _load_native()
    native.try_again()
    error = native.last_error()
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
    with _load_native().take_turn():
        if state.continuous is not None:
            if state.continuous.config == config:
                log().warning("rprof.start(): profiling is on already with this configuration")
                return
            raise RprofStateError(
                "profiling is on already with another configuration; call rprof.stop() first "
                f"(on: {_describe(state.continuous.config)}; asked: {_describe(config)})"
            )
        _begin_continuous(config, config.output)


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
    state = _current()
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
    with _load_native().take_turn():
        if state.continuous is not continuous or outcome is None:
            # Ended by another thread, or with the process.
            raise _off()
        if state.flight is not None and not state.is_watching:
            state.flight.stop()
            state.flight = None
        state.continuous = None
    return _finish(outcome)


def _off() -> RprofStateError:
    return RprofStateError("profiling is not on; call rprof.start() first")


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
        raise _off()
    _, path, problem = continuous.recording.rotate()
    if problem is not None or _load_native().try_again():
        _report_trouble(state)
    return as_path(path) if path is not None else None


def _finish(outcome: "tuple[_native.Profile, str | None, Exception | None]") -> "Profile":
    from ._profile import Profile

    native_profile, _, problem = outcome
    if problem is not None or _load_native().try_again():
        _report_trouble(_current())
    return Profile(native_profile)


def is_running() -> bool:
    """Return whether continuous profiling is on in this process."""
    return _current().continuous is not None


def status() -> Status:
    """Return how the profiler itself is doing."""
    state = _current()
    native = _load_native()
    _report_trouble(state)
    counters = native.counters()
    continuous = state.continuous
    achieved = 0.0
    if continuous is not None:
        seconds = (native.age_ns() - continuous.age_at_start_ns) / 1e9
        achieved = (counters["ticks"] - continuous.ticks_at_start) / seconds if seconds else 0.0
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
        refused_threads=counters["refused_threads"] + counters["starved_threads"],
        unattended_seconds=counters["unattended_ns"] / 1e9,
    )


def dump() -> str:
    """Return every thread's stack now, the innermost call first.

    Works whether or not profiling is on. Needs the GIL, as every Python call does.
    """
    _current()
    native = _load_native()
    native.try_again()
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
    state, native = _current(), _load_native()
    if signal is None:
        native.no_dump_on_signal()
        state.dumps = False
        return
    if isinstance(signal, bool) or not isinstance(signal, int):
        raise RprofTypeError(f"signal must be a number such as signal.SIGUSR2, not {signal!r}")
    if path is not None:
        path = absolute(os.fspath(path))
    _install_hooks(native)
    state.dumps = True
    native.dump_on_signal(int(signal), path, import_roots(), _PACKAGE_DIRECTORY)


def open_endpoint(request: EndpointRequest) -> str:
    """Open this process's endpoint and return its address."""
    state, native = _current(), _load_native()
    _install_hooks(native)
    address: str = native.serve(**_endpoint_options(request))
    state.endpoint, state.endpoint_address = request, address
    _tell_endpoint(state)
    return address


def _endpoint_options(request: EndpointRequest) -> "dict[str, Any]":
    from .viewer import frame

    program = program_name()
    return {
        "address": request.address,
        "token": request.token,
        "program": program,
        "page": frame(program),
        "import_roots": import_roots(),
        "own_directory": _PACKAGE_DIRECTORY,
        "keep_thread_state": _forked_from_thread or _tracing_possible(),
    }


def close_endpoint() -> None:
    """Close this process's endpoint, if there is one."""
    state = _current()
    if state.endpoint is not None:
        _load_native().stop_serving()
        state.endpoint, state.endpoint_address = None, ""


def withdraw_endpoint(request: EndpointRequest) -> None:
    """Close what a request for an endpoint has opened, if anything, before it was broken off."""
    state = _current()
    if state.endpoint is None or state.endpoint is request:
        _load_native().stop_serving()
        state.endpoint, state.endpoint_address = None, ""


def is_local_address(address: str) -> bool:
    """Return whether only this machine can reach an address.

    Raises:
        RprofValueError: It is no address.
    """
    local: bool = _load_native().is_local_address(address)
    return local


def end(recording: "Recording") -> "Profile | None":
    """End a block's recording; None if the end of the process was faster."""
    outcome = recording.stop()
    return None if outcome is None else _finish(outcome)


def end_output(
    recording: "Recording",
) -> "tuple[_native.Profile, str | None, Exception | None] | None":
    """End a recording that writes, without a file of ours that would have to be loaded.

    Returns:
        The last window, the file that it is in, and why it is in none; None if it has been ended
        before.
    """
    return recording.stop()


def expand(output: str, program: str, seq: int, start_unix_ns: int) -> str:
    """Fill the fields of a file name in.

    Raises:
        RprofValueError: It has an unknown field.
    """
    path: str = _load_native().expand_output(output, program, seq, start_unix_ns)
    return path
