"""Reads the source files that a profile names."""

from __future__ import annotations

import os
import tokenize
from collections.abc import Iterable

__all__ = ["read"]

_SUFFIXES = (".py", ".pyw", ".pyx")
_FILE_BYTES = 1 << 20
_ALL_BYTES = 8 << 20


def read(files: Iterable[str], recorded_ns: int = 0) -> dict[str, str]:
    """Return the text of each file that is there, is Python source and is as it was recorded.

    A profile can come from anywhere and name any file: only Python source is read, so that a page
    which is passed on carries nothing else along. Files of more than 1 MiB are left out, and so is
    what comes after 8 MiB in all.

    Args:
        files: Names as the profile has them, the most important first.
        recorded_ns: When the recording began. A file that was changed later is left out: its lines
            are no longer those that were measured.
    """
    found: dict[str, str] = {}
    left = _ALL_BYTES
    for file in files:
        if file in found or not os.path.isabs(file):
            continue
        text = _text(file, recorded_ns)
        if text is not None and len(text) <= left:
            left -= len(text)
            found[file] = text
    return found


def _text(file: str, recorded_ns: int) -> str | None:
    try:
        # Where a link leads counts, not what it is called.
        real = os.path.realpath(file)
        state = os.stat(real)
        if not real.endswith(_SUFFIXES) or not os.path.isfile(real) or state.st_size > _FILE_BYTES:
            return None
        if recorded_ns and state.st_mtime_ns > recorded_ns:
            return None
        with tokenize.open(real) as source:
            return source.read()
    except (OSError, SyntaxError, ValueError):
        # Not here, not readable, or not in the encoding that it says.
        return None
