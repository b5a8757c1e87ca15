"""A summary in Markdown, for a bug report or a language model."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from .._loading import native
from .._text import SECONDS, inert, short_file
from ._format import Format, write_text

if TYPE_CHECKING:
    from .._native import format_value
    from .._profile import Profile
    from .._tables import FunctionRow, SampleType
else:
    format_value = native().format_value

__all__ = ["FORMAT", "markdown"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_ALL = 1 << 62
# Longer than real names, shorter than an essay.
_NAME_CHARACTERS = 160
_TREE_LINES = 40


def markdown(profile: Profile, kinds: list[SampleType], n: int) -> str:
    """Return facts, tables and trees, everything that comes from the profile within fences."""
    sections = ["# Profile by rprof", _fenced(_facts(profile))]
    for kind in kinds:
        total = profile.totals[kind.type]
        heading = f"## {_word(kind.type)}: {format_value(total, kind.unit)} in all"
        sections.append(heading)
        if profile.doubts(kind.type):
            sections.append(_fenced([_short(doubt, 300) for doubt in profile.doubts(kind.type)]))
        rows = profile.top(_ALL, by=kind.type)
        sections.append("By own time:" if kind.unit in SECONDS else "By own value:")
        sections.append(_fenced(_table(rows, kind, n)))
        sections.append("With what was called:")
        rows.sort(key=lambda row: (-abs(row.total_value), -abs(row.self_value), row.name, row.file))
        sections.append(_fenced(_table(rows, kind, n)))
        sections.append("Call tree:")
        sections.append(_fenced(_tree(profile, kind)))
    sections.append("## Threads")
    sections.append(_fenced(_threads(profile, kinds, n)))
    return "\n\n".join(sections) + "\n"


def _facts(profile: Profile) -> list[str]:
    facts = [f"program: {_short(profile.program) or 'unknown'}"]
    if profile.time_ns > 0:
        try:
            began = _EPOCH + timedelta(microseconds=profile.time_ns // 1000)
        except OverflowError:
            pass
        else:
            facts.append(f"began: {began:%Y-%m-%d %H:%M:%S} UTC")
    facts.append(f"lasted: {format_value(profile.duration_ns, 'nanoseconds')}")
    if profile.period_ns > 0:
        facts.append(
            f"asked time between samples: {format_value(profile.period_ns, 'nanoseconds')}"
        )
    facts += [_short(comment) for comment in profile.comments]
    return facts


def _table(rows: list[FunctionRow], kind: SampleType, n: int) -> list[str]:
    lines = [f"{'self':>10} {'':>6} {'total':>10} {'':>6}  function"]
    for row in rows[:n]:
        where = f" ({_short(short_file(row.file))}:{row.line})" if row.file else ""
        lines.append(
            f"{format_value(row.self_value, kind.unit):>10} {row.self_fraction:>6.1%} "
            f"{format_value(row.total_value, kind.unit):>10} {row.total_fraction:>6.1%}  "
            f"{_short(row.name)}{where}"
        )
    if len(rows) > n:
        lines.append(f"... {len(rows) - n} more")
    return lines


def _tree(profile: Profile, kind: SampleType) -> list[str]:
    lines = profile.tree(by=kind.type, min_fraction=0.02).splitlines()
    shown = [_short(line, 2 * _NAME_CHARACTERS) for line in lines[:_TREE_LINES]]
    if len(lines) > _TREE_LINES:
        shown.append(f"... {len(lines) - _TREE_LINES} more lines")
    return shown


def _threads(profile: Profile, kinds: list[SampleType], n: int) -> list[str]:
    lines = []
    main = profile.main_threads
    for thread in profile.threads[:n]:
        values = [
            f"{_short(kind.type)} {format_value(thread.totals[kind.type], kind.unit)}"
            for kind in kinds
        ]
        of_process = ", the main thread" if thread.id in main else ""
        lines.append(
            f"{_short(thread.name) or 'unnamed'} ({thread.id}{of_process}): {', '.join(values)}"
        )
    if len(profile.threads) > n:
        lines.append(f"... {len(profile.threads) - n} more")
    return lines


def _short(text: str, limit: int = _NAME_CHARACTERS) -> str:
    text = inert(text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _word(text: str) -> str:
    """A sample type's name outside a fence: nothing in it may mean anything in Markdown."""
    return re.sub(r"[^\w-]+", " ", _short(text)).strip().replace("_", " ") or "unnamed"


def _fenced(lines: list[str]) -> str:
    """A block of literal text; its fence is longer than any that the text could close it with."""
    text = "\n".join(lines)
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _write(profile: Profile, path: str, _by: str | None) -> None:
    write_text(path, profile.to_markdown())


FORMAT = Format(
    ".md",
    "Markdown",
    "Markdown, for a bug report or a language model",
    _write,
)
