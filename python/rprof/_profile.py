"""Finished profiles: totals, tables, trees, files."""

# Loaded when a recording begins, so it imports nothing that the interpreter has not imported by
# itself, as _config; what only some methods need, they import.

import os

from ._config import ThreadInfo
from ._filters import check_branches, check_count, has_labels, matching
from ._loading import as_path, native
from ._tables import Divide, Frame, FunctionRow, SampleType, ThreadTotals, TopTable, doubts_of
from ._text import inert
from .errors import RprofStateError, RprofTypeError, RprofValueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path
    from typing import Literal

    from ._diff import Diff
    from ._native import Profile as NativeProfile
    from ._native import format_value
    from ._waits import WaitTable
else:
    NativeProfile, format_value = native().Profile, native().format_value

__all__ = ["NativeProfile", "Profile"]


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
        shown = ("wall", "cpu", self._native.default_sample_type)
        sums = [(kind, self.totals[kind.type]) for kind in self.sample_types if kind.type in shown]
        parts = [f"{inert(kind.type)}={format_value(value, kind.unit)}" for kind, value in sums]
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
        """Engine, rates and counters in words; ``facts`` has the numbers of them."""
        return self._native.comments

    @property
    def facts(self) -> dict[str, float]:
        """Numbers that ``comments`` tell in words; of merged profiles what all tell alike."""
        return dict(self._native.facts)

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
        check_count(n, "functions")
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
        return doubts_of(self._native, self._kind(by).type, lines=lines)

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
        check_branches(min_fraction, max_depth)
        return self._native.tree(
            self._kind(by).type,
            min_fraction=float(min_fraction),
            max_depth=max_depth,
            fold_library=not library,
            color=color,
        )

    def waits(self) -> "WaitTable":
        """Return what threads and tasks waited for, who made them wait, and who waited.

        Printed it is text. What somebody caused comes first (locks, the GIL), then the rest by the
        label `off`, and ``task``. What was not measured is told by samples of wall time.

        Raises:
            RprofValueError: The profile is a difference: it has values below 0.
        """
        from ._waits import table

        return table(self._native)

    def rooted(self, label: str) -> "Profile":
        """Return the profile with the value of a label at the root of the stacks that have it."""
        return Profile(self._native.rooted(label))

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
        from ._diff import between

        return between(self, other, self._kind(by), lines=lines, scale=scale)

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
        from ._formats.pstats import pstats_bytes

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
        check_count(n, "rows")
        totals = self.totals
        kinds = [
            kind for kind in self.sample_types if kind.unit != "count" and totals[kind.type] != 0
        ]
        if by is not None or not kinds:
            kinds = [self._kind(by)]
        from ._formats.markdown import markdown

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
            from ._formats import html

            return html.page(self, baseline=baseline, source=source, title=title)
        except ImportError as error:
            raise RprofStateError(
                f"the report page cannot be made: {error}; where modules cannot be loaded any more "
                "(chroot, upgrade, clean-up?), write the profile and make its page elsewhere"
            ) from error

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
        return Profile(NativeProfile.merge(profile._native for profile in (self, *others)))

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
        return self._only_label_sets(has_labels({**(wanted or {}), **more}))

    def _only_label_sets(self, accept: "Callable[[Mapping[str, str]], bool]") -> "Profile":
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
        focused, ignored = matching("focus", focus, names), matching("ignore", ignore, names)
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
        common, value, below = self._native.divide(self.sample_types.index(kind), part)
        frames = [Frame(*frame) for frame in common]
        return Divide(frames, value, below, self.totals[kind.type], kind)

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
            if found := [kind for kind in kinds if kind.type == name]:
                return found[0]
        known = ", ".join(inert(kind.type) for kind in kinds)
        raise RprofValueError(f"by={wanted!r} is not in this profile; it has {known or 'none'}")


def _unpickled(data: bytes) -> Profile:
    return Profile(NativeProfile.decode(data, "a pickled profile"))
