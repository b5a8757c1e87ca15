"""A filter for PasteDeploy, with whose .ini files Zope and Pyramid put their applications together.

::

    [filter:rprof]
    use = egg:rprof
    start = true
    output = %(here)s/rprof
    slow_after = 2.0
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pkgutil import resolve_name
from typing import Any

from .. import _continuous, _endpoint
from .._config import OPTIONS, resolve
from ..errors import RprofError, RprofTypeError, RprofValueError
from ._options import Options
from .wsgi import RoutedMiddleware, WSGIMiddleware

__all__ = ["filter_factory"]

_TRUTH = dict.fromkeys(("true", "yes", "on", "1"), True)
_TRUTH |= dict.fromkeys(("false", "no", "off", "0"), False)


def filter_factory(global_conf: Mapping[str, str], **local_conf: str) -> Callable[[Any], Any]:
    """Make each request of a WSGI application an ``rprof.request``, as a section of an .ini says.

    Of Zope the path of the published object is the route, and of Pyramid the route pattern where
    ``rprof.middleware.pyramid`` is included. See ``WSGIMiddleware`` for any other.

    Args:
        global_conf: What all sections share; only the file's name is looked at.
        **local_conf: The options of ``rprof.middleware.Options``: ``slow_after``, ``repeat`` (both
            in seconds), ``route`` (a function, as ``module:name``), ``on_demand`` (a secret). With
            ``start = true`` also those of ``rprof.start``, which is then called when the
            application is put together, unless profiling is on already; their variables count as
            well. ``serve`` is the address for ``rprof.serve``, with the token
            ``RPROF_SERVE_TOKEN``. Where neither is possible, the application goes on, with a
            warning on the ``rprof`` logger.

    Returns:
        The filter: called with an application, it returns what answers in its stead.

    Raises:
        RprofTypeError: An unknown option.
        RprofValueError: A value that cannot be read, or that is out of range.
    """
    place = f"the filter of rprof in {global_conf.get('__file__', 'the .ini file')}"
    try:
        values = {name: _read(name, text) for name, text in local_conf.items()}
        start, serve = values.pop("start", None), values.pop("serve", None)
        options = {name: values.pop(name) for name in _MIDDLEWARE & set(values)}
        # Whoever turns it off may leave the others where they are.
        if values and start is None:
            raise RprofValueError(f"{min(values)} is an option of profiling: add start = true")
        # They are told where the application is put together.
        resolve(values, environment={})
        Options(**options)
    except RprofError as error:
        raise type(error)(f"{place}: {error}") from None

    def install(application: Any) -> Any:
        if start and not _continuous.is_running():
            _continuous.start_if_possible(**values)
        if serve is not None:
            try:
                _endpoint.serve_if_possible(serve)
            except RprofValueError as error:
                raise RprofValueError(f"{place}: serve={serve!r}: {error}") from None
        # The application has been made, and has loaded what it needs.
        kind = RoutedMiddleware if _tells_routes() else WSGIMiddleware
        return kind(application, **options)

    return install


def _tells_routes() -> bool:
    if "ZPublisher.WSGIPublisher" in sys.modules:
        from .zope import watch_publisher

        watch_publisher()
        return True
    return f"{__package__}.pyramid" in sys.modules


def _truth(text: str) -> bool:
    try:
        return _TRUTH[text.lower()]
    except KeyError:
        raise ValueError from None


# How the text of an option becomes its value, and an example of it.
_READERS: dict[str, tuple[Callable[[str], Any], Any]] = {
    "slow_after": (float, 2.0),
    "repeat": (float, 1.0),
    "route": (resolve_name, "package.module:function"),
    "on_demand": (str, "a secret"),
    "start": (_truth, "true"),
    "serve": (str, "127.0.0.1:0"),
}
_MIDDLEWARE = {"slow_after", "repeat", "route", "on_demand"}
_READERS |= {name: (option.parse, option.default) for name, option in OPTIONS.items()}


def _read(name: str, text: str) -> Any:
    try:
        read, example = _READERS[name]
    except KeyError:
        raise RprofTypeError(
            f"unknown option {name}; the options are {', '.join(_READERS)}"
        ) from None
    try:
        return read(text)
    except (ValueError, ImportError, AttributeError) as error:
        why = f" ({error})" if name == "route" else ""
        raise RprofValueError(
            f"{name}={text!r} cannot be read{why}; write for example {name} = {example}, or remove "
            "the line"
        ) from None
