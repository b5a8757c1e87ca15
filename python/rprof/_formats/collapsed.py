"""Collapsed stacks: a line of text for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._format import Format, write_text

if TYPE_CHECKING:
    from .._profile import Profile

__all__ = ["FORMAT"]


def _write(profile: Profile, path: str, by: str | None) -> str | None:
    text = profile.to_collapsed(by)
    write_text(path, text)
    if any(line.rpartition(" ")[2].startswith("-") for line in text.splitlines()):
        return (
            "it is a difference: it has values below 0, which flamegraph.pl leaves out; see "
            "all of it with rprof top, tree or view"
        )
    return None


FORMAT = Format(
    ".folded",
    "collapsed stacks",
    "collapsed stacks, for flamegraph.pl and inferno",
    _write,
    ("flamegraph.pl",),
)
