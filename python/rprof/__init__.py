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

    from ._block import profile
    from ._config import ThreadInfo
    from ._diff import Diff, DiffRow
    from ._endpoint import Endpoint, serve
    from ._native import __version__, current_labels, labels, request
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
    from ._requests import Capture, RouteFigures, profile_next, routes
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
    "RprofMemoryError",
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

# Where each name is. Modules are loaded on first use, so that importing rprof loads nothing that
# the interpreter has not loaded by itself, costs next to nothing, and works in a sub-interpreter
# and where the native module cannot be loaded.
_LAZY = {
    "Capture": "_requests",
    "Diff": "_diff",
    "DiffRow": "_diff",
    "Divide": "_profile",
    "Endpoint": "_endpoint",
    "Frame": "_profile",
    "FunctionRow": "_profile",
    "Profile": "_profile",
    "RouteFigures": "_requests",
    "SampleType": "_profile",
    "Status": "_session",
    "ThreadInfo": "_config",
    "ThreadTotals": "_profile",
    "TopTable": "_profile",
    "__version__": "_native",
    "current_labels": "_native",
    "dump": "_session",
    "dump_on_signal": "_session",
    "flush": "_session",
    "is_running": "_session",
    "labels": "_native",
    "load": "_profile",
    "load_ipython_extension": "_ipython",
    "merge": "_profile",
    "profile": "_block",
    "profile_next": "_requests",
    "recent": "_session",
    "request": "_native",
    "routes": "_requests",
    "serve": "_endpoint",
    "start": "_session",
    "status": "_session",
    "stop": "_session",
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
    if module == "_block":
        from . import _block

        return _block
    if module == "_config":
        from . import _config

        return _config
    if module == "_diff":
        from . import _diff

        return _diff
    if module == "_endpoint":
        from . import _endpoint

        return _endpoint
    if module == "_ipython":
        from . import _ipython

        return _ipython
    if module == "_native":
        from ._loading import native

        return native()
    if module == "_profile":
        from . import _profile

        return _profile
    if module == "_requests":
        from . import _requests

        return _requests
    if module == "_watch":
        from . import _watch

        return _watch
    from . import _session

    return _session


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
