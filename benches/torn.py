"""How often a stack that was read while it changed shows a call that cannot be.

Run:  python benches/torn.py [--seconds N] [--rate HZ] [--json FILE]

Each program calls only functions of its own letter, as fast as it can and in other shapes each
time: an edge from an `_a` to a `_b` function, or to a function of the wrong level, was invented by
whoever read the stack. `incomplete` are the stacks that the engine itself gave up and counted. Both
in percent of the samples in which the program ran.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time

import rprof


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
    "produce_b": {"produce_b.<locals>.<genexpr>"},
    "produce_b.<locals>.<genexpr>": {"leaf_b"},
    "down_a": {"down_a", "leaf_a"},
    "down_b": {"down_b", "leaf_b"},
    "sort_a": {"key_a"},
    "catch_b": {"raise_b"},
}


def judge(profile: rprof.Profile) -> tuple[int, int, int]:
    """Samples, those with an impossible edge, those that are incomplete."""
    total = impossible = incomplete = 0
    for line in profile.to_collapsed("samples").splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [frame.removeprefix("torn.") for frame in stack.split(";")[1:]]
        if not set(frames) & {program.__name__ for program in PROGRAMS}:
            incomplete += int(count) * ("<incomplete>" in frames)
            total += int(count) * ("<incomplete>" in frames)
            continue
        total += int(count)
        incomplete += int(count) * ("<incomplete>" in frames)
        edges = itertools.pairwise(frames)
        impossible += int(count) * any(
            callee not in CALLS[caller]
            for caller, callee in edges
            if caller in CALLS and not callee.endswith("frames omitted>")
        )
    return total, impossible, incomplete


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=5, help="each (%(default)s)")
    parser.add_argument("--rate", type=int, default=10_000, help="Hz (%(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    sys.setrecursionlimit(5_000)
    rows = []
    print(f"CPython {sys.version.split()[0]}, {options.rate} Hz, {options.seconds} s each")
    print(f"{'program':12} {'engine':8} {'samples':>9} {'impossible':>11} {'incomplete':>11}")
    for program in PROGRAMS:
        for engine in ("direct", "gil"):
            with rprof.profile(rate=options.rate, max_overhead=1.0, engine=engine) as block:
                program(time.perf_counter() + options.seconds)
            total, impossible, incomplete = judge(block.profile)
            row = {
                "program": program.__name__,
                "engine": engine,
                "samples": total,
                "impossible_percent": 100 * impossible / max(total, 1),
                "incomplete_percent": 100 * incomplete / max(total, 1),
            }
            rows.append(row)
            print(
                f"{program.__name__:12} {engine:8} {total:9} {row['impossible_percent']:9.3f} %"
                f" {row['incomplete_percent']:9.3f} %"
            )
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"python": sys.version, "rate": options.rate, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
