"""``rprof.labels``: the Python side of what the application says it is doing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ._decorate import decorate as _decorate
from ._native import current_labels, labels

__all__ = ["current_labels", "labels"]


class _Call:
    """One call of a decorated function."""

    def __init__(self, entered: labels) -> None:
        self._labels = entered

    def __enter__(self) -> None:
        self._labels.__enter__()

    def __exit__(self, *details: Any) -> None:
        self._labels.__exit__()

    pause = __exit__
    resume = __enter__


def decorate(entered: labels, function: Callable[..., Any]) -> Callable[..., Any]:
    """Put the labels in force while `function` runs; called by the native class."""
    wrapper: Callable[..., Any] = _decorate(function, partial(_Call, entered))
    return wrapper


def unpickled(items: dict[str, str]) -> labels:
    """Make labels again that were pickled; named in what the native class pickles."""
    return labels(**items)
