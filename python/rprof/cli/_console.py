"""Words on the terminal: complaints, hints, progress, colour."""

from __future__ import annotations

import os
import shlex
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO, TypeVar

_T = TypeVar("_T")

# Of the call tree, and what they become in ASCII.
_LINES: dict[str, str | int | None] = {"│": "|", "├": "+", "└": "`", "─": "-", "…": "..."}
_PATIENCE_SECONDS = 1.0
_REDRAW_SECONDS = 0.2


def complain(message: str) -> None:
    """Say on stderr what went wrong."""
    say(f"rprof: {message}")


def say(message: str) -> None:
    """Say something on stderr: stdout is for results."""
    # None where it was closed when the process began; print would take stdout in its place.
    if sys.stderr is None:
        return
    try:
        print(message, file=sys.stderr)
    except OSError:
        # It is full, or nobody reads it.
        return


def show_what_can_be_shown() -> None:
    """Have escapes written for what the encoding of stdout lacks, as tracebacks do."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def drawn(text: str) -> str:
    """Return text whose lines are drawn with what the encoding of stdout has."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        "".join(_LINES).encode(encoding)
    except UnicodeEncodeError:
        return text.translate(str.maketrans(_LINES))
    return text


def suggest(*words: str | os.PathLike[str]) -> None:
    """Name the command that comes next, when somebody is there to read it."""
    if _is_terminal(sys.stderr):
        say("next: " + shlex.join(os.fspath(word) for word in words))


def wants_colour(choice: str) -> bool:
    """Tell whether to write colours, from ``auto``, ``always`` or ``never``.

    ``NO_COLOR`` (https://no-color.org) and ``TERM=dumb`` count for ``auto``.
    """
    if choice != "auto":
        return choice == "always"
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return _is_terminal(sys.stdout)


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


class Progress:
    """How far a piece of work has come."""

    def __init__(self, doing: str, count: int) -> None:
        self.doing = doing
        self.count = count
        self.done = 0

    def steps(self, items: Iterable[_T]) -> Iterator[_T]:
        """Give one item after the other, and count them."""
        for item in items:
            yield item
            self.done += 1

    def line(self, seconds: float) -> str:
        """Return what to show after so many seconds."""
        count = f", {self.done} of {self.count}" if self.count > 1 else ""
        return f"{self.doing}{count} ({seconds:.0f} s)"


@contextmanager
def progress(doing: str, count: int = 1) -> Iterator[Progress]:
    """Show on a terminal how far the work in the block is, if it takes longer than a second."""
    shown = Progress(doing, count)
    if not _is_terminal(sys.stderr):
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
        # A terminal that does not know its size says 0.
        width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
        text = shown.line(time.monotonic() - began)[: max(width - 1, 1)]
        # Return to the first column, erase to the end of the line (ECMA-48).
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()
        if over.wait(_REDRAW_SECONDS):
            break
    sys.stderr.write("\r\x1b[K")
    sys.stderr.flush()
