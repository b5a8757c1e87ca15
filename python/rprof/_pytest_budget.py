"""Budgets of tests: what ``@pytest.mark.rprof`` allows, and what went over it.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import sqrt
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from ._profile import Profile

__all__ = ["HeapBudgeted", "budget_of", "excess_of", "explain", "memory_of"]

_MARKER_OPTIONS = ("max_cpu", "max_wall", "max_share", "max_alloc", "max_growth", "memory")
_DURATION = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*(ns|us|ms|s|min)\s*")
_NANOSECONDS = {"ns": 1, "us": 1e3, "ms": 1e6, "s": 1e9, "min": 60e9}
_SIZE = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*(B|KiB|MiB|GiB|KB|kB|MB|GB)\s*")
_BYTES = {
    "B": 1,
    **{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30},
    **{"KB": 1e3, "kB": 1e3, "MB": 1e6, "GB": 1e9},
}
# With this many samples the error of a limit of memory is a thirtieth of it.
_SAMPLES = 1_000
_LEAST_RATE, _LARGEST_RATE = 1 << 10, 64 << 10
# A test that keeps within its limit goes over it by chance once in 700 runs, if it uses all of it.
_ERRORS = 3
# What is told of memory, and the measure it is of.
_MEMORY = {
    "max_alloc": ("alloc_space", "memory allocated"),
    "max_growth": ("inuse_space", "memory that is still in use at the end"),
}


class HeapBudgeted(NamedTuple):
    """What is known of the memory of a test."""

    profile: Profile
    """The heap at its end."""
    before: int
    """Bytes in use at its begin, of those that the profile knows."""
    rate: float
    """Bytes between two samples."""


def memory_of(budget: Mapping[str, Any] | None) -> float | None:
    """Return the bytes between two samples that suit a budget of memory; None if it has none."""
    budget = budget or {}
    limits = [budget[name] for name in _MEMORY if name in budget]
    if limits:
        return float(min(max(min(limits) / _SAMPLES, _LEAST_RATE), _LARGEST_RATE))
    return float(_LEAST_RATE << 2) if budget.get("memory") else None


def budget_of(item: pytest.Item) -> dict[str, Any] | None:
    """Return what a test's marker allows, times in ns; None without one.

    Raises:
        pytest.UsageError: The marker has something that it does not take.
    """
    marker = item.get_closest_marker("rprof")
    if marker is None:
        return None
    unknown = sorted(set(marker.kwargs) - set(_MARKER_OPTIONS))
    if marker.args or unknown:
        what = ", ".join(unknown) or f"positional arguments {marker.args!r}"
        raise pytest.UsageError(
            f"{item.nodeid}: @pytest.mark.rprof does not take {what}; it takes "
            f"{', '.join(name + '=' for name in _MARKER_OPTIONS)}"
        )
    budget: dict[str, Any] = {}
    for name in ("max_cpu", "max_wall"):
        if marker.kwargs.get(name) is not None:
            budget[name] = _nanoseconds(item, name, marker.kwargs[name])
    for name in _MEMORY:
        if marker.kwargs.get(name) is not None:
            budget[name] = _bytes(item, name, marker.kwargs[name])
    budget["memory"] = bool(marker.kwargs.get("memory"))
    shares = marker.kwargs.get("max_share") or {}
    if not isinstance(shares, Mapping) or not all(
        isinstance(share, (int, float)) and 0 <= share <= 1 for share in shares.values()
    ):
        raise pytest.UsageError(
            f"{item.nodeid}: max_share={shares!r} must be a dict of function names and fractions "
            'from 0 to 1, for example {"pkg.mod.func": 0.3}'
        )
    budget["max_share"] = dict(shares)
    return budget


def _nanoseconds(item: pytest.Item, name: str, value: Any) -> int:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
        return round(value * 1e9)
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise pytest.UsageError(
            f"{item.nodeid}: {name}={value!r} is no duration; give seconds as a number or text "
            'such as "200ms", "1.5s" or "2min"'
        )
    return round(float(match[1]) * _NANOSECONDS[match[2]])


def _bytes(item: pytest.Item, name: str, value: Any) -> int:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
        return round(value)
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise pytest.UsageError(
            f"{item.nodeid}: {name}={value!r} is no amount of memory; give bytes as a number or "
            'text such as "512KiB", "10MiB" or "1GiB"'
        )
    return round(float(match[1]) * _BYTES[match[2]])


def _memory_excess(budget: Mapping[str, Any], heap: HeapBudgeted) -> list[str]:
    excess = []
    totals = heap.profile.totals
    for name, (measure, words) in _MEMORY.items():
        allowed = budget.get(name)
        if allowed is None:
            continue
        if measure not in totals:
            excess.append(f"{name}: not known, another allocator hook hides what is freed")
            continue
        before = heap.before if name == "max_growth" else 0
        used = totals[measure] - before
        # Of a sum of samples; what was in use before has an error of its own.
        error = sqrt(heap.rate * (totals[measure] + before))
        if used - _ERRORS * error > allowed:
            excess.append(
                f"{words}: {used / 2**20:,.2f} ± {error / 2**20:,.2f} MiB, more than "
                f"{name} = {allowed / 2**20:,.2f} MiB\n"
                f"{heap.profile.top(5, by=measure, lines=True)}"
            )
    return excess


def excess_of(
    budget: Mapping[str, Any], profile: Profile, heap: HeapBudgeted | None = None
) -> list[str]:
    """Return what went over the budget, one sentence each."""
    excess = []
    used = {"max_cpu": profile.totals["cpu"], "max_wall": profile.duration_ns}
    words = {"max_cpu": "CPU time of all threads", "max_wall": "wall time"}
    for name, nanoseconds in used.items():
        allowed = budget.get(name)
        if allowed is not None and nanoseconds > allowed:
            excess.append(
                f"{words[name]}: {nanoseconds / 1e6:,.1f} ms, more than "
                f"{name} = {allowed / 1e6:,.1f} ms"
            )
    if budget["max_share"]:
        rows = profile.top(1_000_000, by="cpu")
        for function, allowed in budget["max_share"].items():
            share = sum(row.total_fraction for row in rows if _is_named(row.name, function))
            if share > allowed:
                excess.append(
                    f"{function} and what it calls: {share:.1%} of the CPU time, more than "
                    f"max_share = {allowed:.1%}"
                )
    if heap is not None:
        excess += _memory_excess(budget, heap)
    return excess


def _is_named(name: str, wanted: str) -> bool:
    return name == wanted or name.endswith("." + wanted)


def explain(item: pytest.Item, excess: list[str], profile: Profile) -> str:
    """Return why a test fails that went over its budget, with its call tree."""
    return "\n".join(
        [f"{item.nodeid} went over its rprof budget:"]
        + [f"  {sentence}" for sentence in excess]
        + ["", profile.tree(by="cpu", min_fraction=0.02)]
    )
