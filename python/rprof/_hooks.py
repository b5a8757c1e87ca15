"""Hooks into the life of the process: around its forks, and at its end."""

# Imports nothing that the interpreter has not imported by itself, as _config.

import os
import sys
from _thread import get_native_id

from . import _process
from ._config import Config
from ._loading import native as _load
from ._native_options import endpoint_options, flight_requests, output_options, recording_options
from ._process import State, Suspended, current, log, report_trouble
from .errors import RprofError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

__all__ = ["begin_output_in_child", "close_endpoint", "end_watching", "native"]

_forker_is_main = True
_threading_hooked = False
_follows_logging = sys.version_info[:2] != (3, 13)


def native() -> "Any":
    """Return the native module, with the hooks that it needs around forks and at the end."""
    module = _load()
    current()
    module.install_hooks(_at_exit, _before_fork, _after_fork_in_child)
    _hook_threading()
    return module


def _follow_logging(module: "Any") -> None:
    """Have the threads start again after a fork by a hook behind those of ``logging``.

    For CPython 3.13. Those are Python functions, and before ours they would be that next
    instruction for which ``after_fork_in_parent_later`` waits. So once ``logging`` has been
    imported, another hook is added, and the last one alone acts.
    """
    global _follows_logging
    if not _follows_logging and "logging" in sys.modules:
        module.hook_parent()
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
    current()
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        _at_exit()


def _at_exit() -> None:
    current()
    close_endpoint()
    end_watching()
    module, state = _load(), current()
    if module.try_again():
        report_trouble(state)
    for problem in module.end_recordings():
        log().warning("the last window could not be written: %s", problem)
    state.continuous = state.flight = None


def close_endpoint() -> None:
    """Close this process's endpoint, if there is one."""
    state = current()
    if state.endpoint is not None:
        _load().stop_serving()
        state.endpoint, state.endpoint_address = None, ""


def end_watching() -> None:
    """End watching and the thread that reports, at the end of the process."""
    state = current()
    if state.is_watching:
        module = _load()
        if not module.stop_reports():
            from ._records import abandon

            abandon()
        module.stop_watch()
        state.is_watching = False


def _before_fork() -> None:
    global _forker_is_main
    # By the kernel's ids: gevent replaces threading.get_ident() with the greenlet's. Where the main
    # thread does not have the id of the process, "no" costs a kept thread state and no more.
    _forker_is_main = get_native_id() == os.getpid()
    module = _load()
    later = _process.known().suspended
    if later is not None and later.results:
        current()
    _follow_logging(module)
    module.before_fork()


def _after_fork_in_child() -> None:
    parent = _process.begin_child(by_main_thread=_forker_is_main)
    module = _load()
    module.after_fork_in_child()
    _hook_threading()
    if _is_for_exec(sys._getframe()):
        return
    state = _process.known()
    state.dumps = parent.dumps
    later = Suspended()
    try:
        _suspend(later, parent)
    except (RprofError, OSError, RuntimeError) as error:
        # A child that cannot be profiled must work all the same.
        log().warning("not all of its parent's profiling goes on in a forked child: %s", error)
    if later.calls or state.dumps:
        state.suspended = later
        module.resume_later(later.calls, later.results)


def _suspend(later: Suspended, parent: State) -> None:
    """Note what a child goes on with."""
    # One that has not gone on itself before it forks hands on what it has inherited.
    earlier = parent.suspended or Suspended()
    config, output = earlier.config, earlier.output
    if parent.continuous is not None:
        # Where the parent writes; it may have changed its directory since.
        config, output = parent.continuous.config, parent.continuous.output
    endpoint = parent.endpoint or earlier.endpoint
    if config is not None:
        later.config, later.output = config, _child_output(output)
        _suspend_output(later, "profiling", config._replace(output=later.output))
        if config.recent:
            options = recording_options(config, output=None, **flight_requests(config))
            later.calls["recent"] = _load().start_recording, options, "profiling"
    if endpoint is not None and endpoint.is_for_each_process:
        _process.tell_native()
        later.endpoint = endpoint
        later.calls["an endpoint"] = _load().serve, endpoint_options(endpoint), None


def _suspend_output(later: Suspended, name: str, config: Config) -> None:
    _process.tell_native()
    options = recording_options(config, **output_options(config, config.output))
    later.calls[name] = _load().start_recording, options, None


def begin_output_in_child(config: Config) -> None:
    """Have a forked child write by this configuration too; for a hook behind the session's."""
    if _is_for_exec(sys._getframe()):
        return
    state = _process.known()
    later = state.suspended
    if later is None:
        later = state.suspended = Suspended()
    try:
        _suspend_output(later, "the recording of children", config)
    except (RprofError, OSError, RuntimeError):
        # A child that cannot be profiled must work all the same.
        return
    _load().resume_later(later.calls, later.results)


def _is_for_exec(forker: "FrameType | None") -> bool:
    """Return whether a child was forked to become another program: by ``subprocess``.

    Which has hooks called for a ``preexec_fn`` only. Beginning with a frame of ours; of a host that
    forks by itself there may be no other.
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


def _child_output(output: str | None) -> str | None:
    """Return the output of a forked child: a single file gets the child's pid into its name."""
    if output is None or not output.endswith(".pb.gz") or "{pid}" in output:
        return output
    return output.removesuffix(".pb.gz") + "-{pid}.pb.gz"
