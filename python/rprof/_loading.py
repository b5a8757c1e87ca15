"""Loads the native module and hands it what it calls, or says why it cannot be loaded.

Nobody else imports it, and it imports nothing of ours.
"""

import sys

from . import _greenlets, _imported, _tasks, _trio, errors
from .errors import RprofStateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

__all__ = ["as_path", "block", "hand_in", "in_sub_interpreter", "native"]


# In the order of `MODULES` of `src/py/late.rs`.
_LEARNT = ("greenlet", "asyncio", "trio")
_loaded: "Any" = None
# Made by what knows all modules, for slow requests are told by some that need this one.
_watching: "Callable[[], Any] | None" = None


def hand_in(watching: "Callable[[], Any]") -> None:
    """Take what loads the watching of slow requests, once; the native module gets it from here."""
    global _watching
    _watching = watching


def native() -> "Any":
    """Return the native module.

    Raises:
        RprofStateError: It cannot be loaded; the message says why, and what to do.
    """
    global _loaded
    # Once only: later the program may have replaced __import__, as tests do.
    if _loaded is None:
        try:
            from . import _native
        except ImportError as error:
            raise RprofStateError(_reason(error)) from error
        _native.install(
            errors=(
                errors.RprofValueError,
                errors.RprofTypeError,
                errors.RprofStateError,
                errors.RprofOSError,
                errors.RprofMemoryError,
            ),
            decorate=_decorate,
            load_watching=_watching or _nobody,
            learn=_learn,
        )
        _loaded = _native
    if len(_imported.settled) < len(_LEARNT):
        _learn()
    return _loaded


def _learn() -> "tuple[bool, ...]":
    """Learn of what is imported; return of which modules all is known."""
    _greenlets.learn(_loaded)
    _tasks.learn(_loaded)
    _trio.learn(_loaded)
    return tuple(name in _imported.settled for name in _LEARNT)


def _nobody() -> "Any":
    # Only of a package that was loaded without its own __init__.
    raise ImportError("nothing watches slow requests")


def _decorate(function: "Any", call: "Any") -> "Any":
    # Most programs decorate nothing, and what does needs much.
    from ._decorate import decorate

    return decorate(function, call)


class _NoBlock:
    """Where the native module cannot be loaded no block can be entered; what tries says why."""

    def __exit__(self, *details: object) -> None:
        return


def block() -> "type[Any]":
    """Return what a block is made of, natively: see `_native.Block`."""
    try:
        return native().Block  # type: ignore[no-any-return]
    except RprofStateError:
        return _NoBlock


def as_path(path: str) -> "Path":
    """Return a path that something has been written to.

    Raises:
        RprofStateError: ``pathlib`` cannot be loaded any more; the message names the path.
    """
    try:
        from pathlib import Path
    except ImportError as error:
        raise RprofStateError(
            f"{path} has been written, but cannot be returned as a path: pathlib cannot be loaded "
            f"any more ({error}); import it before chroot or the like"
        ) from error
    return Path(path)


def in_sub_interpreter() -> bool:
    """Return whether this is not the main interpreter of the process."""
    import _thread

    is_main = getattr(_thread, "_is_main_interpreter", None)
    if is_main is not None:
        return not is_main()
    # CPython 3.10 and 3.11 do not say; the native module refuses there by itself.
    try:
        from . import _native  # noqa: F401
    except ImportError as error:
        return _is_refusal(error)
    return False


def _is_refusal(error: ImportError) -> bool:
    return "subinterpreter" in str(error)


def _reason(error: ImportError) -> str:
    if _is_refusal(error):
        return (
            "in a sub-interpreter there is no profiling; call rprof.start() in the main interpreter"
        )
    import os

    directory = os.path.dirname(__file__)
    if isinstance(error, ModuleNotFoundError) and getattr(sys, "frozen", False):
        return (
            "rprof._native is not in this frozen program; add it where the program is frozen, for "
            "example with PyInstaller's --collect-all rprof"
        )
    if not os.path.isdir(directory):
        archive = os.path.dirname(directory)
        while archive and not os.path.exists(archive):
            archive = os.path.dirname(archive) if archive != os.path.dirname(archive) else ""
        if os.path.isfile(archive):
            return (
                f"rprof was imported from the archive {archive}, and no native module can be "
                "loaded from one; unpack it, or install with `pip install --target DIRECTORY "
                "rprof`, and put that directory on sys.path"
            )
        return (
            f"{directory}, where rprof was imported from, is not there any more (chroot, upgrade, "
            "clean-up?), so its native module cannot be loaded; call rprof.start() before that"
        )
    return (
        f"rprof's native module cannot be loaded from {directory} ({error}); is it readable, and "
        "rprof installed for this interpreter and machine? Else call rprof.start() earlier, or "
        "install rprof again"
    )
