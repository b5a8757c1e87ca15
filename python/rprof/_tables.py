"""Rows and tables of profiles: what ``Profile`` returns, as values and as text."""

# Loaded when a recording begins, so it imports nothing that the interpreter has not imported by
# itself, as _config.

import os

from ._loading import native
from ._rows import NamedTuple
from ._text import inert, short_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ._native import Profile as NativeProfile
    from ._native import format_value, measures
else:
    format_value, measures = native().format_value, native().measures

__all__ = ["Divide", "Frame", "FunctionRow", "SampleType", "ThreadTotals", "TopTable"]


class SampleType(NamedTuple):
    """What one value of every sample measures."""

    type: str
    """For example ``"wall"``."""
    unit: str
    """For example ``"nanoseconds"``."""

    @property
    def meaning(self) -> str:
        """What it tells, in one sentence; empty for what rprof does not know."""
        return next((meaning for *kind, _, meaning in measures() if kind == [*self]), "")

    @property
    def is_level(self) -> bool:
        """Whether it is what there was at the end, as memory in use, rather than what happened.

        Values of such a type do not grow with the time of recording. In merged profiles the last
        one of each process counts.
        """
        return any(kind == [*self] and not is_flow for *kind, is_flow, _ in measures())


class ThreadTotals(NamedTuple):
    """One thread's share of a profile."""

    id: int
    """Kernel thread id."""
    name: str
    """Thread name; its number, as ``thread 4711``, where `threading` does not know it."""
    totals: dict[str, int]
    """Sum by sample type: samples, and nanoseconds of wall and cpu."""


class FunctionRow(NamedTuple):
    """The share of one function, or of one line of it, in the sample type that was asked for."""

    name: str
    """``module.qualname``."""
    file: str
    """Source file."""
    line: int
    """Line of the ``def``, or the line that was executing where rows are lines."""
    self_value: int
    """Spent in the function itself (nanoseconds, or a count)."""
    total_value: int
    """Spent in it and in what it called."""
    self_fraction: float
    """``self_value`` as a fraction of the profile's total, 0 to 1."""
    total_fraction: float
    """``total_value`` as a fraction of the profile's total, 0 to 1."""


class Frame(NamedTuple):
    """One call in a stack."""

    name: str
    """``module.qualname``, or a pseudo-frame in angle brackets."""
    file: str
    """Source file; empty for a pseudo-frame."""
    line: int
    """Line that was executing, from 1; 0 if unknown."""


class TopTable(list[FunctionRow]):
    """Rows of ``Profile.top``; ``str()`` gives a table to print."""

    def __init__(
        self,
        rows: "Iterable[FunctionRow]",
        sample_type: SampleType,
        total: int,
        magnitude: int,
        doubts: "Sequence[str]" = (),
    ) -> None:
        super().__init__(rows)
        self.sample_type = sample_type
        self.total = total
        self.magnitude = magnitude
        """What the fractions are fractions of: ``total``, or all changes of a difference."""
        self.doubts = list(doubts)
        """What is to be known of these figures, a sentence each."""

    def __str__(self) -> str:
        kind, unit = self.sample_type
        lines = [
            f"{inert(kind)}, {format_value(self.total, unit)} in all{self._of_changes()}",
            f"{'self':>10} {'':>6} {'total':>10} {'':>6}  function",
        ]
        for row in self:
            where = f" ({short_file(row.file)}:{row.line})" if row.file else ""
            lines.append(
                f"{format_value(row.self_value, unit):>10} {row.self_fraction:>6.1%} "
                f"{format_value(row.total_value, unit):>10} {row.total_fraction:>6.1%}  "
                f"{inert(row.name)}{where}"
            )
        lines += [f"({inert(doubt)})" for doubt in self.doubts]
        return "\n".join(lines)

    def _of_changes(self) -> str:
        if self.magnitude == self.total:
            return ""
        changes = format_value(self.magnitude, self.sample_type.unit)
        return f"; a difference, shares are of {changes}"


class Divide(NamedTuple):
    """Where the samples of a profile begin to differ."""

    common: list[Frame]
    """What all have in common, outermost first; the last is the limit."""
    value: int
    """What hangs on it, in the sample type's unit."""
    below: list[tuple[str, int]]
    """The calls below it with their values, largest first; an empty name is the limit itself."""
    total: int
    """All of the profile."""
    sample_type: SampleType
    """What is counted."""

    def describe(self) -> str:
        """Return it in one sentence."""
        if not self.common:
            return "its samples have no call in common"
        limit = self.common[-1]
        parts = [
            f"{100 * value / self.total:.0f} % in {name or 'itself'}" for name, value in self.below
        ]
        share = 100 * self.value / self.total if self.total else 0.0
        return (
            f"{share:.0f} % of it below {limit.name} ({os.path.basename(limit.file)}:{limit.line})"
            + (": " + ", ".join(parts[:5]) if parts else "")
        )


def doubts_of(profile: "NativeProfile", kind: str, *, lines: bool) -> list[str]:
    """Return what a reader of a sample type should know of a profile; see ``Profile.doubts``."""
    found = [
        f"{name} was not measured in {profiles} of {of_profiles} merged profiles, "
        f"{ns / 1e9:.1f} s of {of_ns / 1e9:.1f} s: its values are those of the others"
        for name, profiles, of_profiles, ns, of_ns in profile.unmeasured
        if name == kind
    ]
    if lines and profile.has_jit:
        found.append(
            "the interpreter's JIT was on: lines of hot loops may be wrong, functions are right"
        )
    return found
