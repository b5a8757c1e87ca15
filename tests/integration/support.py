"""What integration tests have in common."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

Answer = TypeVar("Answer")

ENGINE = os.environ.get("RPROF_CI_ENGINE", "direct")
"""The engine that tests without one of their own get; the suite runs with each."""

LONG = bool(os.environ.get("RPROF_CI_LONG"))
"""Sizes of the long run rather than those of every change."""


def eventually(
    ask: Callable[[], Answer],
    what: str,
    *,
    patience: float = 60,
    passing: tuple[type[Exception], ...] = (),
) -> Answer:
    """Ask until there is an answer; the waiting is for another process, which has no event.

    Args:
        ask: Returns what is true once it has come to that.
        what: What is waited for, for the failure.
        patience: Seconds until it is one.
        passing: Errors that mean "not yet".
    """
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        with suppress(*passing):
            if answer := ask():
                return answer
        time.sleep(0.02)
    raise AssertionError(f"not within {patience} s: {what}")
