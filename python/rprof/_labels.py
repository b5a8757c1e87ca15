"""``rprof.labels``: the Python side of what the application says it is doing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ._decorate import decorate as _decorate
from ._native import labels

__all__ = ["decorate", "unpickled"]


def decorate(entered: labels, function: Callable[..., Any]) -> Callable[..., Any]:
    """Put the labels in force while `function` runs; called by the native class.

    The class itself is the context manager of each call, for an exception of a signal's handler may
    come between two instructions of a Python function that has entered it.
    """
    wrapper: Callable[..., Any] = _decorate(function, partial(_same, entered))
    return wrapper


def _same(entered: labels) -> labels:
    return entered


def unpickled(items: dict[str, str]) -> labels:
    """Make labels again that were pickled; named in what the native class pickles."""
    return labels(**items)
