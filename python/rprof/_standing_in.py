"""Takes the place of functions of other modules, visibly, and gives it back."""

# Imports nothing that the interpreter has not imported by itself, as _config.

import _signal  # type: ignore[import-not-found]
import os
import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

# Where a process ends without its interpreter; `signal.signal` goes by the second one.
_PLACES = ((os, "_exit"), (_signal, "signal"))


def stand_in(module: "ModuleType", name: str, function: "Any") -> None:
    """Put a function in the place of a module's; what was there is in its ``__wrapped__``."""
    wrapped = getattr(module, name)
    function.__module__, function.__name__, function.__qualname__ = module.__name__, name, name
    function.__doc__ = wrapped.__doc__
    function.__wrapped__ = wrapped
    setattr(module, name, function)


def attend_ends(native: "Any") -> None:
    """Have the last window written when the process ends by ``os._exit`` or SIGTERM."""
    for module, name in _PLACES:
        wrapped = getattr(module, name)
        if type(wrapped) is not native.StandIn:
            is_exit = wrapped is posix._exit
            stand_in(module, name, native.StandIn(wrapped, name, is_exit))
    native.handle_sigterm(True)


def leave_ends(native: "Any") -> None:
    """Put back what was there, unless somebody else has taken the place of it since."""
    native.handle_sigterm(False)
    for module, name in _PLACES:
        function = getattr(module, name)
        if type(function) is native.StandIn:
            setattr(module, name, function.__wrapped__)
