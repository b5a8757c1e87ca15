"""Middleware for Django, under WSGI and ASGI."""

from __future__ import annotations

from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Any

from ._options import UNMATCHED, Options, capture_only, page

__all__ = ["RprofMiddleware"]


class RprofMiddleware:
    """Makes each request an ``rprof.request`` with the URL pattern for its route.

    >>> MIDDLEWARE = ["rprof.middleware.django.RprofMiddleware", ...]       # the first
    >>> RPROF = {"slow_after": 2.0}                                         # optional

    The setting ``RPROF`` has the options of ``rprof.middleware.Options``.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        from django.conf import settings

        self._get_response = get_response
        self._options = Options(**getattr(settings, "RPROF", {}))
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            from asgiref.sync import markcoroutinefunction

            markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        """Answer a request."""
        options = self._options
        known = None if options.route is not None else UNMATCHED
        begun = options.request(request.method, request.path, request, known)
        request.rprof = begun
        wants_page = options.on_demand is not None and options.wants_page(
            request.META.get("QUERY_STRING", ""), request
        )
        if self._is_async:
            return self._answer_async(request, begun, wants_page)
        if wants_page:
            with capture_only(begun) as capture:
                with begun:
                    self._get_response(request)
                return _page(capture, begun.name)
        with begun:
            return self._get_response(request)

    async def _answer_async(self, request: Any, begun: Any, wants_page: bool) -> Any:
        if wants_page:
            with capture_only(begun) as capture:
                with begun:
                    await self._get_response(request)
                return _page(capture, begun.name)
        with begun:
            return await self._get_response(request)

    def process_view(self, request: Any, *_: Any) -> None:
        """Note the route, which is known now."""
        if self._options.route is None and request.resolver_match is not None:
            request.rprof.set_route("/" + request.resolver_match.route)


def _page(capture: Any, name: str) -> Any:
    from django.http import HttpResponse

    answer = HttpResponse(page(capture, name))
    answer["Cache-Control"] = "no-store"
    return answer
