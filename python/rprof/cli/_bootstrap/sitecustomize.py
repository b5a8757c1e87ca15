"""Begins the recording in a program that ``rprof run`` has become, then steps aside.

``rprof run`` puts this directory first on ``PYTHONPATH``, where the ``site`` module of every
interpreter looks for ``sitecustomize``. With ``--follow-children`` that may be any interpreter, of
any age: nothing here may fail, or be written in a new syntax.
"""

import os
import sys


def _step_aside():
    """Take this directory off the path, and run the ``sitecustomize`` that it hides."""
    here = os.path.dirname(os.path.abspath(__file__))
    # As it was written there: to make a path absolute takes a working directory.
    sys.path[:] = [entry for entry in sys.path if entry.rstrip(os.sep) != here]
    own = sys.modules.pop("sitecustomize", None)
    try:
        import sitecustomize  # noqa: F401
    except ImportError as error:
        if getattr(error, "name", "sitecustomize") != "sitecustomize":
            raise
        # The import that is under way wants to find a module of this name (importlib._bootstrap).
        sys.modules["sitecustomize"] = own


def _begin():
    """Begin the recording."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    sys.path.append(os.path.dirname(package))
    try:
        from rprof.cli import _child
    finally:
        sys.path.pop()
    _child.begin()


if "RPROF_RUN" in os.environ:
    try:
        _begin()
    except Exception as error:
        # Another interpreter, for which there is no rprof; only the first one has an audience.
        if os.environ.pop("RPROF_RUN").split(":")[0] == str(os.getpid()):
            os.write(2, ("rprof: not profiled: " + str(error) + "\n").encode("utf-8"))
_step_aside()
