"""What a profile is written as: one small module for each format.

A new format is a module here and a row in ``FORMATS``; ``rprof run -o`` and ``rprof export`` know
it then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import RprofValueError
from . import collapsed, html, markdown, pprof, pstats, speedscope
from ._format import Format, write_text

if TYPE_CHECKING:
    from .._profile import Profile

__all__ = ["FORMATS", "Format", "format_of", "require", "write", "write_text"]

FORMATS = (
    pprof.FORMAT,
    html.FORMAT,
    speedscope.FORMAT,
    collapsed.FORMAT,
    pstats.FORMAT,
    markdown.FORMAT,
)


def format_of(path: str) -> Format:
    """Return the format that a file's extension asks for.

    Raises:
        RprofValueError: The extension is unknown.
    """
    for known in FORMATS:
        if path.endswith(known.extension):
            return known
    choices = ", ".join(f"{known.extension} ({known.meaning})" for known in FORMATS)
    raise RprofValueError(f"{path}: the extension says what to write; choose one of {choices}")


def require(path: str, extension: str) -> None:
    """Refuse a path of another extension.

    Raises:
        RprofValueError: It has another.
    """
    if format_of(path).extension != extension:
        raise RprofValueError(
            f"{path} does not end in {extension}, which is what is written here; for other formats "
            "use rprof export"
        )


def write(profile: Profile, path: str, by: str | None = None) -> str | None:
    """Write a profile as its path's extension says; returns what is to be said of the file.

    Args:
        profile: What to write.
        path: Where to.
        by: Sample type, for formats that hold only one.

    Raises:
        RprofError: The extension is unknown, or the file cannot be written.
    """
    return format_of(path).write(profile, path, by)
