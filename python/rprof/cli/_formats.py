"""What a profile is written as, by the extension of the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import RprofValueError
from ._console import say

if TYPE_CHECKING:
    from .._profile import Profile


FORMATS = {
    ".pb.gz": "pprof",
    ".html": "the report page",
    ".json": "speedscope",
    ".folded": "collapsed stacks",
    ".pstats": "pstats, for SnakeViz",
    ".md": "Markdown",
}
"""What each extension means."""


def check(path: str) -> str:
    """Return the extension that says how to write a file.

    Raises:
        RprofValueError: It is unknown.
    """
    for extension in FORMATS:
        if path.endswith(extension):
            return extension
    known = ", ".join(f"{extension} ({what})" for extension, what in FORMATS.items())
    raise RprofValueError(f"{path}: the extension says what to write; choose one of {known}")


def require(path: str, extension: str) -> None:
    """Refuse a path of another extension.

    Raises:
        RprofValueError: It has another.
    """
    if check(path) != extension:
        raise RprofValueError(
            f"{path} does not end in {extension}, which is what is written here; for other formats "
            "use rprof export"
        )


def write(profile: Profile, path: str, by: str | None = None) -> None:
    """Write a profile as its path's extension says.

    Args:
        profile: What to write.
        path: Where to.
        by: Sample type, for formats that hold only one.

    Raises:
        RprofError: The extension is unknown, or the file cannot be written.
    """
    extension = check(path)
    if extension == ".pb.gz":
        profile.write(path)
    elif extension == ".pstats":
        profile.to_pstats(path, by)
    elif extension == ".html":
        write_text(path, profile.to_html())
    elif extension == ".json":
        write_text(path, profile.to_speedscope())
    elif extension == ".md":
        write_text(path, profile.to_markdown())
    else:
        text = profile.to_collapsed(by)
        write_text(path, text)
        if any(line.rpartition(" ")[2].startswith("-") for line in text.splitlines()):
            say(
                "it is a difference: it has values below 0, which flamegraph.pl leaves out; see "
                "all of it with rprof top, tree or view"
            )


def write_text(path: str, text: str) -> None:
    """Write a text file that only its owner can read, complete or not at all.

    Raises:
        RprofOSError: It cannot be written.
    """
    from .._native import Profile as NativeProfile

    NativeProfile.write_file(path, text.encode("utf-8", "backslashreplace"))
