"""Values and names as people read them."""

import os


def format_value(value: int, unit: str) -> str:
    """Return ``1.25 s``, ``12.3 ms``, ``870 us`` for nanoseconds, ``1,234`` for anything else."""
    return format_ns(value) if unit == "nanoseconds" else f"{value:,}"


def format_ns(nanoseconds: int) -> str:
    """Return a time with the unit that keeps it short."""
    if abs(nanoseconds) >= 1_000_000_000:
        return f"{nanoseconds / 1e9:.2f} s"
    if abs(nanoseconds) >= 1_000_000:
        return f"{nanoseconds / 1e6:.1f} ms"
    return f"{nanoseconds / 1e3:.0f} us"


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
