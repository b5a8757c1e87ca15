"""rprof: a sampling profiler that is imported once and left on in production.

>>> import rprof
>>> rprof.start()           # writes gzip pprof files to rprof/, one a minute

>>> with rprof.profile() as block:
...     work()
>>> print(block.profile.top(10, by="cpu"))

Importing defines names and does nothing else; ``import rprof.auto`` starts profiling from the
environment.

PYTEST_DONT_REWRITE: to pytest, this may be imported before it loads the plugin.
"""

from . import _loading
from .errors import (
    RprofError,
    RprofMemoryError,
    RprofOSError,
    RprofStateError,
    RprofTypeError,
    RprofValueError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._account import MemoryAccount, memory_account
    from ._block import profile
    from ._config import ThreadInfo
    from ._continuous import (
        LockStatus,
        MemoryStatus,
        Status,
        TaskSteps,
        flush,
        heap,
        is_running,
        recent,
        start,
        status,
        stop,
        task_steps,
    )
    from ._diff import Diff, DiffRow
    from ._dumps import dump, dump_on_signal
    from ._endpoint import Endpoint, serve
    from ._leaks import Leak, LeakStack, LeakTable, leaks
    from ._native import __version__, current_labels, labels, request
    from ._profile import Profile
    from ._reading import load, merge
    from ._requests import Capture, RouteFigures, profile_next, routes
    from ._tables import Divide, Frame, FunctionRow, SampleType, ThreadTotals, TopTable
    from ._waits import Wait, WaitParty, WaitTable
    from ._watch import watch, watch_loop

__all__ = [
    "Capture",
    "Diff",
    "DiffRow",
    "Divide",
    "Endpoint",
    "Frame",
    "FunctionRow",
    "Leak",
    "LeakStack",
    "LeakTable",
    "LockStatus",
    "MemoryAccount",
    "MemoryStatus",
    "Profile",
    "RouteFigures",
    "RprofError",
    "RprofMemoryError",
    "RprofOSError",
    "RprofStateError",
    "RprofTypeError",
    "RprofValueError",
    "SampleType",
    "Status",
    "TaskSteps",
    "ThreadInfo",
    "ThreadTotals",
    "TopTable",
    "Wait",
    "WaitParty",
    "WaitTable",
    "__version__",
    "current_labels",
    "dump",
    "dump_on_signal",
    "flush",
    "heap",
    "is_running",
    "labels",
    "leaks",
    "load",
    "memory_account",
    "merge",
    "profile",
    "profile_next",
    "recent",
    "request",
    "routes",
    "serve",
    "start",
    "status",
    "stop",
    "task_steps",
    "watch",
    "watch_loop",
]

# Where each name is. Modules are loaded on first use, so that importing rprof loads nothing that
# the interpreter has not loaded by itself, costs next to nothing, and works in a sub-interpreter
# and where the native module cannot be loaded.
_LAZY = {
    "Capture": "_requests",
    "Diff": "_diff",
    "DiffRow": "_diff",
    "Divide": "_tables",
    "Endpoint": "_endpoint",
    "Frame": "_tables",
    "FunctionRow": "_tables",
    "Leak": "_leaks",
    "LeakStack": "_leaks",
    "LeakTable": "_leaks",
    "LockStatus": "_continuous",
    "MemoryAccount": "_account",
    "MemoryStatus": "_continuous",
    "Profile": "_profile",
    "RouteFigures": "_requests",
    "SampleType": "_tables",
    "Status": "_continuous",
    "TaskSteps": "_continuous",
    "ThreadInfo": "_config",
    "ThreadTotals": "_tables",
    "TopTable": "_tables",
    "Wait": "_waits",
    "WaitParty": "_waits",
    "WaitTable": "_waits",
    "__version__": "_native",
    "current_labels": "_native",
    "dump": "_dumps",
    "dump_on_signal": "_dumps",
    "flush": "_continuous",
    "heap": "_continuous",
    "is_running": "_continuous",
    "labels": "_native",
    "leaks": "_leaks",
    "load": "_reading",
    "load_ipython_extension": "_ipython",
    "memory_account": "_account",
    "merge": "_reading",
    "profile": "_block",
    "profile_next": "_requests",
    "recent": "_continuous",
    "request": "_native",
    "routes": "_requests",
    "serve": "_endpoint",
    "start": "_continuous",
    "status": "_continuous",
    "stop": "_continuous",
    "task_steps": "_continuous",
    "watch": "_watch",
    "watch_loop": "_watch",
}


def __getattr__(name: str) -> "Any":
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'rprof' has no attribute {name!r}")
    value = getattr(_loaded(module), name)
    globals()[name] = value
    return value


def _loaded(module: str) -> "Any":
    """Load one of our modules, each by a statement: what freezes programs follows those."""
    if module == "_account":
        from . import _account

        return _account
    if module == "_block":
        from . import _block

        return _block
    if module == "_config":
        from . import _config

        return _config
    if module == "_continuous":
        from . import _continuous

        return _continuous
    if module == "_diff":
        from . import _diff

        return _diff
    if module == "_dumps":
        from . import _dumps

        return _dumps
    if module == "_endpoint":
        from . import _endpoint

        return _endpoint
    if module == "_ipython":
        from . import _ipython

        return _ipython
    if module == "_leaks":
        from . import _leaks

        return _leaks
    if module == "_native":
        return _loading.native()
    if module == "_profile":
        from . import _profile

        return _profile
    if module == "_reading":
        from . import _reading

        return _reading
    if module == "_requests":
        from . import _requests

        return _requests
    if module == "_tables":
        from . import _tables

        return _tables
    if module == "_waits":
        from . import _waits

        return _waits
    from . import _watch

    return _watch


def _watching() -> "Any":
    """Load what watches slow requests, for the first of them."""
    from . import _watch

    return _watch


_loading.hand_in(_watching)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
