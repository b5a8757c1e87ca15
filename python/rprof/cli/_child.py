"""The side of ``rprof run`` that lives in the program: begins the recording there."""

# Loaded into the program: without imports that it might not have, so without `from __future__`.

import os

from .. import _session
from .._config import OPTIONS, resolve
from ..errors import RprofError
from ._ending import Ending, Stderr
from ._environment import KEPT, RUN, Run

# Owns the recording that nobody ends before the process does.
_recording: "_session.Recording | None" = None


def begin() -> None:
    """Begin the recording that the environment asks for."""
    global _recording
    run = Run.parse(os.environ[RUN])
    is_program = run.pid == os.getpid()
    config = resolve({})
    if not run.follow:
        _hide()
    try:
        if is_program:
            Ending(run, config)
        else:
            _recording = _session.begin_output(config)
    except (RprofError, OSError, RuntimeError) as error:
        if is_program:
            Stderr().say(f"rprof: not profiled: {error}")
        return
    if run.follow:
        # After the hook of the session itself, which forgets the parent's recordings.
        os.register_at_fork(after_in_child=lambda: _session.begin_output_in_child(config))


def _hide() -> None:
    """Give the program the environment that it would have without `rprof run`."""
    del os.environ[RUN]
    for option in OPTIONS:
        name = "RPROF_" + option.upper()
        os.environ.pop(name, None)
        kept = os.environ.pop(KEPT + name, None)
        if kept is not None:
            os.environ[name] = kept
    _, _, path = os.environ.get("PYTHONPATH", "").partition(os.pathsep)
    if path:
        os.environ["PYTHONPATH"] = path
    else:
        os.environ.pop("PYTHONPATH", None)
