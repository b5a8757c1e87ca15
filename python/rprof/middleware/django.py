"""Middleware for Django, under WSGI and ASGI."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

from ._options import UNMATCHED, Options, capture_only, page

if TYPE_CHECKING:
    from .._requests import request as Request

__all__ = ["RprofMiddleware"]


class RprofMiddleware:
    """Makes each request an ``rprof.request`` with the URL pattern for its route.

    >>> MIDDLEWARE = ["rprof.middleware.django.RprofMiddleware", ...]       # the first
    >>> RPROF = {"slow_after": 2.0}                                         # optional

    The setting ``RPROF`` has the options of ``rprof.middleware.Options``. A view finds its
    ``rprof.request`` at ``request.rprof``.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        from asgiref.sync import iscoroutinefunction, markcoroutinefunction
        from django.conf import settings

        self._get_response = get_response
        self._options = Options(**getattr(settings, "RPROF", {}))
        self._is_async = iscoroutinefunction(get_response)
        self.process_view: Callable[..., Any] = self._note_route
        if self._is_async:
            markcoroutinefunction(self)
            # Django would call the other in a thread.
            self.process_view = self._note_route_async

    def __call__(self, request: Any) -> Any:
        """Answer a request."""
        options = self._options
        begun = options.request(request.method, request.path, request, UNMATCHED)
        request.rprof = begun
        wants_page = options.on_demand is not None and options.wants_page(
            request.META.get("QUERY_STRING", ""), request
        )
        if self._is_async:
            return self._answer_async(request, begun, wants_page)
        if wants_page:
            with capture_only(begun) as capture:
                with begun:
                    self._swallow(self._get_response(request))
                return _page(capture, begun.name)
        begun.__enter__()
        try:
            response = self._get_response(request)
        except BaseException as error:
            begun.__exit__(type(error), error, error.__traceback__)
            raise
        return _until_closed(begun, response)

    async def _answer_async(self, request: Any, begun: Request, wants_page: bool) -> Any:
        if wants_page:
            with capture_only(begun) as capture:
                with begun:
                    response = await self._get_response(request)
                    if getattr(response, "is_async", False):
                        async for _ in response:
                            pass
                        response.close()
                    else:
                        self._swallow(response)
                return _page(capture, begun.name)
        begun.__enter__()
        try:
            response = await self._get_response(request)
        except BaseException as error:
            begun.__exit__(type(error), error, error.__traceback__)
            raise
        return _until_closed(begun, response)

    @staticmethod
    def _swallow(response: Any) -> None:
        try:
            if response.streaming:
                for _ in response.streaming_content:
                    pass
        finally:
            response.close()

    @staticmethod
    def _note_route(request: Any, *_: Any) -> None:
        begun, match = request.rprof, request.resolver_match
        if begun.route == UNMATCHED and match is not None:
            begun.set_route(f"/{match.route}")

    @staticmethod
    async def _note_route_async(request: Any, *_: Any) -> None:
        RprofMiddleware._note_route(request)


def _until_closed(begun: Request, response: Any) -> Any:
    """End a request with its response, which for one that streams is when it is closed."""
    if not getattr(response, "streaming", False):
        begun.__exit__(None, None, None)
        return response
    begun.pause()
    # A file is left to the kernel where the server can do that.
    if getattr(response, "file_to_stream", None) is None:
        steps = _steps_async if getattr(response, "is_async", False) else _steps
        response.streaming_content = steps(begun, response.streaming_content)
    close = response.close

    def close_and_end() -> None:
        begun.resume()
        try:
            close()
        finally:
            begun.__exit__(None, None, None)

    response.close = close_and_end
    return response


def _steps(begun: Request, parts: Iterator[bytes]) -> Iterator[bytes]:
    while True:
        begun.resume()
        try:
            part = next(parts)
        except StopIteration:
            return
        finally:
            begun.pause()
        yield part


async def _steps_async(begun: Request, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    while True:
        begun.resume()
        try:
            part = await parts.__anext__()
        except StopAsyncIteration:
            return
        finally:
            begun.pause()
        yield part


def _page(capture: Any, name: str) -> Any:
    from django.http import HttpResponse

    answer = HttpResponse(page(capture, name))
    answer["Cache-Control"] = "no-store"
    return answer
