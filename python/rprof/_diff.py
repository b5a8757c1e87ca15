"""Two profiles compared: what grew, what shrank, and by how much."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ._loading import native
from ._text import inert, short_file
from .errors import RprofValueError

if TYPE_CHECKING:
    from ._native import format_value
    from ._profile import Profile
    from ._tables import SampleType
else:
    format_value = native().format_value

__all__ = ["Diff", "DiffRow", "between"]

Scale = Literal["duration", "none"]


class DiffRow(NamedTuple):
    """One function, or one line of one, in both profiles.

    Values are in the unit of the sample type: nanoseconds, or a count. Those of the older profile
    are scaled as ``Diff.scale`` says. Fractions are of each profile's own total, 0 to 1, so that
    scaling does not touch them.
    """

    name: str
    """``module.qualname``."""
    file: str
    """Source file, as the newer profile has it."""
    line: int
    """Line of the ``def``, or the line that was executing where rows are lines."""
    before_self: int
    """Spent in the function itself, in the older profile."""
    before_total: int
    """Spent in it and in what it called, in the older profile."""
    after_self: int
    """Spent in the function itself, in the newer profile."""
    after_total: int
    """Spent in it and in what it called, in the newer profile."""
    before_self_fraction: float
    """Its own share of the older profile."""
    before_total_fraction: float
    """Its share of the older profile with what it called."""
    after_self_fraction: float
    """Its own share of the newer profile."""
    after_total_fraction: float
    """Its share of the newer profile with what it called."""

    @property
    def self_change(self) -> int:
        """``after_self - before_self``."""
        return self.after_self - self.before_self

    @property
    def total_change(self) -> int:
        """``after_total - before_total``."""
        return self.after_total - self.before_total

    @property
    def self_points(self) -> float:
        """Growth of its own share in percentage points, -100 to 100."""
        return 100 * (self.after_self_fraction - self.before_self_fraction)

    @property
    def total_points(self) -> float:
        """Growth of its share with what it called in percentage points, -100 to 100."""
        return 100 * (self.after_total_fraction - self.before_total_fraction)


class Diff:
    """What changed between two profiles in one sample type; ``str()`` gives a table to print.

    Functions are matched by name and file name, not by the whole path, which differs between two
    checkouts, and not by line, which moves with every edit above it. A function that was renamed
    is one that went and one that came.
    """

    __slots__ = (
        "after_duration_ns",
        "after_total",
        "before_duration_ns",
        "before_total",
        "doubts",
        "factor",
        "rows",
        "sample_type",
        "scale",
    )

    rows: list[DiffRow]
    """Every function that has a value in either, the largest change of its own time first."""
    sample_type: SampleType
    """What the values measure."""
    scale: Scale
    """How the older values were made comparable: ``"duration"`` or ``"none"``."""
    factor: float
    """What the older values were multiplied by; 1.0 where they are as recorded."""
    before_total: int
    """Sum of the older profile, scaled like the rows."""
    after_total: int
    """Sum of the newer profile."""
    before_duration_ns: int
    """Length of the older recording in nanoseconds."""
    after_duration_ns: int
    """Length of the newer recording in nanoseconds."""
    doubts: list[str]
    """What is to be known of these figures, a sentence each; see ``Profile.doubts``."""

    def __init__(
        self,
        rows: list[tuple[tuple[str, str, int], tuple[int, int], tuple[int, int]]],
        sample_type: SampleType,
        totals: tuple[tuple[int, int], tuple[int, int]],
        durations_ns: tuple[int, int],
        *,
        scale: Scale,
        doubts: list[str],
    ) -> None:
        self.doubts = doubts
        self.sample_type = sample_type
        self.scale = scale
        self.before_duration_ns, self.after_duration_ns = durations_ns
        # A recording of unknown length cannot be scaled by it.
        is_scaled = scale == "duration" and min(durations_ns) > 0
        old, new = durations_ns if is_scaled else (1, 1)
        self.factor = new / old
        # Of a profile that is itself a difference, shares are of all that changed in it.
        (before_total, before_whole), (self.after_total, after_whole) = totals
        self.before_total = _scaled(before_total, old, new)
        self.rows = [
            DiffRow(
                name,
                file,
                line,
                before_self=_scaled(before[0], old, new),
                before_total=_scaled(before[1], old, new),
                after_self=after[0],
                after_total=after[1],
                before_self_fraction=_fraction(before[0], before_whole),
                before_total_fraction=_fraction(before[1], before_whole),
                after_self_fraction=_fraction(after[0], after_whole),
                after_total_fraction=_fraction(after[1], after_whole),
            )
            for (name, file, line), before, after in rows
        ]
        self.rows.sort(
            key=lambda row: (-abs(row.self_change), -abs(row.total_change), row.name, row.file)
        )

    @property
    def largest_regression(self) -> DiffRow | None:
        """The row whose share of the total grew most; None if none grew.

        The share is that of the function with what it called: time that moved from a function
        into one it calls is no regression of it.
        """
        grown = [row for row in self.rows if row.total_points > 0]
        return max(grown, key=lambda row: (row.total_points, row.self_points), default=None)

    @property
    def regression(self) -> float:
        """By how many percentage points the ``largest_regression`` grew; 0.0 if none grew.

        This is the number for a gate: *fail when the share of any function in the total, with
        what it called, grew by more than N points*. Shares do not depend on how fast the machine
        was or how long was recorded. They do not show a program that became slower everywhere;
        ``growth`` does.
        """
        worst = self.largest_regression
        return worst.total_points if worst is not None else 0.0

    @property
    def growth(self) -> float:
        """By how many percent the whole cost grew, after scaling: 100.0 is twice as much.

        Negative if it shrank; infinite if the older profile is empty and the newer is not. With
        ``scale="duration"`` it compares costs per second, with ``scale="none"`` costs as recorded,
        which is what counts for a program that runs from start to end.
        """
        if self.before_total == 0:
            return math.inf if self.after_total > 0 else 0.0
        return 100 * (self.after_total - self.before_total) / abs(self.before_total)

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists, strings and numbers that ``json.dumps`` takes."""
        worst = self.largest_regression
        return {
            "sample_type": self.sample_type.type,
            "unit": self.sample_type.unit,
            "scale": self.scale,
            "factor": self.factor,
            "before": {"duration_ns": self.before_duration_ns, "total": self.before_total},
            "after": {"duration_ns": self.after_duration_ns, "total": self.after_total},
            # JSON has no infinity.
            "growth_percent": self.growth if math.isfinite(self.growth) else None,
            "regression_points": self.regression,
            "doubts": self.doubts,
            "largest_regression": _row_dict(worst) if worst is not None else None,
            "rows": [_row_dict(row) for row in self.rows],
        }

    def table(self, n: int = 20) -> str:
        """Return the ``n`` rows that changed most as text."""
        kind, unit = self.sample_type
        before, after = (
            format_value(total, unit) for total in (self.before_total, self.after_total)
        )
        # Of infinitely more nothing is to be learned.
        growth = f" ({self.growth:+.1f} %)" if math.isfinite(self.growth) else ""
        lines = [f"{kind}: {before} -> {after}{growth}, {self._how_scaled()}"]
        changed = [row for row in self.rows if row.self_change or row.total_change]
        if not changed:
            return "\n".join([*lines, "nothing changed", *self._doubt_lines()])
        lines.append(
            f"{'self':>10} {'change':>10} {'points':>7} {'total':>10} {'change':>10} {'points':>7}"
            "  function"
        )
        for row in changed[:n]:
            where = f" ({short_file(row.file)}:{row.line})" if row.file else ""
            lines.append(
                f"{format_value(row.after_self, unit):>10} "
                f"{_signed(row.self_change, unit):>10} {row.self_points:>+7.1f} "
                f"{format_value(row.after_total, unit):>10} "
                f"{_signed(row.total_change, unit):>10} {row.total_points:>+7.1f}  "
                f"{inert(row.name)}{where}"
            )
        if len(changed) > n:
            lines.append(f"... {len(changed) - n} more")
        worst = self.largest_regression
        if worst is not None:
            lines.append(
                f"largest regression: {inert(worst.name)}, {worst.before_total_fraction:.1%} -> "
                f"{worst.after_total_fraction:.1%} of {kind} ({worst.total_points:+.1f} points)"
            )
        return "\n".join([*lines, *self._doubt_lines()])

    def _doubt_lines(self) -> list[str]:
        return [f"({inert(doubt)})" for doubt in self.doubts]

    def _how_scaled(self) -> str:
        durations = (self.before_duration_ns, self.after_duration_ns)
        old, new = (format_value(duration, "nanoseconds") for duration in durations)
        if self.factor == 1.0:
            return f"as recorded in {old} and {new}"
        return f"as though both had lasted {new} (the older: {old})"

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return (
            f"<rprof.Diff of {self.sample_type.type}: {len(self.rows)} rows, "
            f"regression {self.regression:.1f} points>"
        )


def between(older: Profile, newer: Profile, kind: SampleType, *, lines: bool, scale: Scale) -> Diff:
    """Return what changed between two profiles in a sample type of the older one.

    Raises:
        RprofValueError: The newer one does not have it, or in another unit.
    """
    later = next((found for found in newer.sample_types if found.type == kind.type), None)
    if later is None:
        both = [found.type for found in older.sample_types if found in newer.sample_types]
        raise RprofValueError(
            f"by={kind.type!r} is not in the newer profile; both have "
            f"{', '.join(map(inert, both)) or 'nothing in common'}"
        )
    if kind.unit != later.unit:
        raise RprofValueError(
            f"{kind.type} is in {kind.unit} before and in {later.unit} after; compare "
            "profiles of one kind"
        )
    return Diff(
        older._native.diff(newer._native, kind.type, lines),
        kind,
        (older._weights(kind.type), newer._weights(kind.type)),
        (older.duration_ns, newer.duration_ns),
        # What there is at the end does not grow with the time it took.
        scale="none" if kind.is_level else scale,
        doubts=[f"before: {doubt}" for doubt in older.doubts(kind.type, lines=lines)]
        + [f"after: {doubt}" for doubt in newer.doubts(kind.type, lines=lines)],
    )


def _scaled(value: int, old: int, new: int) -> int:
    """Return ``value * new / old``, rounded, without the error of a float."""
    return value if old == new else (2 * value * new + old) // (2 * old)


def _fraction(value: int, total: int) -> float:
    return value / total if total else 0.0


def _signed(value: int, unit: str) -> str:
    return f"+{format_value(value, unit)}" if value > 0 else format_value(value, unit)


def _row_dict(row: DiffRow) -> dict[str, Any]:
    return {
        **row._asdict(),
        "self_change": row.self_change,
        "total_change": row.total_change,
        "self_points": row.self_points,
        "total_points": row.total_points,
    }
