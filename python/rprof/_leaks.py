"""Places whose memory in use grows, the likeliest leaks first."""

from __future__ import annotations

from ._continuous import heap
from ._loading import native
from ._profile import Profile
from ._rows import NamedTuple
from ._tables import Frame
from ._text import inert, short_file
from .errors import RprofTypeError

__all__ = ["Leak", "LeakStack", "LeakTable", "leaks"]

# Rows and callers of each that are printed.
_ROWS = 10
_CALLERS = 4


class LeakStack(NamedTuple):
    """A stack by which memory in use was allocated."""

    bytes: int
    """Bytes in use."""
    frames: list[Frame]
    """The stack, outermost frame first."""


class Leak(NamedTuple):
    """A line of the program, and what is in use that was allocated there."""

    name: str
    """The function, as ``module.qualname``."""
    file: str
    """Source file."""
    line: int
    """The line: the innermost of the program's own, or of all where none is."""
    bytes: int
    """Bytes in use."""
    blocks: int
    """Blocks in use."""
    growth: float
    """Bytes by which it grows in a second; 0 where it is not known to grow evenly."""
    horizon: float
    """Seconds that were looked back for `growth`."""
    verdict: str
    """How it came to be, in words: "grows" is what a leak does, and what a cache does that is not
    full yet."""
    score: float
    """What rows are ordered by: bytes that were born at least in each of three parts of the time,
    and are still there. 0 of what does not grow."""
    samples: float
    """Samples by which it is known, about; of n samples the error is 1 / sqrt(n)."""
    stacks: list[LeakStack]
    """The stacks by which it grows most, at most three."""


class LeakTable(list[Leak]):
    """Rows of ``rprof.leaks``; ``str()`` gives a text to print."""

    def __str__(self) -> str:
        return self.text()

    def text(self, n: int = _ROWS) -> str:
        """Return the first `n` rows as text."""
        show = native().format_value
        total = show(sum(row.bytes for row in self), "bytes")
        places = f"{len(self):,} places, the likeliest leaks first"
        lines = [f"{total} in use, allocated at {places}", ""]
        for row in self[:n]:
            where = f" ({short_file(row.file)}:{row.line})" if row.file else ""
            lines.append(f"{show(row.bytes, 'bytes'):>10}  {inert(row.name)}{where}")
            lines.append(f"{'':>10}  {row.verdict}")
            callers = _callers(row)
            if callers and row.score > 0:
                lines.append(f"{'':>10}  called by {', '.join(callers)}")
        if len(self) > n:
            lines.append(f"{'':>10}  and {len(self) - n:,} more places")
        return "\n".join(lines)


def _callers(row: Leak) -> list[str]:
    """Who called the line by the heaviest stack, innermost first."""
    frames = row.stacks[0].frames if row.stacks else []
    own = [at for at, frame in enumerate(frames) if frame == (row.name, row.file, row.line)]
    callers = frames[: own[-1]] if own else []
    return [
        f"{inert(frame.name)} ({short_file(frame.file)}:{frame.line})"
        for frame in reversed(callers[-_CALLERS:])
    ]


def leaks(*profiles: Profile) -> LeakTable:
    """Return what is in use by line, the likeliest leaks first.

    What leaks fills every part of the time that is looked at; a cache or a pool that was filled
    fills the beginning, what turns over the end. That is told from the ages of the blocks in use,
    of one moment: since ``memory=`` is on and, where it is on for longer, for the last hour and
    the last ten minutes. A cache that still fills looks like a leak, so it is said to grow.

    Args:
        profiles: Heap profiles, one of each process, as ``rprof.load`` reads them from files that
            end in ``.heap.pb.gz``; without any, what this process has now.

    Raises:
        RprofStateError: The heap of this process is not being sampled.
        RprofValueError: A profile does not tell how old the memory in use is.
    """
    for profile in profiles:
        if not isinstance(profile, Profile):
            raise RprofTypeError(f"leaks are told of a Profile, not of {profile!r}")
    found = native().find_leaks([profile._native for profile in profiles or (heap(),)])
    return LeakTable(
        Leak(
            name=place[0],
            file=place[1],
            line=place[2],
            bytes=in_use[0],
            blocks=in_use[1],
            growth=growth[0],
            horizon=growth[1],
            verdict=verdict,
            score=score[0],
            samples=score[1],
            stacks=[LeakStack(size, [Frame(*frame) for frame in stack]) for size, stack in stacks],
        )
        for place, in_use, growth, verdict, score, stacks in found
    )
