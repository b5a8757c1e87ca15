"""What ``rprof run`` does when the program executes another, or itself again (``os.exec*``).

The process stays and everything in it goes: what was recorded is written before. If it is Python
again it is told to go on recording; in the end one file is made of all.
"""

# Loaded into the program: without imports that it might not have, so without `from __future__`.

import os
import posix

from .._standing_in import stand_in
from ._environment import shown
from ._scripts import is_python

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, NoReturn

    from ._ending import Ending

_execv, _execve = posix.execv, posix.execve


def follow_executions(ending: "Ending") -> None:
    """Take the place of ``os.execv`` and ``os.execve``, by which all of their kind go.

    What was there is in their ``__wrapped__``.
    """

    def execv(path: "Any", argv: "Any", /) -> "NoReturn":
        if not _is_about(ending, path):
            _execv(path, argv)
        try:
            _execute(ending, path, argv, os.environ)
        except OSError as error:
            # Which names no file here.
            raise OSError(error.errno, error.strerror) from None

    def execve(path: "Any", argv: "Any", env: "Any") -> "NoReturn":
        if not _is_about(ending, path):
            _execve(path, argv, env)
        _execute(ending, path, argv, env)

    for function in (execv, execve):
        stand_in(os, function.__name__, function)


def _is_about(ending: "Ending", path: "Any") -> bool:
    """Return whether this process is the program, and can execute that file.

    Whoever looks for a program along a path tries one after the other.
    """
    if not ending.is_here():
        return False
    try:
        return posix.access(path, posix.X_OK, effective_ids=True)
    except (OSError, TypeError, ValueError, NotImplementedError):
        return False


def _execute(ending: "Ending", path: "Any", argv: "Any", env: "Any") -> "NoReturn":
    ending.leave()
    try:
        if is_python(os.fsdecode(path)):
            env = _told(ending, env)
        _execve(path, argv, env)
    finally:
        # It was not executed, and the program goes on.
        ending.come_back()


def _told(ending: "Ending", env: "Mapping[Any, Any]") -> "Mapping[Any, Any]":
    try:
        named = {os.fsdecode(name): os.fsdecode(value) for name, value in env.items()}
    except (AttributeError, TypeError):
        # No environment, as execve will say.
        return env
    found = ending.gather()
    return env if found is None else shown(named, *found)
