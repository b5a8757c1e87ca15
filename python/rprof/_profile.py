"""Finished profiles: totals, tables, trees, files."""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ._config import ThreadInfo
from ._native import Profile as NativeProfile
from .errors import RprofOSError, RprofTypeError, RprofValueError

__all__ = ["FunctionRow", "Profile", "SampleType", "ThreadTotals", "TopTable", "load"]


class SampleType(NamedTuple):
    """What one value of every sample measures."""

    type: str
    """For example ``"wall"``."""
    unit: str
    """For example ``"nanoseconds"``."""


class ThreadTotals(NamedTuple):
    """One thread's share of a profile."""

    id: int
    """Kernel thread id."""
    name: str
    """Thread name; empty if unknown."""
    totals: dict[str, int]
    """Sum by sample type: samples, and nanoseconds of wall and cpu."""


class FunctionRow(NamedTuple):
    """One function's share of a profile, in the sample type that was asked for."""

    name: str
    """``module.qualname``."""
    file: str
    """Source file."""
    line: int
    """Line of the ``def``."""
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

    def __init__(self, rows: Iterable[FunctionRow], sample_type: SampleType, total: int) -> None:
        super().__init__(rows)
        self.sample_type = sample_type
        self.total = total

    def __str__(self) -> str:
        kind, unit = self.sample_type
        show = _format_ns if unit == "nanoseconds" else "{:,}".format
        lines = [
            f"{kind}, {show(self.total)} in all",
            f"{'self':>10} {'':>6} {'total':>10} {'':>6}  function",
        ]
        for row in self:
            where = f" ({_short_file(row.file)}:{row.line})" if row.file else ""
            lines.append(
                f"{show(row.self_value):>10} {row.self_fraction:>6.1%} "
                f"{show(row.total_value):>10} {row.total_fraction:>6.1%}  {row.name}{where}"
            )
        return "\n".join(lines)


def _format_ns(nanoseconds: int) -> str:
    if abs(nanoseconds) >= 1_000_000_000:
        return f"{nanoseconds / 1e9:.2f} s"
    if abs(nanoseconds) >= 1_000_000:
        return f"{nanoseconds / 1e6:.1f} ms"
    return f"{nanoseconds / 1e3:.0f} us"


def _short_file(file: str) -> str:
    return os.sep.join(file.split(os.sep)[-2:])


class Profile:
    """A finished, immutable profile: stacks with wall time, CPU time and sample counts.

    Made by ``rprof.stop()``, ``rprof.profile(...)`` or ``rprof.load(path)``.
    """

    __slots__ = ("_native",)

    def __init__(self, native: NativeProfile) -> None:
        self._native = native

    def __repr__(self) -> str:
        totals = self.totals
        parts = [f"{name}={_format_ns(totals[name])}" for name in ("wall", "cpu") if name in totals]
        return f"<rprof.Profile of {self.program or 'unknown'}: {', '.join(parts)}>"

    @property
    def sample_types(self) -> list[SampleType]:
        """What the values of each sample measure, in file order."""
        return [SampleType(*pair) for pair in self._native.sample_types]

    @property
    def totals(self) -> dict[str, int]:
        """Sum of each sample type over all threads (``wall`` and ``cpu`` in nanoseconds)."""
        names = [name for name, _ in self._native.sample_types]
        return dict(zip(names, self._native.totals, strict=True))

    @property
    def threads(self) -> list[ThreadTotals]:
        """Totals of each thread, the heaviest first."""
        names = [name for name, _ in self._native.sample_types]
        return [
            ThreadTotals(thread_id, name, dict(zip(names, values, strict=True)))
            for thread_id, name, values in self._native.threads
        ]

    @property
    def comments(self) -> list[str]:
        """Engine, rates and counters in words."""
        return self._native.comments

    @property
    def time_ns(self) -> int:
        """Start, in nanoseconds since the Unix epoch."""
        return self._native.time_ns

    @property
    def duration_ns(self) -> int:
        """Length in nanoseconds."""
        return self._native.duration_ns

    @property
    def period_ns(self) -> int:
        """Asked time between two samples of one thread in nanoseconds; 0 if unknown."""
        return self._native.period_ns

    @property
    def program(self) -> str:
        """What ran."""
        return self._native.program

    def top(self, n: int = 20, by: str | None = None) -> TopTable:
        """Return the heaviest functions, by their own time.

        Args:
            n: How many.
            by: Sample type: ``"wall"``, ``"cpu"`` or ``"samples"``; default the profile's own.

        Raises:
            RprofValueError: There is no such sample type, or ``n`` is negative.
        """
        if isinstance(n, bool) or not isinstance(n, int):
            raise RprofTypeError(f"n must be a whole number, not {n!r}")
        if n < 0:
            raise RprofValueError(f"n={n} is negative; ask for at least 0 functions")
        kind = self._kind(by)
        rows = self._native.top(kind.type)[:n]
        total = self.totals[kind.type]
        scale = total or 1
        return TopTable(
            (
                FunctionRow(name, file, line, own, whole, own / scale, whole / scale)
                for name, file, line, own, whole in rows
            ),
            kind,
            total,
        )

    def tree(self, by: str | None = None, *, min_fraction: float = 0.005) -> str:
        """Return the call tree as text.

        Args:
            by: Sample type, as for ``top``.
            min_fraction: Branches below this fraction of the total are summed up, 0 to 1.

        Raises:
            RprofValueError: There is no such sample type, or the fraction is out of range.
        """
        if not 0 <= min_fraction <= 1:
            raise RprofValueError(f"min_fraction={min_fraction!r} is out of range; choose 0 to 1")
        return self._native.tree(self._kind(by).type, float(min_fraction))

    def to_collapsed(self, by: str | None = None) -> str:
        """Return one line for each stack, ``thread;root;...;leaf value``.

        The format is that of Brendan Gregg's flamegraph.pl.
        """
        return self._native.collapsed(self._kind(by).type)

    def stacks(self, by: str | None = None) -> list[tuple[list[Frame], int]]:
        """Return every stack with its lines, and what was spent in its innermost frame.

        Args:
            by: Sample type; the profile's default without.

        Returns:
            Pairs of the frames, outermost first, and the value (nanoseconds, or a count). A stack
            is there once for each thread.

        Raises:
            RprofValueError: There is no such sample type.
        """
        found = self._native.stacks(self._kind(by).type)
        return [([Frame(*frame) for frame in frames], value) for frames, value in found]

    def to_html(
        self, *, baseline: Profile | None = None, source: bool = False, title: str | None = None
    ) -> str:
        """Return the report page: one HTML file with the profile inside, which loads nothing.

        Args:
            baseline: What came before; the page then shows what became more and what less.
            source: Put the Python files that the profile names into the page, those that are on
                this machine and have not changed since, to see what each line cost. Whoever gets
                the page can read them.
            title: What the page is called; the program's name without.
        """
        from . import viewer

        sources = None
        if source:
            names = (file for _, file, *_ in self._native.top(self._kind(None).type))
            sources = viewer.sources.read(names, self.time_ns)
        return viewer.page(
            [(self._label(), self.to_bytes())],
            title=title if title is not None else self._label(),
            baseline=(baseline._label(), baseline.to_bytes()) if baseline is not None else None,
            sources=sources,
        )

    def _repr_html_(self) -> str:
        """Show the report page in a notebook, in a frame that can reach nothing around it."""
        document = html.escape(self.to_html())
        return (
            '<iframe sandbox="allow-scripts allow-downloads" title="rprof" srcdoc="'
            f'{document}" style="width: 100%; height: 720px; border: 0"></iframe>'
        )

    def _label(self) -> str:
        return os.path.basename(self.program) or self.program or "profile"

    def to_bytes(self) -> bytes:
        """Return the profile as gzip-compressed pprof."""
        return self._native.encode()

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write gzip pprof (mode 0600), complete or not at all, and return the path.

        Raises:
            RprofOSError: The file cannot be written.
        """
        self._native.write(os.fspath(path))
        return Path(path)

    def merge(self, *others: Profile) -> Profile:
        """Return one profile with the samples of this and the others added up.

        Raises:
            RprofValueError: Their sample types differ.
        """
        return Profile(NativeProfile.merge([self._native, *(other._native for other in others)]))

    def only_threads(self, accept: Callable[[ThreadInfo], bool]) -> Profile:
        """Return the profile of those threads for which ``accept`` is true."""
        kept = [(t.id, t.name) for t in self.threads if accept(ThreadInfo(t.id, t.name))]
        return Profile(self._native.only_threads(kept))

    def _kind(self, by: str | None) -> SampleType:
        if by is not None and not isinstance(by, str):
            raise RprofTypeError(f"by must name a sample type, not {by!r}")
        kinds = self.sample_types
        wanted = by or self._native.default_sample_type or (kinds[-1].type if kinds else "")
        for kind in kinds:
            if kind.type == wanted:
                return kind
        known = ", ".join(kind.type for kind in kinds)
        raise RprofValueError(f"by={wanted!r} is not in this profile; it has {known or 'none'}")


def load(path: str | os.PathLike[str]) -> Profile:
    """Read a pprof file, gzip-compressed or plain, of rprof or any other profiler.

    Args:
        path: The file.

    Raises:
        RprofOSError: The file cannot be read.
        RprofValueError: It is no pprof file, is truncated, or is unreasonably large.
    """
    name: Any = os.fspath(path)
    try:
        with open(name, "rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise RprofOSError(f"cannot read {name}: {error.strerror or error}") from error
    if len(data) > _MAX_FILE_BYTES:
        raise RprofValueError(f"{name} is larger than {_MAX_FILE_BYTES >> 20} MiB; split it first")
    return Profile(NativeProfile.decode(data, str(name)))


# Compressed; the decoder bounds what comes out of it.
_MAX_FILE_BYTES = 256 << 20
