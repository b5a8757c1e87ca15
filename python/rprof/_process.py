"""What this process has going on: its recordings, its endpoint, what waits after a fork.

State only: it begins with a process, is replaced as a whole in a forked child, and is changed by
those modules that begin and end something.
"""

# Imports nothing that the interpreter has not imported by itself, as _config.

import os
import sys

# By its own name: a test that replaces os.getpid is no fork.
from os import getpid

from ._config import Config, absolute, import_roots, well_formed
from ._loading import native
from ._rows import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ._native import Recording

__all__ = [
    "Continuous",
    "EndpointRequest",
    "State",
    "Suspended",
    "begin_child",
    "current",
    "known",
    "lasting",
    "log",
    "report_trouble",
    "tell_endpoint",
    "tell_native",
]


class Continuous(NamedTuple):
    """Continuous profiling that is on."""

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


class Suspended:
    """What a forked child goes on with, once it has shown that it lives on."""

    def __init__(self) -> None:
        # A native function, its options, and the name of another call without which it is of no
        # use, by what it is called in a warning.
        self.calls: dict[str, tuple[Callable[..., Any], dict[str, Any], str | None]] = {}
        # What the native side has got of each, or the exception.
        self.results: dict[str, Any] = {}
        self.config: Config | None = None
        self.output: str | None = None
        self.endpoint: EndpointRequest | None = None


class State:
    """What a process has going on."""

    def __init__(self) -> None:
        self.pid = getpid()
        self.continuous: Continuous | None = None
        self.flight: Recording | None = None
        self.is_watching = False
        self.reported_error: str | None = None
        self.dumps = False
        self.endpoint: EndpointRequest | None = None
        self.endpoint_address = ""
        self.suspended: Suspended | None = None
        # Recordings that go on for as long as the process does.
        self.kept: list[Recording] = []


_PACKAGE_DIRECTORY = well_formed(os.path.dirname(absolute(__file__)) + os.sep)

_state = State()
# Whether this process was forked by a thread that was not the main one. CPython up to 3.12 ends
# with "thread state already initialized" when a thread state is made while there is no other
# (Python/pystate.c, new_threadstate), as in such a child when that thread ends; the sampler then
# makes one beforehand and keeps it.
_forked_from_thread = False


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


def known() -> State:
    """Return the state as it is, for hooks around a fork."""
    return _state


def current() -> State:
    """Return this process's state, with what a fork has suspended: somebody asks for it.

    It is a new one if the process was forked without Python's hooks.
    """
    global _state
    if _state.pid != getpid():
        _state = State()
    if _state.suspended is not None:
        _resume(_state, _state.suspended)
    return _state


def begin_child(*, by_main_thread: bool) -> State:
    """Begin the state of a forked child, and return that of its parent."""
    global _state, _forked_from_thread
    _forked_from_thread = _forked_from_thread or not by_main_thread
    parent, _state = _state, State()
    return parent


def _resume(state: State, later: Suspended) -> None:
    """Take over what goes on, and begin it if that has not happened.

    Another call does the same again, until the end has been reached.
    """
    native().resume_now()
    results: dict[str, Any] = {}
    problems: dict[str, BaseException] = {}
    for name, result in later.results.items():
        if isinstance(result, BaseException):
            problems[name] = result
        else:
            results[name] = result
    if later.config is not None and "profiling" in results and "recent" not in problems:
        output = lasting(later.output)
        state.continuous = Continuous(results["profiling"], later.config, output, 0, 0)
        state.flight = results.get("recent")
    if "the recording of children" in results:
        state.kept = [results["the recording of children"]]
    if later.endpoint is not None and "an endpoint" in results:
        state.endpoint, state.endpoint_address = later.endpoint, results["an endpoint"]
    if problems:
        # It tells the same.
        state.reported_error = native().last_error()
    state.suspended = None
    for name, problem in problems.items():
        # A child that cannot be profiled must work all the same.
        log().warning("in a forked child there is nothing of %s: %s", name, problem)
    if state.endpoint is not None:
        tell_endpoint(state)


def tell_endpoint(state: State) -> None:
    """Log where the endpoint is."""
    log().info("the endpoint of process %d is %s", state.pid, state.endpoint_address)


def report_trouble(state: State) -> None:
    """Log the newest trouble of the native threads, once; they cannot log themselves."""
    native().try_again()
    error = native().last_error()
    logger = log()
    if error is not None and error != state.reported_error and not isinstance(logger, _Nobody):
        state.reported_error = error
        logger.warning("%s", error)


def lasting(output: str | None) -> str | None:
    """Return an output that is in use as absolute, for programs change their directory.

    As it is where only that can be reached, as after a change of user.
    """
    if output is None:
        return None
    path = absolute(output)
    return path if os.path.isdir(os.path.dirname(path)) else output


def tell_native() -> None:
    """Tell the native side of this process, for what begins from now on.

    Where modules are imported from, where our own are, and whether our threads are to keep their
    thread states.
    """
    keep_thread_state = _forked_from_thread or _tracing_possible()
    native().tell_process(import_roots(), _PACKAGE_DIRECTORY, keep_thread_state)


def _tracing_possible() -> bool:
    return (
        "_tracemalloc" in sys.modules
        or "tracemalloc" in sys._xoptions
        or bool(os.environ.get("PYTHONTRACEMALLOC"))
    )
