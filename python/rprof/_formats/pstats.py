"""The format of the standard library's ``pstats``."""

from __future__ import annotations

import marshal
from typing import TYPE_CHECKING

from .._text import SECONDS
from ..errors import RprofValueError
from ._format import Format

if TYPE_CHECKING:
    from .._profile import Profile
    from .._tables import SampleType

__all__ = ["FORMAT", "pstats_bytes"]


def pstats_bytes(profile: Profile, kind: SampleType, count: str | None) -> bytes:
    """Return what ``pstats.Stats.dump_stats`` would write."""
    scale = SECONDS.get(kind.unit)
    if scale is None:
        known = [other.type for other in profile.sample_types if other.unit in SECONDS]
        raise RprofValueError(
            f"by={kind.type!r} is in {kind.unit}, and pstats holds times; choose one of "
            f"{', '.join(known) or 'another profile, this one has no times'}"
        )
    # Position, primitive calls, calls, own seconds, cumulative seconds: the same for callers.
    stats = {
        (file, line, name): (
            *_row(cost, scale),
            {(file, line, name): _row(cost, scale) for (name, file, line), cost in callers},
        )
        for (name, file, line), cost, callers in profile._native.calls(kind.type, count)
    }
    if not stats:
        raise RprofValueError(
            f"this profile has no {kind.type} time, and pstats cannot open a file without any"
        )
    # Version 4 is what every CPython since 3.4 reads.
    return marshal.dumps(stats, 4)


def _row(cost: tuple[int, int, int], scale: float) -> tuple[int, int, float, float]:
    samples, own, total = cost
    return samples, samples, own * scale, total * scale


def _write(profile: Profile, path: str, by: str | None) -> None:
    profile.to_pstats(path, by)


FORMAT = Format(
    ".pstats",
    "pstats, for SnakeViz",
    "for pstats and SnakeViz; samples are shown as calls",
    _write,
    ("snakeviz",),
)
