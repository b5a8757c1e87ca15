"""What a profile's threads and tasks waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._rows import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._native import Profile as NativeProfile

__all__ = ["Wait", "WaitParty", "WaitTable"]


class WaitParty(NamedTuple):
    """A function that waited, or that made others wait."""

    function: str
    """Its qualified name; of what is none of the program a name in angle brackets."""
    file: str
    """Its file, or empty."""
    line: int
    """The line of it that had most of `value`."""
    value: int
    """For how long, in nanoseconds."""


class Wait(NamedTuple):
    """Something that was waited for."""

    reason: str
    """A value of the label ``off``, or ``"task"``: tasks and greenlets that wait."""
    lock: str
    """Which lock, or empty."""
    measure: str
    """The sample type of `waited_ns`."""
    waited_ns: int
    """For how long in all, in nanoseconds."""
    culprits: list[WaitParty]
    """Who made others wait, at most 10, heaviest first; empty where nobody did or none is known."""
    waiters: list[WaitParty]
    """Who waited, likewise."""


class WaitTable(list[Wait]):
    """Rows of ``Profile.waits``; ``str()`` gives a text to print."""

    def __init__(self, rows: Iterable[Wait], text: str) -> None:
        super().__init__(rows)
        self._text = text

    def __str__(self) -> str:
        return self._text


def table(native: NativeProfile) -> WaitTable:
    """Make the table of a profile."""
    rows = (
        Wait(
            reason,
            lock,
            measure,
            waited_ns,
            [WaitParty(*party) for party in culprits],
            [WaitParty(*party) for party in waiters],
        )
        for reason, lock, measure, waited_ns, culprits, waiters in native.waits()
    )
    return WaitTable(rows, native.waits_text())
