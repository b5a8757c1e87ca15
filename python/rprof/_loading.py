"""Loads the native module, or says why it cannot be loaded.

After a ``chroot``, a change of user, an upgrade in place or a clean-up of temporary files no module
can be loaded any more. So what a recording needs until its end is loaded before it begins.
"""

import sys

from .errors import RprofStateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

__all__ = ["as_path", "block", "in_sub_interpreter", "native", "prepare"]


_loaded: "Any" = None


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
        _loaded = _native
    return _loaded


def prepare() -> None:
    """Load what a recording needs until its end, if it can be; what begins one tells otherwise."""
    try:
        native()
        from . import _profile  # noqa: F401
    except (RprofStateError, ImportError):
        return


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
