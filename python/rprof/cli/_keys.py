"""Keys that are pressed while a command goes on, one by one, where there is a terminal."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["keys_read", "pressed"]


@contextmanager
def keys_read() -> Iterator[bool]:
    """Have keys come at once and unseen while the block runs; tell whether they do.

    They do not without a terminal, nor in a background job, which a change of the terminal's mode
    would stop.
    """
    if not _is_terminal_ours():
        yield False
        return
    before = termios.tcgetattr(sys.stdin)
    # Ctrl-C and Ctrl-Z keep their meaning.
    tty.setcbreak(sys.stdin)
    try:
        yield True
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def pressed() -> str:
    """Return the keys that were pressed since the last call; empty if there are none."""
    terminal = sys.stdin.fileno()
    if not select.select([terminal], [], [], 0)[0]:
        return ""
    return os.read(terminal, 1024).decode("ascii", "ignore")


def _is_terminal_ours() -> bool:
    # None where it was closed when the process began.
    if sys.stdin is None or not sys.stdin.isatty():
        return False
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except OSError:
        return False
