"""The side of ``rprof run`` that lives in the program: begins the recording there."""

# Loaded into the program: without imports that it might not have, so without `from __future__`.

import os

# _continuous is loaded for the program: when it asks, no file may be readable any more.
from .. import _continuous, _hooks, _recordings  # noqa: F401
from .._config import resolve
from ..errors import RprofError
from ._ending import Ending, Stderr
from ._environment import RUN, Run, hide
from ._executing import follow_executions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._native import Recording

# Owns the recording that nobody ends before the process does.
_recording: "Recording | None" = None


def begin() -> None:
    """Begin the recording that the environment asks for."""
    global _recording
    run = Run.parse(os.environ[RUN])
    is_program = run.pid == os.getpid()
    config = resolve({})
    if not run.follow:
        hide(os.environ)
        if not is_program:
            # A process that the program has executed after all.
            return
    try:
        if is_program:
            follow_executions(Ending(run, config))
        else:
            _recording = _recordings.begin_output(config)
    except (RprofError, OSError, RuntimeError) as error:
        if is_program:
            Stderr().say(f"rprof: not profiled: {error}")
        return
    if run.follow:
        # After the hook of the session itself, which forgets the parent's recordings.
        os.register_at_fork(after_in_child=lambda: _hooks.begin_output_in_child(config))
