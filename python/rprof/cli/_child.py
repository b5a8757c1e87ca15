"""The side of ``rprof run`` that lives in the program: begins the recording there."""

# Loaded into the program: without imports that it might not have, so without `from __future__`.

import os

from .. import _session
from .._config import Config, resolve
from ..errors import RprofError
from ._ending import Ending, Stderr
from ._environment import RUN, Run, hide
from ._executing import follow_executions


def begin() -> None:
    """Begin the recording that the environment asks for."""
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
            _session.begin_output(config)
    except (RprofError, OSError, RuntimeError) as error:
        if is_program:
            Stderr().say(f"rprof: not profiled: {error}")
        return
    if run.follow:
        # After the hook of the session itself, which forgets the parent's recordings.
        os.register_at_fork(after_in_child=lambda: _follow(config))


def _follow(config: Config) -> None:
    try:
        _session.begin_output(config)
    except (RprofError, OSError, RuntimeError):
        # A child that cannot be profiled must work all the same.
        return
