"""The format of https://www.speedscope.app."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._format import Format, write_text

if TYPE_CHECKING:
    from .._profile import Profile

__all__ = ["FORMAT"]


def _write(profile: Profile, path: str, _by: str | None) -> None:
    write_text(path, profile.to_speedscope())


FORMAT = Format(
    ".json",
    "speedscope",
    "speedscope (https://www.speedscope.app), one profile for each thread and sample type",
    _write,
    ("npx", "speedscope"),
)
