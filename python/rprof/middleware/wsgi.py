"""Middleware for every WSGI application."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from .. import _hooks
from ._options import UNMATCHED, Options, capture_only, generic_route, page

if TYPE_CHECKING:
    from .._requests import request

__all__ = ["KEY", "RoutedMiddleware", "WSGIMiddleware", "note_route"]

KEY = "rprof.request"
"""Where an application finds its ``rprof.request`` in the environ, for ``set_route``."""

_Environ = dict[str, Any]
_Application = Callable[[_Environ, Callable[..., Any]], Iterable[bytes]]


class WSGIMiddleware:
    """Makes each request of a WSGI application an ``rprof.request``.

    It lasts until the answer has been sent: what a server reads from a generator belongs to it. So
    does the sending of a file that was handed to ``wsgi.file_wrapper``, until it is closed.

    >>> application = WSGIMiddleware(application, slow_after=2.0)

    Args:
        application: What answers.
        **options: As of ``rprof.middleware.Options``.
    """

    known_route: str | None = None
    """The route to begin with, where a framework will tell the right one."""

    def __init__(self, application: _Application, **options: Any) -> None:
        self._application = application
        self._options = chosen = Options(**options)
        self._serve = _hooks.native().WsgiServer(
            application,
            chosen.model,
            {
                "make_route": generic_route,
                "known_route": self.known_route if chosen.route is None else None,
                "choose_route": self._choose_route if chosen.route is not None else None,
                "answer_instead": self._page_instead if chosen.on_demand is not None else None,
                "end_at_close": _end_at_close,
            },
        )

    def __call__(self, environ: _Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request."""
        answer: Iterable[bytes] = self._serve(environ, start_response)
        return answer

    def _choose_route(self, environ: _Environ, path: str) -> str:
        return self._options.choose_route(environ, path, self.known_route)

    def _page_instead(
        self, begun: request, environ: _Environ, start_response: Callable[..., Any]
    ) -> list[bytes] | None:
        if not self._options.wants_page(environ.get("QUERY_STRING", ""), environ):
            return None
        return self._profiled(begun, environ, start_response)

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


class RoutedMiddleware(WSGIMiddleware):
    """The same for an application whose framework tells the routes, by ``note_route``."""

    known_route = UNMATCHED


def note_route(environ: _Environ, route: str) -> None:
    """Tell the route of a request, unless the application has told one."""
    # No request is there in an application's own tests that make none, or where it is renamed.
    begun = environ.get(KEY)
    if begun is not None and begun.route == UNMATCHED:
        begun.set_route(route)


class _Closing:
    """The ``close`` of an answer that the server sends by itself; ends the request as well."""

    def __init__(self, begun: request, close: Callable[[], Any]) -> None:
        self._begun: request | None = begun
        self._close = close

    def __call__(self) -> None:
        begun, self._begun = self._begun, None
        if begun is None:
            self._close()
            return
        # Its own code, if it has any, belongs to the request.
        begun.resume()
        error: BaseException | None = None
        try:
            self._close()
        except BaseException as raised:
            error = raised
            raise
        finally:
            begun.__exit__(None, error)

    def __del__(self) -> None:
        # A server that does not close what it was given breaks WSGI; the request ends all the same.
        begun, self._begun = self._begun, None
        if begun is not None:
            begun.__exit__()


def _end_at_close(answer: Any, begun: request) -> bool:
    """Have a request end when the server closes its answer, a file; whether that is possible.

    The answer itself is handed to the server: for another object it could not ask the kernel to
    send the file.
    """
    own = getattr(answer, "__dict__", None)
    if own is None:
        return False
    close = own.get("close")
    if close is None:
        # Not the bound method: a file that refers to itself is closed late.
        method, known = getattr(type(answer), "close", None), weakref.ref(answer)
        if method is None:
            return False

        def close() -> None:
            there = known()
            if there is not None:
                method(there)

    closing = _Closing(begun, close)
    try:
        answer.close = closing
    except (AttributeError, TypeError):
        closing._begun = None
        return False
    return True


def _close(answer: Iterable[bytes]) -> None:
    close = getattr(answer, "close", None)
    if close is not None:
        close()
