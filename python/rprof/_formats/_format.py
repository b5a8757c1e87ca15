"""What a file format is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from .._loading import native

if TYPE_CHECKING:
    from .._profile import Profile

__all__ = ["Format", "write_text"]


class Format(NamedTuple):
    """A form in which profiles are written."""

    extension: str
    """The end of a file's name by which the format is chosen."""
    meaning: str
    """What it is, in few words."""
    about: str
    """What it is good for, for a list of all."""
    write: Callable[[Profile, str, str | None], str | None]
    """Writes a profile to a path, by a sample type where the format holds only one.

    Returns what is to be said about the file, if anything.
    """
    viewer: tuple[str, ...] = ("less",)
    """The words of a command that shows such a file."""


def write_text(path: str, text: str) -> None:
    """Write a text file that only its owner can read, complete or not at all.

    Raises:
        RprofOSError: It cannot be written.
    """
    native().Profile.write_file(path, text.encode("utf-8", "backslashreplace"))
