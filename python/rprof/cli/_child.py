"""The side of ``rprof run`` that lives in the program: begins the recording there."""

from __future__ import annotations

import contextlib
import os

from .. import _session
from .._config import OPTIONS, Config, resolve
from ..errors import RprofError
from ._environment import KEPT, PROBLEM, RUN


def begin() -> None:
    """Begin the recording that the environment asks for."""
    follow, parent, scratch = os.environ[RUN].split(":", 2)
    config = resolve({})
    if follow != "follow":
        _hide()
    try:
        _session.begin_output(config)
    except (RprofError, OSError, RuntimeError) as error:
        if parent == str(os.getppid()):
            with open(os.path.join(scratch, PROBLEM), "w", encoding="utf-8") as file:
                file.write(str(error))
        return
    if follow == "follow":
        # After the hook of the session itself, which forgets the parent's recordings.
        os.register_at_fork(after_in_child=lambda: _follow(config))


def _follow(config: Config) -> None:
    # A child that cannot be profiled must work all the same.
    with contextlib.suppress(RprofError, OSError, RuntimeError):
        _session.begin_output(config)


def _hide() -> None:
    """Give the program the environment that it would have without `rprof run`."""
    kept = os.environ.pop(KEPT, None)
    for name in (RUN, *("RPROF_" + option.upper() for option in OPTIONS)):
        os.environ.pop(name, None)
    if kept is not None:
        import json

        os.environ.update(json.loads(kept))
    _, _, path = os.environ.get("PYTHONPATH", "").partition(os.pathsep)
    if path:
        os.environ["PYTHONPATH"] = path
    else:
        os.environ.pop("PYTHONPATH", None)
