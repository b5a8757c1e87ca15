"""The routes of Zope: the paths of the objects that its publisher has found."""

from __future__ import annotations

import functools
from typing import Any

from .._process import log
from ._options import generic_route
from .wsgi import note_route

__all__ = ["watch_publisher"]


@functools.cache
def watch_publisher() -> None:
    """Have Zope's publisher tell each request of ours what it publishes."""
    from zope.component import provideHandler
    from ZPublisher.interfaces import IPubAfterTraversal

    provideHandler(_note_published, (IPubAfterTraversal,))


def _note_published(event: Any) -> None:
    try:
        request = event.request
        note_route(request.environ, generic_route(_path(request["PUBLISHED"])))
    except Exception:
        log().warning("the route of a request cannot be told", exc_info=True)


def _path(published: Any) -> str:
    """Return the path of an object, or of that to which a method or a view belongs and its name."""
    from Acquisition import aq_base, aq_inner, aq_parent

    names: list[str] = []
    at = published
    # What has a path of its own, not one that is acquired.
    while at is not None and not hasattr(aq_base(at), "getPhysicalPath"):
        names.append(getattr(at, "__name__", None) or type(at).__name__)
        owner = getattr(at, "__self__", None)
        at = owner if owner is not None else aq_parent(aq_inner(at))
    above = at.getPhysicalPath() if at is not None else ("",)
    return "/".join([*above, *reversed(names)]) or "/"
