"""How often a stack that was read while it changed shows a call that cannot be.

Run:  python benches/torn.py [--seconds N] [--rate HZ] [--only NAME,...] [--json FILE]

Each program calls only functions of its own letter, as fast as it can and in other shapes each
time: an edge from an `_a` to a `_b` function, to a function of the wrong level, or from nowhere to
a function that the program calls, was invented by whoever read the stack. `incomplete` are the
stacks that the profiler itself gave up and marked. Both in percent of the samples in which the
program ran.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import sys
import time

import peers


def leaf_a(x):
    return x


def mid_a(x):
    return leaf_a(x) + leaf_a(x)


def hot_a():
    return mid_a(1) + mid_a(2)


def leaf_b(x, y=2, z=3):
    return x + y + z


def mid_b(x, y=2):
    return leaf_b(x) + y


def hot_b():
    return mid_b(1) + mid_b(2)


def flutter(end):
    """Two families of short calls in turn, in frames of other sizes: the worst there is."""
    while time.perf_counter() < end:
        for _ in range(200):
            hot_a()
            hot_b()


def produce_a(n):
    for k in range(n):
        yield leaf_a(k)


def produce_b(n):
    yield from (leaf_b(k) for k in range(n))


def consume_a():
    return sum(produce_a(3))


def consume_b():
    return sum(produce_b(3))


def generators(end):
    """Generators that are made, resumed and freed all the time."""
    while time.perf_counter() < end:
        for _ in range(100):
            consume_a()
            consume_b()


def down_a(n):
    return down_a(n - 1) if n else leaf_a(n)


def down_b(n):
    return down_b(n - 1) if n else leaf_b(n)


def recursion(end):
    """Deep and shallow in turn, over several chunks of the data stack."""
    while time.perf_counter() < end:
        down_a(400)
        down_b(3)


def key_a(x):
    return -x


def sort_a():
    return sorted(range(20), key=key_a)


def raise_b():
    raise ValueError


def catch_b():
    try:
        raise_b()
    except ValueError:
        return


def ordinary(end):
    """Callbacks from C, exceptions, and some work between the calls."""
    while time.perf_counter() < end:
        sort_a()
        catch_b()
        sum(range(300))


PROGRAMS = (flutter, generators, recursion, ordinary)
CALLS = {
    "flutter": {"hot_a", "hot_b"},
    "generators": {"consume_a", "consume_b"},
    "recursion": {"down_a", "down_b"},
    "ordinary": {"sort_a", "catch_b"},
    "hot_a": {"mid_a"},
    "mid_a": {"leaf_a"},
    "hot_b": {"mid_b"},
    "mid_b": {"leaf_b"},
    "consume_a": {"produce_a"},
    "produce_a": {"leaf_a"},
    "consume_b": {"produce_b"},
    "produce_b": {"<genexpr>"},
    "<genexpr>": {"leaf_b"},
    "down_a": {"down_a", "leaf_a"},
    "down_b": {"down_b", "leaf_b"},
    "sort_a": {"key_a"},
    "catch_b": {"raise_b"},
}


def judge(recording: peers.Recording) -> tuple[float, float, float]:
    """Samples, those with an impossible edge, those that are marked as incomplete."""
    total = impossible = incomplete = 0.0
    for stack, count in recording.values["samples"].items():
        # Callers in other files, and functions of C, which some show, are not in question.
        names = [f.function for f in stack if f.file == "torn.py" or is_mark(f.function)]
        marked = any(map(is_mark, names))
        begun = not {program.__name__ for program in PROGRAMS}.isdisjoint(names)
        if not begun and not marked and CALLS.keys().isdisjoint(names):
            continue  # Before or after the program.
        total += count
        incomplete += count * marked
        impossible += count * (
            (not begun and not marked)
            or any(
                callee not in CALLS[caller]
                for caller, callee in itertools.pairwise(names)
                if caller in CALLS and not is_mark(callee)
            )
        )
    return total, impossible, incomplete


def is_mark(name: str) -> bool:
    """Whether a profiler says by this frame that others are missing."""
    return name == "<incomplete>" or name.endswith("frames omitted>")


def run(_: peers.Profiler, program: str, seconds: float) -> None:
    sys.setrecursionlimit(5_000)
    (function,) = (f for f in PROGRAMS if f.__name__ == program)
    function(time.perf_counter() + seconds)


def main() -> None:
    if case := peers.case():
        peers.record(case, lambda profiler: run(profiler, **case["options"]))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=5, help="each (%(default)s)")
    parser.add_argument("--rate", type=int, default=10_000, help="Hz (%(default)s)")
    parser.add_argument("--only", metavar="NAME,...", help="some of the profilers")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    profilers, absent = peers.available(options.only)
    profilers = [p for p in profilers if p.rates is None]
    rows = []
    print(f"CPython {platform.python_version()}, {options.rate} Hz, {options.seconds} s each")
    print(f"{'program':12} {'profiler':20} {'samples':>9} {'impossible':>11} {'incomplete':>11}")
    for program in PROGRAMS:
        for profiler in profilers:
            if "torn" in profiler.reasons:
                absent[profiler.name] = profiler.reasons["torn"]
                continue
            try:
                _, recording, _ = peers.measure(
                    profiler,
                    options.rate,
                    profiler.runs[0],
                    __file__,
                    program=program.__name__,
                    seconds=options.seconds,
                )
            except peers.NotDriven as why:
                absent[f"{profiler.name}, {program.__name__}"] = str(why)
                continue
            total, impossible, incomplete = judge(recording)
            if not total:
                absent[f"{profiler.name}, {program.__name__}"] = "no sample of the program"
                continue
            row = {
                "program": program.__name__,
                "profiler": profiler.name,
                "samples": total,
                "impossible percent": 100 * impossible / total,
                "incomplete percent": 100 * incomplete / total,
            }
            rows.append(row)
            print(
                f"{program.__name__:12} {profiler.name:20} {total:9.0f}"
                f" {row['impossible percent']:9.3f} % {row['incomplete percent']:9.3f} %"
            )
    figures = {"benchmark": "torn", **peers.heading(profilers)}
    figures |= {"rate": options.rate, "seconds": options.seconds}
    print()
    peers.report(figures | {"not compared": absent, "rows": rows}, options.json)


if __name__ == "__main__":
    main()
