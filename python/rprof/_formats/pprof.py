"""The format of pprof, compressed: what rprof itself writes and reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._format import Format

if TYPE_CHECKING:
    from .._profile import Profile

__all__ = ["FORMAT"]


def _write(profile: Profile, path: str, _by: str | None) -> None:
    profile.write(path)


FORMAT = Format(
    ".pb.gz",
    "pprof",
    "pprof",
    _write,
    ("rprof", "view"),
)
