"""rprof: a sampling profiler that is imported once and left on in production.

>>> import rprof
>>> rprof.start()           # writes gzip pprof files to rprof/, one a minute

>>> with rprof.profile() as block:
...     work()
>>> print(block.profile.top(10, by="cpu"))

Importing defines names and does nothing else; ``import rprof.auto`` starts profiling from the
environment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._block import profile
from ._config import ThreadInfo
from ._session import (
    Status,
    dump,
    dump_on_signal,
    flush,
    is_running,
    recent,
    start,
    status,
    stop,
)
from .errors import (
    RprofError,
    RprofOSError,
    RprofStateError,
    RprofTypeError,
    RprofValueError,
)

if TYPE_CHECKING:
    from ._diff import Diff, DiffRow
    from ._endpoint import Endpoint, serve
    from ._labels import current_labels, labels
    from ._native import __version__
    from ._profile import (
        Divide,
        Frame,
        FunctionRow,
        Profile,
        SampleType,
        ThreadTotals,
        TopTable,
        load,
        merge,
    )
    from ._requests import Capture, RouteFigures, profile_next, request, routes
    from ._watch import watch, watch_loop

__all__ = [
    "Capture",
    "Diff",
    "DiffRow",
    "Divide",
    "Endpoint",
    "Frame",
    "FunctionRow",
    "Profile",
    "RouteFigures",
    "RprofError",
    "RprofOSError",
    "RprofStateError",
    "RprofTypeError",
    "RprofValueError",
    "SampleType",
    "Status",
    "ThreadInfo",
    "ThreadTotals",
    "TopTable",
    "__version__",
    "current_labels",
    "dump",
    "dump_on_signal",
    "flush",
    "is_running",
    "labels",
    "load",
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
    "watch",
    "watch_loop",
]

# Names whose modules load the native library, or more than everybody needs; they are looked up on
# first use, so that importing rprof costs next to nothing and works even where the library cannot
# be loaded.
_LAZY = {
    "Diff": "_diff",
    "DiffRow": "_diff",
    "FunctionRow": "_profile",
    "Frame": "_profile",
    "Profile": "_profile",
    "SampleType": "_profile",
    "ThreadTotals": "_profile",
    "TopTable": "_profile",
    "load": "_profile",
    "merge": "_profile",
    "__version__": "_native",
    "load_ipython_extension": "_ipython",
    "Endpoint": "_endpoint",
    "current_labels": "_labels",
    "labels": "_labels",
    "Capture": "_requests",
    "RouteFigures": "_requests",
    "profile_next": "_requests",
    "request": "_requests",
    "routes": "_requests",
    "Divide": "_profile",
    "watch": "_watch",
    "watch_loop": "_watch",
    "serve": "_endpoint",
}


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'rprof' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
