"""The routes of Pyramid: the patterns of its route configuration."""

from __future__ import annotations

from typing import Any

from ._options import generic_route
from .wsgi import note_route

__all__ = ["includeme"]


def includeme(config: Any) -> None:
    """Have an application tell the filter of ``rprof.middleware.paste`` its routes.

    By ``config.include("rprof.middleware.pyramid")``, or in the .ini, beside what is there::

        pyramid.includes = rprof.middleware.pyramid

    Args:
        config: The ``pyramid.config.Configurator``.
    """
    from pyramid.events import ContextFound

    config.add_subscriber(_note_route, ContextFound)


def _note_route(event: Any) -> None:
    from pyramid.traversal import DefaultRootFactory

    request = event.request
    if request.matched_route is not None:
        note_route(request.environ, "/" + request.matched_route.pattern.lstrip("/"))
    elif not isinstance(request.root, DefaultRootFactory):
        # The application has a tree of resources instead.
        note_route(request.environ, generic_route(request.path))
