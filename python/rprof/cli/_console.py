"""Words on the terminal: complaints, hints, progress, colour."""

from __future__ import annotations

import os
import shlex
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_PATIENCE_SECONDS = 1.0
_REDRAW_SECONDS = 0.2


def complain(message: str) -> None:
    """Say on stderr what went wrong."""
    print(f"rprof: {message}", file=sys.stderr)


def say(message: str) -> None:
    """Say something on stderr: stdout is for results."""
    print(message, file=sys.stderr)


def suggest(*words: str | os.PathLike[str]) -> None:
    """Name the command that comes next, when somebody is there to read it."""
    if sys.stderr.isatty():
        say("next: " + shlex.join(os.fspath(word) for word in words))


def wants_colour(choice: str) -> bool:
    """Tell whether to write colours, from ``auto``, ``always`` or ``never``.

    ``NO_COLOR`` (https://no-color.org) and ``TERM=dumb`` count for ``auto``.
    """
    if choice != "auto":
        return choice == "always"
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return sys.stdout.isatty()


class Progress:
    """How far a piece of work has come."""

    def __init__(self, doing: str, steps: int) -> None:
        self.doing = doing
        self.steps = steps
        self.done = 0
        self.name = ""

    def step(self, name: str) -> None:
        """Begin the next step."""
        self.name = name
        self.done += 1

    def line(self, seconds: float) -> str:
        """Return what to show after so many seconds."""
        count = f" {self.done} of {self.steps}" if self.steps > 1 else ""
        return f"{self.doing}{count} {self.name} ({seconds:.0f} s)"


@contextmanager
def progress(doing: str, steps: int = 1) -> Iterator[Progress]:
    """Show on a terminal how far the work in the block is, if it takes longer than a second."""
    shown = Progress(doing, steps)
    if not sys.stderr.isatty():
        yield shown
        return
    over = threading.Event()
    drawer = threading.Thread(target=_draw, args=(shown, over), name="progress", daemon=True)
    drawer.start()
    try:
        yield shown
    finally:
        over.set()
        drawer.join()


def _draw(shown: Progress, over: threading.Event) -> None:
    began = time.monotonic()
    if over.wait(_PATIENCE_SECONDS):
        return
    while True:
        width = os.get_terminal_size(sys.stderr.fileno()).columns
        text = shown.line(time.monotonic() - began)[: max(width - 1, 1)]
        # Return to the first column, erase to the end of the line (ECMA-48).
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()
        if over.wait(_REDRAW_SECONDS):
            break
    sys.stderr.write("\r\x1b[K")
    sys.stderr.flush()


def quoted(paths: Sequence[str]) -> list[str]:
    """Return the paths for a suggestion, not more than fit on a line."""
    return list(paths) if len(paths) <= 3 else [*paths[:2], "..."]
