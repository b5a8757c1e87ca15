"""Finished profiles: totals, tables, trees, files."""

# Loaded when a recording begins, so it imports nothing that the interpreter has not imported by
# itself, as _config; what only some methods need, they import.

import os

from ._config import ThreadInfo
from ._loading import as_path
from ._native import Profile as NativeProfile
from ._rows import NamedTuple
from ._text import format_ns, format_value, inert, short_file
from .errors import RprofOSError, RprofStateError, RprofTypeError, RprofValueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import BinaryIO, Literal

    from ._diff import Diff

__all__ = ["FunctionRow", "Profile", "SampleType", "ThreadTotals", "TopTable", "load", "merge"]


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


class Profile:
    """A finished, immutable profile: stacks with wall time, CPU time and sample counts.

    Made by ``rprof.stop()``, ``rprof.profile(...)`` or ``rprof.load(path)``.
    """

    __slots__ = ("_native",)

    def __init__(self, native: NativeProfile) -> None:
        self._native = native

    def __reduce__(self) -> "tuple[Callable[[bytes], Profile], tuple[bytes]]":
        """Pickle it as the file that it would be: it may be the result of a worker process."""
        return _unpickled, (self.to_bytes(),)

    def __repr__(self) -> str:
        totals = self.totals
        parts = [f"{name}={format_ns(totals[name])}" for name in ("wall", "cpu") if name in totals]
        return f"<rprof.Profile of {inert(self.program) or 'unknown'}: {', '.join(parts)}>"

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
    def main_threads(self) -> frozenset[int]:
        """Kernel ids of the main threads, one of each process, whatever they are called.

        Empty where the file does not tell: of another profiler, or of rprof before it told. Of
        profiles from several machines or containers, two threads may have one id.
        """
        return frozenset(self._native.main_threads)

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

    def top(
        self,
        n: int = 20,
        by: str | None = None,
        *,
        lines: bool = False,
        sort: 'Literal["self", "total"]' = "self",
    ) -> TopTable:
        """Return the heaviest functions, or lines of them.

        Of a difference of two profiles (``go tool pprof -base``) what became less is as heavy as
        what became more, and shares are of all that changed, as ``go tool pprof`` has it.

        Args:
            n: How many.
            by: Sample type: ``"wall"``, ``"cpu"`` or ``"samples"``; default the profile's own.
            lines: Rows are lines of functions; ``line`` is then the one that was executing.
            sort: By what was spent in the function ``"self"``, or in ``"total"`` with what it
                called.

        Raises:
            RprofValueError: There is no such sample type, ``n`` is negative, or ``sort`` is
                unknown.
        """
        if sort not in ("self", "total"):
            raise RprofValueError(f"sort={sort!r} is unknown; choose 'self' or 'total'")
        _check_count(n, "functions")
        kind = self._kind(by)
        rows = self._native.top(kind.type, lines)
        if sort == "total":
            rows.sort(key=lambda row: abs(row[4]), reverse=True)
        # Of a difference, shares are those of all that changed, as in `go tool pprof`.
        total, magnitude = self._weights(kind.type)
        scale = magnitude or 1
        return TopTable(
            (
                FunctionRow(name, file, line, own, whole, own / scale, whole / scale)
                for name, file, line, own, whole in rows[:n]
            ),
            kind,
            total,
            magnitude,
            self.doubts(kind.type, lines=lines),
        )

    def doubts(self, by: str | None = None, *, lines: bool = False) -> list[str]:
        """Return what a reader of this sample type should know: a sentence for each.

        Which of the merged profiles did not measure it, and, if `lines` are shown, whether the
        interpreter's JIT was on.
        """
        kind = self._kind(by).type
        found = [
            f"{name} was not measured in {profiles} of {of_profiles} merged profiles, "
            f"{ns / 1e9:.1f} s of {of_ns / 1e9:.1f} s: its values are those of the others"
            for name, profiles, of_profiles, ns, of_ns in self._native.unmeasured
            if name == kind
        ]
        if lines and self._native.has_jit:
            found.append(
                "the interpreter's JIT was on: lines of hot loops may be wrong, functions are right"
            )
        return found

    def _weights(self, kind: str) -> tuple[int, int]:
        """The sum of a sample type, with the signs of its values and without."""
        at = [name for name, _ in self._native.sample_types].index(kind)
        return self._native.totals[at], self._native.magnitudes[at]

    def tree(
        self,
        by: str | None = None,
        *,
        min_fraction: float = 0.005,
        max_depth: int | None = None,
        library: bool = False,
        color: bool = False,
    ) -> str:
        """Return the call tree as text, the heaviest branches first.

        Args:
            by: Sample type, as for ``top``.
            min_fraction: Branches below this fraction of the total are summed up in one line,
                0 to 1.
            max_depth: Levels shown, at least 1; what lies deeper is in the totals. Default 512.
            library: Show every call within installed packages and the standard library. Without,
                only the call into a library is shown, with the number of frames below it; the
                user's functions that a library calls are below that line. A profile of library
                code alone is shown whole.
            color: Colour heavy branches and dim the rest with ANSI escapes.

        Raises:
            RprofValueError: There is no such sample type, or a number is out of range.
        """
        if not 0 <= min_fraction <= 1:
            raise RprofValueError(f"min_fraction={min_fraction!r} is out of range; choose 0 to 1")
        if max_depth is not None and not isinstance(max_depth, int):
            raise RprofTypeError(f"max_depth must be a whole number, not {max_depth!r}")
        if max_depth is not None and not 1 <= max_depth <= _MAX_TREE_DEPTH:
            raise RprofValueError(
                f"max_depth={max_depth!r} is out of range; choose 1 to {_MAX_TREE_DEPTH:,}"
            )
        return self._native.tree(
            self._kind(by).type,
            min_fraction=float(min_fraction),
            max_depth=max_depth,
            fold_library=not library,
            color=color,
        )

    def diff(
        self,
        other: "Profile",
        by: str | None = None,
        *,
        lines: bool = False,
        scale: 'Literal["duration", "none"]' = "duration",
    ) -> "Diff":
        """Compare this profile, the older one, with another.

        Args:
            other: The newer profile.
            by: Sample type, as for ``top``; both profiles must have it.
            lines: Compare lines rather than functions. Lines move when a file is edited.
            scale: ``"duration"`` multiplies the older values by the ratio of the two lengths, so
                that both are what a recording as long as the newer one would hold: right for
                services, where the question is the cost per second. ``"none"`` compares the
                values as recorded: right for a program or a benchmark that ran from start to end
                both times. Shares and ``Diff.regression`` are the same either way.

        Raises:
            RprofValueError: A profile does not have the sample type, or their units differ.
        """
        if not isinstance(other, Profile):
            raise RprofTypeError(f"other must be a Profile, not {other!r}; use rprof.load first")
        if scale not in ("duration", "none"):
            raise RprofValueError(f"scale={scale!r} is unknown; choose 'duration' or 'none'")
        from ._diff import Diff

        kind = self._kind(by)
        later = next((found for found in other.sample_types if found.type == kind.type), None)
        if later is None:
            both = [found.type for found in self.sample_types if found in other.sample_types]
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
            self._native.diff(other._native, kind.type, lines),
            kind,
            (self._weights(kind.type), other._weights(kind.type)),
            (self.duration_ns, other.duration_ns),
            scale=scale,
            doubts=[f"before: {doubt}" for doubt in self.doubts(kind.type, lines=lines)]
            + [f"after: {doubt}" for doubt in other.doubts(kind.type, lines=lines)],
        )

    def to_collapsed(self, by: str | None = None, *, threads: bool = True) -> str:
        """Return one line for each stack, ``thread;root;...;leaf value``.

        The format is that of Brendan Gregg's flamegraph.pl. A ``;`` in a name becomes ``:``, and
        characters that cannot be seen become escapes. Values are in the sample type's unit. Those
        of a difference may be below 0; flamegraph.pl leaves such lines out and says so.

        Args:
            by: Sample type, as for ``top``.
            threads: Begin each stack with its thread; without, all threads are added up.

        Raises:
            RprofValueError: There is no such sample type, or the text would exceed 512 MiB.
        """
        return self._native.collapsed(self._kind(by).type, threads)

    def to_speedscope(self) -> str:
        """Return JSON for https://www.speedscope.app, one profile for each thread and sample type.

        The format is speedscope's own, https://www.speedscope.app/file-format-schema.json, with
        profiles of type ``sampled``: weights are values in the sample type's unit, nanoseconds or
        a count. It opens on the heaviest thread and the default sample type.

        Raises:
            RprofValueError: The profile is a difference, with values below 0, which the format
                does not know; or the text would exceed 512 MiB.
        """
        return self._native.speedscope()

    def to_pstats(self, path: str | os.PathLike[str], by: str | None = None) -> "Path":
        """Write the file that ``pstats.Stats(path)`` and SnakeViz open, and return the path.

        The format is that of the standard library's ``pstats``, a marshalled dict. Times are in
        seconds, over all threads. What pstats calls the number of calls is the number of samples
        in which a function was on the stack: a sampler does not see calls. Recursion counts once
        for each stack, as for ``top``.

        Args:
            path: The file (mode 0600, complete or not at all).
            by: Sample type, as for ``top``; it must be a time.

        Raises:
            RprofValueError: There is no such sample type, it is no time, all of it is zero, or the
                profile is a difference, with values below 0, which pstats does not know.
            RprofOSError: The file cannot be written.
        """
        from ._export import pstats_bytes

        data = pstats_bytes(self, self._kind(by), self._count_type())
        self._native.write_file(os.fsdecode(path), data)
        return as_path(os.fsdecode(path))

    def to_markdown(self, by: str | None = None, *, n: int = 15) -> str:
        """Return a summary for a bug report or a language model.

        Facts of the recording; for each sample type the heaviest functions and the call tree; the
        threads. All that comes from the profile stands in fenced blocks, on one line each, with
        invisible characters escaped and overlong names cut.

        Args:
            by: One sample type; default the times that are not zero, or else the default type.
            n: Rows of each table.

        Raises:
            RprofValueError: There is no such sample type, or ``n`` is negative.
        """
        _check_count(n, "rows")
        totals = self.totals
        kinds = [
            kind for kind in self.sample_types if kind.unit != "count" and totals[kind.type] != 0
        ]
        if by is not None or not kinds:
            kinds = [self._kind(by)]
        from ._export import markdown

        return markdown(self, kinds, n)

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
        self, *, baseline: "Profile | None" = None, source: bool = False, title: str | None = None
    ) -> str:
        """Return the report page: one HTML file with the profile inside, which loads nothing.

        Args:
            baseline: What came before; the page then shows what became more and what less.
            source: Put the Python files that the profile names into the page, those that are on
                this machine and have not changed since, to see what each line cost. Whoever gets
                the page can read them.
            title: What the page is called; the program's name without.
        """
        try:
            from . import viewer
        except ImportError as error:
            raise RprofStateError(
                f"the report page cannot be made: {error}; where modules cannot be loaded any more "
                "(chroot, upgrade, clean-up?), write the profile and make its page elsewhere"
            ) from error

        sources = None
        if source:
            names = (file for _, file, *_ in self._native.top(self._kind(None).type, False))
            sources = viewer.sources.read(names, self.time_ns)
        return viewer.page(
            [(self._label(), self.to_bytes())],
            title=title if title is not None else self._label(),
            baseline=(baseline._label(), baseline.to_bytes()) if baseline is not None else None,
            sources=sources,
        )

    def _repr_html_(self) -> str:
        """Show the report page in a notebook, in a frame that can reach nothing around it."""
        import html

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

    def write(self, path: str | os.PathLike[str]) -> "Path":
        """Write gzip pprof (mode 0600), complete or not at all, and return the path.

        Raises:
            RprofOSError: The file cannot be written.
        """
        self._native.write(os.fsdecode(path))
        return as_path(os.fsdecode(path))

    def merge(self, *others: "Profile") -> "Profile":
        """Return one profile with the samples of this and the others added up.

        See ``rprof.merge`` for what becomes of the rest, and for more profiles than fit in memory.

        Raises:
            RprofValueError: A sample type is in different units.
        """
        return merge([self, *others])

    def only_threads(self, accept: "Callable[[ThreadInfo], bool]") -> "Profile":
        """Return the profile of those threads for which ``accept`` is true."""
        main = self.main_threads
        kept = [
            (thread.id, thread.name)
            for thread in self.threads
            if accept(ThreadInfo(thread.id, thread.name, thread.id in main))
        ]
        return Profile(self._native.only_threads(kept))

    def labels(self) -> dict[str, list[str]]:
        """Return the values that each label has, numbers as text, by the label's name."""
        found: dict[str, set[str]] = {}
        for labels in self._native.label_sets():
            for key, value in labels:
                found.setdefault(key, set()).add(value)
        return {key: sorted(values) for key, values in sorted(found.items())}

    def only_labels(self, wanted: "Mapping[str, str] | None" = None, **more: str) -> "Profile":
        """Return the profile of those samples that have all of these labels.

        >>> profile.only_labels(route="/checkout*")
        >>> profile.only_labels({"thread name": "worker-?"}, tenant="acme")

        Args:
            wanted: Values by the label's name, with ``*`` and ``?``.
            **more: The same, for names that are identifiers.

        Raises:
            RprofTypeError: A value that is no text, or no label at all.
        """
        from fnmatch import fnmatchcase

        patterns = {**(wanted or {}), **more}
        if not patterns or not all(isinstance(value, str) for value in patterns.values()):
            raise RprofTypeError("only_labels() needs labels, for example route='/checkout*'")
        return self._only_label_sets(
            lambda labels: all(
                key in labels and fnmatchcase(labels[key], value) for key, value in patterns.items()
            )
        )

    def _only_label_sets(self, accept: "Callable[[dict[str, str]], bool]") -> "Profile":
        kept = [accept(dict(labels)) for labels in self._native.label_sets()]
        return Profile(self._native.only_label_sets(kept))

    def only_stacks(
        self,
        *,
        focus: "str | re.Pattern[str] | None" = None,
        ignore: "str | re.Pattern[str] | None" = None,
    ) -> "Profile":
        """Return the profile of some stacks.

        Args:
            focus: Only stacks with a function whose name this expression finds.
            ignore: No stacks with a function whose name this expression finds.

        Raises:
            RprofValueError: An expression is none.
        """
        names = self._native.functions
        focused, ignored = _matching("focus", focus, names), _matching("ignore", ignore, names)
        return Profile(self._native.only_stacks(focused, ignored or []))

    def of_requests(self, numbers: "Iterable[int]" = ()) -> "Profile":
        """Return what these requests did, or all; for profiles that keep requests apart."""
        return Profile(self._native.of_requests(list(numbers)))

    def divide(self, by: str | None = None, *, part: float = 0.9) -> "Divide":
        """Return the limit between hot and cold: how far down all samples agree.

        Args:
            by: A sample type; the default one if not given.
            part: How much of all must go on in one call for that to count as agreeing, 0 to 1.

        Raises:
            RprofValueError: An unknown sample type, `part` out of range, or the profile is a
                difference, with values below 0.
        """
        if not 0 < part <= 1:
            raise RprofValueError(f"part={part!r} is out of range; choose for example 0.9")
        kind = self._kind(by)
        column = [known.type for known in self.sample_types].index(kind.type)
        common, value, below = self._native.divide(column, part)
        total = self.totals[kind.type]
        return Divide([Frame(*frame) for frame in common], value, below, total, kind)

    def _count_type(self) -> str | None:
        """The sample type that counts samples, if there is one."""
        counts = [kind.type for kind in self.sample_types if kind.unit == "count"]
        return "samples" if "samples" in counts else next(iter(counts), None)

    def _kind(self, by: str | None) -> SampleType:
        if by is not None and not isinstance(by, str):
            raise RprofTypeError(f"by must name a sample type, not {by!r}")
        kinds = self.sample_types
        wanted = by or self._native.default_sample_type or (kinds[-1].type if kinds else "")
        # The second is what it was called before.
        for name in (wanted, "gil_wait" if wanted == "gil-wait" else wanted):
            for kind in kinds:
                if kind.type == name:
                    return kind
        known = ", ".join(inert(kind.type) for kind in kinds)
        raise RprofValueError(f"by={wanted!r} is not in this profile; it has {known or 'none'}")


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


def _matching(
    option: str, expression: "str | re.Pattern[str] | None", names: list[str]
) -> list[bool] | None:
    if expression is None:
        return None
    import re

    try:
        found = re.compile(expression).search
    except (re.error, TypeError) as error:
        raise RprofValueError(
            f"{option}={expression!r} is no regular expression: {error}"
        ) from None
    return [found(name) is not None for name in names]


def _check_count(n: int, what: str) -> None:
    if isinstance(n, bool) or not isinstance(n, int):
        raise RprofTypeError(f"n must be a whole number, not {n!r}")
    if n < 0:
        raise RprofValueError(f"n={n} is negative; ask for at least 0 {what}")


def _unpickled(data: bytes) -> Profile:
    return Profile(NativeProfile.decode(data, "a pickled profile"))


def load(path: str | os.PathLike[str]) -> Profile:
    """Read a pprof file, gzip-compressed or plain, of rprof or any other profiler.

    The format is recognised by content, whatever the file is called. The file may be hostile: what
    it unpacks to and what that takes in memory is bounded. Other threads run meanwhile.

    Args:
        path: The file.

    Raises:
        RprofOSError: The file cannot be read.
        RprofValueError: It is no pprof file (the message says what it is instead, where that is
            known), is truncated, or is unreasonably large.
    """
    try:
        raw = os.fspath(path)
    except TypeError:
        raise RprofTypeError(f"path must be a file name, not {path!r}") from None
    # Names of files may hold anything, the message only what can be shown.
    name = inert(os.fsdecode(raw))
    try:
        with open(raw, "rb") as file:
            data = _read_bounded(file, name)
    except IsADirectoryError:
        raise RprofOSError(
            f"{name} is a directory; give one of the files in it, or merge them with rprof.merge"
        ) from None
    except OSError as error:
        raise RprofOSError(f"cannot read {name}: {error.strerror or error}") from error
    except ValueError as error:
        if isinstance(error, RprofValueError):
            raise
        raise RprofValueError(f"cannot read {name}: {error}") from error
    return Profile(NativeProfile.decode(data, name))


def _read_bounded(file: "BinaryIO", name: str) -> bytes:
    size = os.fstat(file.fileno()).st_size
    # A pipe or a device has no size; of those one byte too many is enough to know.
    data = b"" if size > _MAX_FILE_BYTES else file.read(_MAX_FILE_BYTES + 1)
    if max(size, len(data)) > _MAX_FILE_BYTES:
        raise RprofValueError(
            f"{name} is larger than {_MAX_FILE_BYTES >> 20} MiB, which no profile is; give a file "
            "written by rprof or another profiler's pprof output"
        )
    return data


def merge(sources: "Iterable[Profile | str | os.PathLike[str]]") -> Profile:
    """Add up profiles, or files of them, which are read one at a time.

    The result has the sample types of all. Where a profile did not measure one, as the ``gil``
    engine does not measure ``gil``, its samples count nothing there; a comment tells in how many
    profiles and for how long that was so, and so do ``doubts`` and every table of that type.
    Samples of equal stacks and labels are added up; threads, as all labels, are kept apart. The
    first profile names the program, the period and the default sample type; the result begins
    with the earliest, and its length is the time in which at least one of them was recording:
    profiles of several processes at once count once, and gaps do not count. Of the comments the
    first 100 different ones are kept. Beyond 8,000,000 nodes stacks fold into ``<overflow>``,
    and a comment says so.

    Args:
        sources: Profiles and paths, in any order.

    Raises:
        RprofOSError: A file cannot be read.
        RprofValueError: A file is no profile, a sample type is in different units, together they
            have more than 32 different ones, or there is none.
    """
    return Profile(NativeProfile.merge(_loaded(sources)))


def _loaded(
    sources: "Iterable[Profile | str | os.PathLike[str]]",
) -> "Iterator[NativeProfile]":
    for source in sources:
        yield (source if isinstance(source, Profile) else load(source))._native


# Compressed; the decoder bounds what comes out of it.
_MAX_FILE_BYTES = 256 << 20
# Deeper than any stack that is recorded or read.
_MAX_TREE_DEPTH = 1_000_000
