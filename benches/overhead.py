"""What sampling costs: every profiler beside a bare timer, in one run.

Run:  python benches/overhead.py [--quick] [--only NAME,...] [--json FILE]
      python benches/overhead.py --baseline WHEEL        beside another build of rprof

All profilers take turns, round after round, each in a new process, so that a machine whose speed
drifts treats them alike; the figures are medians of the rounds.

Cost: ten threads with 30 frames each, all blocked, one busy, or all busy; one and four threads that
are all busy; two thousand, of which two are. The cost is measured from outside and in the same way
for all: the CPU time of the process without that of those threads, and that of a recorder process,
in percent of one core, while the recording goes on (starting and the writing at the end are not in
it). Samples are counted per thread and second (ideal: with the main thread, one more than the
threads x rate), by the samples of the main thread, which is in one function all that time. The
waking native thread does nothing but sleep to its next tick: it is the least that any sampler can
cost on this machine if it wakes up for each of its ticks; rprof's direct engine does not while all
threads stay blocked. The waking thread is a Python thread that does nothing but usleep(), so it
takes the GIL back each time: it is the least a sampler written in Python can cost. The walking
native thread also walks all frames by plain loads and forgets them: what any sampler does at least.
Compared with a baseline are the whole costs, and what they are above that floor (median of the
rounds' ratios, for rounds differ more than the profilers of one).

Pauses: a loop in the main thread, beside ten blocked threads, measures how long each of its equal
units of work takes, at 100 Hz. Shown is by how much the slowest units exceed the median one of the
same run, in microseconds, and the CPU time of a unit against that without a profiler. `no profiler`
twice shows what a difference must be to mean anything.

Size: what is written in a minute at 100 Hz about eight threads that compile, tokenize and format
parts of the standard library with breaks between, in KiB.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import platform
import pprint
import random
import statistics
import textwrap
import threading
import time
import tokenize
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers

THREADS, FRAMES = 10, 30
# Threads, how many of them are busy, and the rates.
SITUATIONS = (
    (THREADS, 0, (100, 1000, 10_000)),
    (THREADS, 1, (100, 1000, 10_000)),
    (THREADS, THREADS, (100,)),
    (1, 1, (100, 1000)),
    (4, 4, (100, 1000)),
    (2000, 2, (100,)),
)
FLOOR = peers.WalkingNativeThread.name


def compute(done: threading.Event) -> None:
    while not done.is_set():
        sum(range(1000))


def pauses(_: peers.Profiler, __: list[int], seconds: float) -> dict[str, float]:
    """Times of equal units of work, some tenths of a millisecond of Python each."""
    clock = time.perf_counter
    units = []
    end = clock() + seconds
    cpu = time.thread_time()
    last = clock()
    while last < end:
        total = 0
        for k in range(5_000):
            total += k
        now = clock()
        units.append(now - last)
        last = now
    cpu = time.thread_time() - cpu
    units.sort()
    median = units[len(units) // 2]
    return {
        "p99": 1e6 * (units[len(units) * 99 // 100] - median),
        "max": 1e6 * (units[-1] - median),
        "cpu of a unit": 1e6 * cpu / len(units),
    }


def request(sources: list[str], chance: random.Random) -> None:
    """A little of one of several kinds of work."""
    source = chance.choice(sources)
    kind = chance.randrange(4)
    if kind == 0:
        compile(source, "source", "exec")
    elif kind == 1:
        list(tokenize.generate_tokens(io.StringIO(source).readline))
    elif kind == 2:
        pprint.pformat(source.splitlines()[:50], compact=True)
    else:
        textwrap.wrap(source[:5_000])


def serve(sources: list[str], done: threading.Event, seed: int) -> None:
    chance = random.Random(seed)
    while not done.wait(chance.uniform(0.1, 0.5)):
        request(sources, chance)


def size(_: peers.Profiler, __: list[int], seconds: float) -> dict[str, float]:
    peers.measured_window(seconds)
    return {}


def run_case(case: dict[str, Any]) -> None:
    options = case["options"]
    done = threading.Event()
    if options["what"] == "size":
        modules = (argparse, json, pprint, random, statistics, textwrap, threading, tokenize)
        sources = [Path(str(module.__file__)).read_text("utf-8") for module in modules]
        threads = [threading.Thread(target=serve, args=(sources, done, seed)) for seed in range(8)]
    else:
        busy = options.get("busy", 0)
        threads = [
            threading.Thread(
                target=peers.deep,
                args=(FRAMES, functools.partial(compute, done) if number < busy else done.wait),
            )
            for number in range(options.get("threads", THREADS))
        ]
    for thread in threads:
        thread.start()
    clocks = [time.pthread_getcpuclockid(thread.ident) for thread in threads if thread.ident]
    body: Callable[..., object] = {"cost": peers.cost, "pauses": pauses, "size": size}[
        options["what"]
    ]
    try:
        peers.record(case, lambda profiler: body(profiler, clocks, options["seconds"]))
    finally:
        done.set()
        for thread in threads:
            thread.join()


def compare_cost(
    profilers: list[peers.Profiler], rounds: int, seconds: float, absent: dict[str, str]
) -> list[dict[str, Any]]:
    rows = []
    for threads, busy, rates in SITUATIONS:
        for rate in rates:
            found = peers.turns(
                profilers,
                rounds,
                rate,
                absent,
                __file__,
                told=peers.achieved,
                what="cost",
                threads=threads,
                busy=busy,
                seconds=seconds,
            )
            costs = {name: [o.result["cpu"] for o in outcomes] for name, outcomes in found.items()}
            print(f"\n{rate} Hz, {busy} of {threads} threads busy")
            print(
                f"{'':22}{'% of core':>10}{'samples/s':>11}"
                + "".join(map("{:>11}".format, AGAINST))
            )
            for name, outcomes in found.items():
                row = {
                    "profiler": name,
                    "rate": rate,
                    "threads": threads,
                    "busy": busy,
                    "percent of core": 100 * statistics.median(costs[name]),
                    "samples per second": statistics.median(o.result["achieved"] for o in outcomes),
                    **ratios(name, costs),
                }
                rows.append(row)
                print(
                    f"{name:22}{row['percent of core']:10.2f}{row['samples per second']:11.0f}"
                    + "".join(
                        f"{row[key]:11.2f}" if key in row else f"{'-':>11}" for key in AGAINST
                    )
                )
    return rows


AGAINST = {
    "x waking": "waking thread",
    "x Python": "Python thread",
    "x baseline": "baseline",
    "above floor": "baseline",
    "x ddtrace": "ddtrace",
}


def ratios(name: str, costs: dict[str, list[float]]) -> dict[str, float]:
    """A profiler's costs over those of others, round by round; medians."""
    found = {}
    for column, other in AGAINST.items():
        base = name.replace("rprof", other) if other == "baseline" else other
        floors = costs.get(FLOOR, []) if column == "above floor" else [0.0] * len(costs[name])
        # One that failed in a round has no pairs.
        if base != name and len(costs.get(base, ())) == len(costs[name]) == len(floors):
            pairs = zip(costs[name], costs[base], floors, strict=True)
            pairs = [(ours - floor, theirs - floor) for ours, theirs, floor in pairs]
            if all(theirs > 0 for _, theirs in pairs):
                found[column] = statistics.median(ours / theirs for ours, theirs in pairs)
    return found


def compare_pauses(
    profilers: list[peers.Profiler], rounds: int, seconds: float, absent: dict[str, str]
) -> list[dict[str, Any]]:
    found = peers.turns(profilers, rounds, 100, absent, __file__, what="pauses", seconds=seconds)
    names = ("p99", "max", "cpu of a unit")
    medians = {
        name: {key: statistics.median(o.result[key] for o in outcomes) for key in names}
        for name, outcomes in found.items()
    }
    print("\npauses at 100 Hz: beyond the median unit of work, us; CPU time against no profiler")
    print(f"{'':20}{'p99':>10}{'max':>11}{'CPU':>9}")
    rows = []
    plain = medians.get(peers.Profiler.name)
    for name, row in medians.items():
        cpu = row["cpu of a unit"] / plain["cpu of a unit"] if plain else float("nan")
        rows.append({"profiler": name, "p99 us": row["p99"], "max us": row["max"], "cpu": cpu})
        print(f"{name:20}{row['p99']:10.0f}{row['max']:11.0f}{cpu:9.3f}")
    return rows


def compare_size(
    profilers: list[peers.Profiler], seconds: float, absent: dict[str, str]
) -> list[dict[str, Any]]:
    writing = [p for p in profilers if p.runs != ((),) and p.name != "Python thread"]
    found = peers.turns(writing, 1, 100, absent, __file__, what="size", seconds=seconds)
    print(f"\nwritten in {seconds:.0f} s at 100 Hz, KiB")
    rows = []
    for name, (outcome,) in found.items():
        rows.append({"profiler": name, "seconds": seconds, "KiB": outcome.size / 1024})
        print(f"{name:20}{outcome.size / 1024:10.1f}")
    return rows


def main() -> None:
    if case := peers.case():
        run_case(case)
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--only", metavar="NAME,...", help="some of the profilers")
    parser.add_argument("--baseline", metavar="WHEEL", type=Path, help="another build of rprof")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a measurement (%(default)s)")
    parser.add_argument("--part", choices=("cost", "pauses", "size"), help="only this")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    options = parser.parse_args()
    rounds, seconds, minute = options.rounds, options.seconds, 60.0
    if options.quick:
        rounds, seconds, minute = 1, 1.0, 5.0
    with contextlib.ExitStack() as stack:
        choice: tuple[peers.Profiler, ...] = (*peers.BASELINES, *peers.PROFILERS)
        if options.baseline:
            stack.enter_context(peers.unpacked(options.baseline))
            choice = (*peers.BASELINES, *peers.BUILDS, *peers.PROFILERS)
        profilers, absent = peers.available(options.only, choice)
        print(f"CPython {platform.python_version()}, {THREADS} threads x {FRAMES} frames")
        figures = {"benchmark": "overhead", **peers.heading(profilers), "rounds": rounds}
        if options.part in (None, "cost"):
            figures["cost"] = compare_cost(profilers, rounds, seconds, absent)
        if options.part in (None, "pauses"):
            figures["pauses"] = compare_pauses(profilers, rounds, seconds, absent)
        if options.part in (None, "size"):
            figures["size"] = compare_size(profilers, minute, absent)
    print()
    peers.report(figures | {"not compared": absent}, options.json)


if __name__ == "__main__":
    main()
