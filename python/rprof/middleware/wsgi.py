"""Middleware for every WSGI application."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ._options import Options, capture_only, page

if TYPE_CHECKING:
    from .._requests import request

__all__ = ["KEY", "WSGIMiddleware"]

KEY = "rprof.request"
"""Where an application finds its ``rprof.request`` in the environ, for ``set_route``."""

_Environ = dict[str, Any]
_Application = Callable[[_Environ, Callable[..., Any]], Iterable[bytes]]


class WSGIMiddleware:
    """Makes each request of a WSGI application an ``rprof.request``.

    It lasts until the answer has been sent: what a server reads from a generator belongs to it.

    >>> application = WSGIMiddleware(application, slow_after=2.0)

    Args:
        application: What answers.
        **options: As of ``rprof.middleware.Options``.
    """

    known_route: str | None = None
    """The route to begin with, where a framework will tell the right one."""

    def __init__(self, application: _Application, **options: Any) -> None:
        self._application = application
        self._options = Options(**options)

    def __call__(self, environ: _Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request."""
        options = self._options
        begun = options.request(
            environ.get("REQUEST_METHOD", ""),
            environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", ""),
            environ,
            self.known_route,
        )
        environ[KEY] = begun
        if options.on_demand is not None and options.wants_page(
            environ.get("QUERY_STRING", ""), environ
        ):
            return self._profiled(begun, environ, start_response)
        begun.__enter__()
        try:
            answer = self._application(environ, start_response)
        except BaseException as error:
            begun.__exit__(type(error), error, error.__traceback__)
            raise
        if type(answer) in (list, tuple) or _is_file(answer, environ):
            # Nothing is computed any more while it is sent.
            begun.__exit__(None, None, None)
            return answer
        return _Answer(begun, answer)

    def _profiled(
        self, begun: request, environ: _Environ, start_response: Callable[..., Any]
    ) -> list[bytes]:
        def swallow(*_: Any) -> Callable[[bytes], None]:
            return lambda _: None

        with capture_only(begun) as capture:
            with begun:
                answer = self._application(environ, swallow)
                try:
                    for _ in answer:
                        pass
                finally:
                    _close(answer)
            body = page(capture, begun.name)
        headers = [
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
        ]
        start_response("200 OK", headers)
        return [body]


def _is_file(answer: Iterable[bytes], environ: _Environ) -> bool:
    """Whether a server would have the kernel send it, which only works for the object itself."""
    wrapper = environ.get("wsgi.file_wrapper")
    # uWSGI's wrapper is a function that returns the file.
    return isinstance(answer, io.IOBase) or (
        isinstance(wrapper, type) and isinstance(answer, wrapper)
    )


def _close(answer: Iterable[bytes]) -> None:
    close = getattr(answer, "close", None)
    if close is not None:
        close()


class _Answer:
    """An answer that is made while it is sent.

    Its first part is made at once: the server would ask for it next, and most have no other.
    """

    def __init__(self, begun: request, answer: Iterable[bytes]) -> None:
        self._begun: request | None = begun
        self._answer = answer
        self._error: BaseException | None = None
        # Whether this code is part of the request at the moment.
        self._resumed = True
        try:
            self._parts = iter(answer)
            self._first = next(self._parts, None)
        except BaseException as error:
            self._error = error
            self.close()
            raise
        # Of an answer without any part only the end is to come.
        if self._first is not None:
            self._pause(begun)

    def __iter__(self) -> _Answer:
        return self

    def __next__(self) -> bytes:
        first = self._first
        if first is not None:
            self._first = None
            return first
        begun = self._begun
        if begun is None:
            raise StopIteration
        self._resume(begun)
        try:
            part = next(self._parts)
        except StopIteration:
            # The server calls close() now, which belongs to the request as well.
            raise
        except BaseException as error:
            self._error = error
            self._pause(begun)
            raise
        self._pause(begun)
        return part

    def _resume(self, begun: request) -> None:
        if not self._resumed:
            self._resumed = True
            begun.resume()

    def _pause(self, begun: request) -> None:
        self._resumed = False
        begun.pause()

    def close(self) -> None:
        begun, self._begun = self._begun, None
        if begun is None:
            return
        error, self._error = self._error, None
        self._resume(begun)
        try:
            _close(self._answer)
        finally:
            begun.__exit__(None, error, None)

    def __del__(self) -> None:
        # A server that does not call close() breaks WSGI, and would leave a request without end.
        if self._begun is not None:
            self._begun.__exit__(None, None, None)
