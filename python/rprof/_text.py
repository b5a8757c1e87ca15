"""Names as people read them; values are `_native.format_value`."""

import os

SECONDS = {"nanoseconds": 1e-9, "microseconds": 1e-6, "milliseconds": 1e-3, "seconds": 1.0}
"""Units of time."""


def short_file(file: str) -> str:
    """Return the last two parts of a path."""
    return inert(os.sep.join(file.split(os.sep)[-2:]))


def inert(text: str) -> str:
    """Return ``text`` on one line, with escapes for what is not a visible character.

    A profile may come from anywhere: a name in it must not move the cursor, turn the direction of
    writing, or end a line.
    """
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape", "backslashreplace").decode("ascii")
        for character in text
    )
