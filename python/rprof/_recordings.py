"""Begins and ends native recordings: continuous ones, blocks, captures, the last minutes."""

# Imports nothing that the interpreter has not imported by itself, as _config.

import sys

from . import _hooks
from ._config import Config, native_memory
from ._loading import native
from ._native_options import flight_requests, output_options, recording_options
from ._process import current, report_trouble, tell_native
from ._standing_in import attend_ends, leave_ends
from .errors import RprofStateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from . import _native
    from ._profile import Profile

    Recording = _native.Recording
    Outcome = tuple[_native.Profile, str | None, Exception | None]

__all__ = [
    "begin",
    "begin_again",
    "begin_block",
    "begin_flight",
    "begin_growing",
    "begin_output",
    "end",
    "end_flight",
    "end_output",
    "expand",
    "finished",
    "heap_of",
    "leave_unless_writing",
    "prepare",
    "recent_of",
    "rehearse",
]


def prepare() -> None:
    """Load what a recording needs until its end, if it can be; what begins one tells otherwise.

    After a ``chroot``, a change of user, an upgrade in place or a clean-up of temporary files no
    module can be loaded any more.
    """
    try:
        native()
        from . import _profile, _reading  # noqa: F401
    except (RprofStateError, ImportError):
        return


def begin(config: Config, **requests: "Any") -> "Recording":
    """Start a native recording and return its owner, with which it ends at the latest.

    A signal's handler may raise an exception between any two instructions. A traceback keeps the
    variables of functions, so the owner is returned without being put into one.

    Args:
        config: The options.
        **requests: What else is asked of it, see ``_native.start_recording``.
    """
    current()
    native()
    # While it can be loaded: the end of a recording needs it.
    prepare()
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        raise RprofStateError(
            "rprof cannot sample a free-threaded interpreter yet: without the GIL this version's "
            "engine could read frames that are being freed; run with PYTHON_GIL=1"
        )
    _hooks.native()
    tell_native()
    return begin_again(recording_options(config, **requests))


def rehearse(config: Config) -> "dict[str, Any]":
    """Begin a block's recording and end it, and return what ``begin_again`` needs for another.

    That one asks nothing any more of ``os`` and imports nothing: a test may have replaced all of
    it. Its end is ``end_output``.
    """
    end_output(begin(config))
    return recording_options(config)


def begin_block(config: Config) -> "Recording":
    """Start the native recording of a block and return its owner, as ``begin``."""
    return begin(config, memory=native_memory(config))


def begin_again(options: "dict[str, Any]") -> "Recording":
    """Start a native recording with the options of an earlier one."""
    return native().start_recording(options)  # type: ignore[no-any-return]


def begin_output(config: Config) -> "Recording":
    """Start a native recording that writes to the configured output, window by window."""
    return _begin_written(config, **output_options(config, config.output))


def begin_growing(config: Config, path: str, *, replaces: bool) -> "Recording":
    """Start a native recording whose one file is written again with each window, whole.

    If it does not replace what is there it gets a number; `end_output` tells.
    """
    window_ns = round(config.window * 1e9)
    return _begin_written(
        config,
        window_ns=window_ns,
        output=path,
        grows=True,
        replaces=replaces,
        memory=native_memory(config),
    )


def _begin_written(config: Config, **how: "Any") -> "Recording":
    """Begin, and see to it that the last window is written however the process ends."""
    module = native()
    try:
        if config.exit_hooks and how["output"] is not None:
            attend_ends(module)
        return begin(config, **how)
    except BaseException:
        leave_unless_writing()
        raise


def leave_unless_writing() -> None:
    """See to ends of the process no longer, unless something is still to be written then."""
    module = native()
    if not module.is_writing():
        leave_ends(module)


def begin_flight(config: Config) -> None:
    """Keep the last minutes in memory, unless they are kept already."""
    state = current()
    with native().take_turn():
        if state.flight is None:
            state.flight = begin(config, **flight_requests(config))


def end_flight() -> None:
    """Keep the last minutes no longer, unless somebody else wants them."""
    state = current()
    if state.continuous is None and not state.is_watching:
        # It ends with its owner.
        state.flight = None


def end(recording: "Recording") -> "Profile | None":
    """End a block's recording; None if the end of the process was faster."""
    outcome = recording.stop()
    return None if outcome is None else finished(outcome)


def end_output(recording: "Recording") -> "Outcome | None":
    """End a recording that writes, without a file of ours that would have to be loaded.

    Returns:
        The last window, the file that it is in, and why it is in none; None if it has been ended
        before.
    """
    return recording.stop()


def finished(outcome: "Outcome") -> "Profile":
    """Return the profile of a recording that has ended, and log what went wrong."""
    from ._profile import Profile

    native_profile, _, problem = outcome
    if problem is not None or native().try_again():
        report_trouble(current())
    return Profile(native_profile)


def heap_of(recording: "Recording") -> "Profile | None":
    """Return what a recording that has ended tells of the heap; None if it did not look at that."""
    from ._profile import Profile

    heap = recording.heap()
    return None if heap is None else Profile(heap)


def recent_of(since_ns: int, requests: list[int]) -> "Profile":
    """Return what was recorded of these requests since a time of the monotonic clock in ns."""
    from ._profile import Profile

    return Profile(native().recent_of(since_ns, requests))


def expand(output: str, program: str, seq: int, start_unix_ns: int) -> str:
    """Fill the fields of a file name in.

    Raises:
        RprofValueError: It has an unknown field.
    """
    path: str = native().expand_output(output, program, seq, start_unix_ns)
    return path
