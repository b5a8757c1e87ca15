"""How the cost of sampling grows: with threads, depth of stacks, rate, and different stacks.

Run:  python benches/scale.py                                 all of it, some six minutes
      python benches/scale.py --quick --only rate             one short round of one question
      python benches/scale.py --json FILE --svg FILE          also keep the figures and the picture
      python benches/scale.py --from FILE --svg FILE          figures that were kept: show and draw

It answers three questions about a profiler that is left on. How short may the interval be? Does the
GIL suffer? Is one sampler thread enough for all threads of a program?

  threads  1 to 2,000 threads of 30 frames at 100 Hz: two compute (of one, one), all others wait
  depth    one thread that computes below 10 to 1,000 frames, at 100 Hz
  rate     10 Hz to 10 kHz: ten threads of 30 frames, of which one computes
  stacks   one thread that calls its way through 10 to 1,000,000 different stacks, at 10 kHz

Every profiler, and none, is run in a process of its own, in turns, round after round; the figures
are medians of the rounds. There is one round of `stacks`, for memory hardly varies. rprof's limit
on its own CPU use (`max_overhead`) is off. What else the machine does shows in `wall` above
all: its load average before the run is told.

%core    CPU time of the process without that of its threads, measured from outside as
         benches/overhead.py does, in percent of one core
samples  thread-samples got, in percent of those asked for: (threads + the main thread) x rate
wall     how long a unit of work of the computing threads took, over that without a profiler in the
         same round: more than 1 if a profiler keeps the GIL, or a CPU, from them
cpu      their CPU time for it, likewise: more than 1 if a profiler has them do its work
blocked  time in which they neither had a CPU nor waited for one, percent: they waited for the GIL,
         two of them also for one another. Hardly changed by what else the machine does

The walking native thread reads the frames of all threads by plain loads and forgets them: what a
sampler that looks at every thread does at least. It is not run where frames come and go, for it
would read what is no longer there. `no profiler again` shows which differences mean nothing.

Different stacks: a thread goes through a random one of so many combinations of ten functions (six
calls for 1,000,000) and then through a chain of others, so that each has 30 frames, and computes
for some 20 microseconds below. What differs is near the root: a call tree shares next to nothing.
Told are

seen     how many of those combinations are in the profile
nodes    of the call tree in it; with max_nodes (200,000 unless set otherwise) of them, what is new
         goes into `<overflow>`
folded   samples of that thread that are in `<overflow>`, percent
torn     its samples that are `<incomplete>`: the stack changed while it was copied, percent
own      MiB that rprof counts as its own, after so many seconds (status().own_bytes)
RSS      MiB by which the memory of the process grew meanwhile
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import math
import os
import platform
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import peers
import picture
import rprof

THREADS, FRAMES, RATE = 10, 30, 100
# Of every stack: the beginning of a thread, in `threading`, and the function that works or waits.
OUTER, BOTTOM = 3, 1
MAX_DEPTH = 1_100
FAST = 10_000
NODES, MORE_NODES = 200_000, 10_000_000
MIB = 1 << 20

NONE, CONTROL = peers.Profiler(), peers.Control()
DIRECT, GIL = peers.Rprof("direct"), peers.Rprof("gil")
FLOOR = peers.WalkingNativeThread()


class Point(NamedTuple):
    """One place on an axis: a program, how it is sampled, and by what."""

    at: int
    profilers: tuple[peers.Profiler, ...]
    rate: int = RATE
    threads: int = 1
    busy: int = 1
    frames: int = FRAMES
    stacks: int = 0
    nodes: int = NODES


POINTS = {
    "threads": [
        Point(n, (NONE, FLOOR, DIRECT, GIL), threads=n, busy=min(n, 2))
        for n in (1, 10, 100, 500, 2_000)
    ],
    "depth": [Point(n, (NONE, FLOOR, DIRECT, GIL), frames=n) for n in (10, 30, 100, 300, 1_000)],
    "rate": [
        Point(n, (NONE, CONTROL, FLOOR, DIRECT, GIL), rate=n, threads=THREADS)
        for n in (10, 100, 1_000, 10_000)
    ],
    "stacks": [
        *(Point(n, (NONE, DIRECT, GIL), FAST, stacks=n) for n in (10, 1_000, 100_000, 1_000_000)),
        *(Point(n, (DIRECT,), FAST, stacks=n, nodes=MORE_NODES) for n in (100_000, 1_000_000)),
    ],
}
UNITS = {"threads": "threads", "depth": "frames", "rate": "Hz", "stacks": "stacks"}


class Work:
    """What a thread that computes has done, noted by itself: a running thread has exact clocks."""

    def __init__(self) -> None:
        self.units = 0
        self.wanted = 0
        self.notes: list[tuple[int, float, float | None, float]] = []
        self.done = False

    def note(self) -> None:
        """Units, CPU seconds, seconds in which it could have run but had no CPU, wall seconds."""
        waited = None
        with contextlib.suppress(FileNotFoundError):  # not told by every kernel
            told = Path("/proc/thread-self/schedstat").read_text(encoding="ascii")
            waited = int(told.split()[1]) / 1e9
        self.notes.append((self.units, time.thread_time(), waited, time.perf_counter()))

    def noted(self) -> None:
        """Have it note where it is, and wait for that; `peers.measure` ends a case that hangs."""
        self.wanted += 1
        while len(self.notes) < self.wanted:
            time.sleep(0.001)


def compute(work: Work) -> None:
    """Units of work, some tenths of a millisecond of Python each, without a call."""
    while not work.done:
        total = 0
        for k in range(5_000):
            total += k
        work.units += 1
        if len(work.notes) < work.wanted:
            work.note()


def compute_shortly(work: Work) -> None:
    total = 0
    for k in range(500):
        total += k
    work.units += 1


Way = Callable[[Iterator[Any]], None]


def ways() -> list[Way]:
    """Ten functions that are alike, and call what comes next."""
    found: dict[str, Way] = {}
    for number in range(10):
        exec(f"def way_{number}(path):\n    next(path)(path)\n", found)
    return [found[f"way_{number}"] for number in range(10)]


def wander(stacks: int, frames: int, work: Work) -> None:
    """Compute below a random one of so many different stacks, again and again."""
    chance = random.Random(0)
    steps = len(str(stacks)) - 1
    # This function, the end of the path and the first `deep` are frames too.
    below = frames - OUTER - 1 - steps - 1 - 1 - BOTTOM
    bottom = functools.partial(compute_shortly, work)

    def end(_: Iterator[Any]) -> None:
        peers.deep(below, bottom)

    choice = ways()
    while not work.done:
        path = iter((*chance.choices(choice, k=steps), end))
        next(path)(path)
        if len(work.notes) < work.wanted:
            work.note()


def resident() -> int:
    """Bytes of memory that this process has."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def told_of_work(works: list[Work]) -> dict[str, float | None]:
    """Seconds of wall and CPU time of a unit, and the part of the time that was spent blocked."""
    units = cpu = waited = wall = 0.0
    for work in works:
        (u0, c0, w0, t0), (u1, c1, w1, t1) = work.notes
        units, cpu, wall = units + u1 - u0, cpu + c1 - c0, wall + t1 - t0
        waited += math.nan if w0 is None or w1 is None else w1 - w0
    blocked = 1 - (cpu + waited) / wall
    return {
        "wall of a unit": wall / len(works) / units,
        "cpu of a unit": cpu / units,
        "blocked": None if math.isnan(blocked) else blocked,
    }


def run_case(case: dict[str, Any]) -> None:
    options = case["options"]
    frames, busy = options["frames"], options["busy"]
    sys.setrecursionlimit(2 * MAX_DEPTH)
    os.environ["RPROF_MAX_DEPTH"] = str(MAX_DEPTH)
    os.environ["RPROF_MAX_NODES"] = str(options["nodes"])
    waiting = threading.Event()
    works = [Work() for _ in range(busy)]
    below = frames - OUTER - 1 - BOTTOM
    # Those that compute are the last to start: they keep the others waiting for the GIL.
    threads = [
        threading.Thread(target=peers.deep, args=(below - 1, waiting.wait))
        for _ in range(options["threads"] - busy)
    ]
    for work in works:
        if options["stacks"]:
            thread = threading.Thread(target=wander, args=(options["stacks"], frames, work))
        else:
            thread = threading.Thread(
                target=peers.deep, args=(below, functools.partial(compute, work))
            )
        threads.append(thread)
    for thread in threads:
        thread.start()
    clocks = [time.pthread_getcpuclockid(thread.ident) for thread in threads if thread.ident]

    def body(profiler: peers.Profiler) -> dict[str, float | None]:
        result: dict[str, float | None] = {}
        for work in works:
            work.noted()
        result |= peers.cost(profiler, clocks, options["seconds"])
        for work in works:
            work.noted()
        result |= told_of_work(works)
        result["rss"] = resident() - before
        if isinstance(profiler, peers.Rprof):
            result["own"] = rprof.status().own_bytes
        return result

    before = resident()
    try:
        peers.record(case, body)
    finally:
        for work in works:
            work.done = True
        waiting.set()
        for thread in threads:
            thread.join()


def told(outcome: peers.Outcome) -> dict[str, Any]:
    """What is wanted of a recording: the samples a second, and what became of the stacks."""
    return {**peers.achieved(outcome), "stacks": told_of_stacks(outcome.recording)}


def told_of_stacks(recording: peers.Recording) -> dict[str, float]:
    """What became of the different stacks in a profile."""
    counts = recording.values["samples"]
    wandered = {
        stack: count for stack, count in counts.items() if all(f.function != "main" for f in stack)
    }
    samples = max(sum(wandered.values()), 1)

    def percent(name: str) -> float:
        found = (n for stack, n in wandered.items() if any(f.function == name for f in stack))
        return 100 * sum(found) / samples

    nodes, before = 0, ()
    for stack in sorted(counts):
        pairs = zip(stack, before, strict=False)
        shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        nodes, before = nodes + len(stack) - shared, stack
    seen = {
        tuple(f.function for f in stack if f.function.startswith("way_"))
        for stack in wandered
        if stack[-1].function == compute_shortly.__name__
    }
    return {
        "seen": len(seen),
        "nodes": nodes,
        "percent folded": percent("<overflow>"),
        "percent torn": percent("<incomplete>"),
    }


def against(ours: list[peers.Figures], none: list[peers.Figures], key: str) -> float | None:
    """A figure over that without a profiler, round by round."""
    if len(ours) != len(none):
        return None
    pairs = zip(ours, none, strict=True)
    return statistics.median(mine.result[key] / plain.result[key] for mine, plain in pairs)


def ask(
    question: str, rounds: int, seconds: float, absent: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """The figures of one question, row by row."""
    plain: dict[int, list[peers.Figures]] = {}
    for at, profilers, rate, threads, busy, frames, stacks, nodes in POINTS[question]:
        program = {"threads": threads, "busy": busy, "frames": frames, "stacks": stacks}
        found = peers.turns(
            [p for p in profilers if p.name not in absent],
            rounds,
            rate,
            absent,
            __file__,
            told=told,
            what=question,
            nodes=nodes,
            # A few ticks at least.
            seconds=max(seconds, 20 / rate),
            settle=0.2,
            **program,
        )
        none = plain.setdefault(at, found.get(NONE.name, []))
        for name, outcomes in found.items():
            row = {"question": question, "profiler": name, "at": at, "rate": rate, **program}
            row["percent of core"] = 100 * statistics.median(o.result["cpu"] for o in outcomes)
            row["work wall"] = against(outcomes, none, "wall of a unit")
            row["work cpu"] = against(outcomes, none, "cpu of a unit")
            blocked = [o.result["blocked"] for o in outcomes]
            row["percent blocked"] = None if None in blocked else 100 * statistics.median(blocked)
            if name.startswith("rprof"):
                asked = (threads + 1) * rate
                got = statistics.median(o.result["achieved"] for o in outcomes)
                row["percent of samples"] = 100 * got / asked
                row["own MiB"] = statistics.median(o.result["own"] for o in outcomes) / MIB
            if stacks:
                row["max nodes"] = nodes
                row["rss MiB"] = statistics.median(o.result["rss"] for o in outcomes) / MIB
                if name.startswith("rprof"):
                    row |= outcomes[-1].result["stacks"]
            yield row


def number(row: dict[str, Any], key: str, form: str) -> str:
    return "-" if row.get(key) is None else format(row[key], form)


def show(question: str, rows: list[dict[str, Any]]) -> None:
    """The figures of one question as text."""
    columns = [
        ("%core", "percent of core", ".2f"),
        ("samples", "percent of samples", ".0f"),
        ("wall", "work wall", ".3f"),
        ("cpu", "work cpu", ".3f"),
        ("blocked", "percent blocked", ".3f"),
    ]
    if question == "stacks":
        columns += [
            ("max_nodes", "max nodes", ",.0f"),
            ("seen", "seen", ",.0f"),
            ("nodes", "nodes", ",.0f"),
            ("folded", "percent folded", ".0f"),
            ("torn", "percent torn", ".2f"),
            ("own", "own MiB", ".1f"),
            ("RSS", "rss MiB", ".1f"),
        ]
    print(f"\n{question}")
    print(f"{UNITS[question]:>10}  {'':22}" + "".join(f"{title:>11}" for title, _, _ in columns))
    for row in rows:
        cells = "".join(f"{number(row, key, form):>11}" for _, key, form in columns)
        print(f"{row['at']:10,}  {row['profiler']:22}{cells}")


def draw(figures: dict[str, Any]) -> str:
    """The picture of all questions: SVG."""

    def lines(question: str, key: str, names: tuple[str, ...]) -> list[picture.Line]:
        found = []
        for name in names:
            chosen = [
                (row["at"], row[key])
                for row in figures["rows"]
                if (row["question"], row["profiler"]) == (question, name)
                and row.get("max nodes", NODES) == NODES
                and row.get(key) is not None
            ]
            found.append(picture.Line(name, chosen))
        return found

    ours = (DIRECT.name, GIL.name)
    cost = (*ours, FLOOR.name)
    memory = lines("stacks", "own MiB", ours)
    stacks = [row for row in figures["rows"] if row["question"] == "stacks"]
    more = [row for row in stacks if row.get("max nodes") == MORE_NODES]
    memory.append(picture.Line(UNLIMITED, [(row["at"], row["own MiB"]) for row in more]))
    notes = [
        (row["at"], row["own MiB"], f"{row['percent folded']:.0f} %")
        for row in stacks
        if row.get("percent folded", 0) >= 1
    ]
    core = "CPU time, % of one core"
    panels = [
        picture.Panel(
            "How short may the interval be?",
            core,
            "rate, Hz (10 threads, 1 computes)",
            lines("rate", "percent of core", cost),
        ),
        picture.Panel(
            "Do the samples come?",
            "samples got, % of those asked for",
            "rate, Hz (10 threads, 1 computes)",
            lines("rate", "percent of samples", ours),
        ),
        picture.Panel(
            "Does the GIL suffer?",
            f"the thread waits for it, % of time ({LEAST}: or less)",
            "rate, Hz (10 threads, 1 computes)",
            [
                picture.Line(line.name, [(x, max(y, LEAST)) for x, y in line.points])
                for line in lines("rate", "percent blocked", (*ours, CONTROL.name))
            ],
        ),
        picture.Panel(
            "Is one thread enough for all?",
            core,
            f"threads ({RATE} Hz, 2 compute)",
            lines("threads", "percent of core", cost),
        ),
        picture.Panel(
            "What do deep stacks cost?",
            core,
            f"frames of the thread that computes ({RATE} Hz)",
            lines("depth", "percent of core", cost),
        ),
        picture.Panel(
            "What do different stacks take?",
            f"rprof's memory after {figures['seconds of stacks']:g} s, MiB; % in <overflow>",
            f"different stacks of the program ({FAST:,} Hz)",
            memory,
            notes,
        ),
    ]
    machine = (
        f"CPython {figures['python']}, {figures['cpus']} CPUs ({figures['machine']}),"
        f" {figures['date']}, load average {figures['load']} before; medians of"
        f" {figures['rounds']} rounds (different stacks: one)"
    )
    return picture.draw("What sampling with rprof costs, and how it grows", machine, panels, STYLES)


LEAST = 0.01
"""Percent of time: less is noise."""
UNLIMITED = f"rprof direct, max_nodes={MORE_NODES:_}"
STYLES = {
    DIRECT.name: picture.Style("one", "circle"),
    GIL.name: picture.Style("two", "square"),
    FLOOR.name: picture.Style("floor", "triangle", "a bare walk of all frames"),
    CONTROL.name: picture.Style("none", "cross", "no profiler: the noise"),
    UNLIMITED: picture.Style("three", "circle"),
}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what was asked for, and show it as it comes."""
    rounds, seconds, of_stacks = options.rounds, options.seconds, 3.0
    if options.quick:
        rounds, seconds, of_stacks = 1, 0.3, 1.0
    profilers, absent = peers.available(None, (NONE, CONTROL, FLOOR, DIRECT, GIL))
    print(f"CPython {platform.python_version()}, load average {peers.LOAD:.1f} before")
    rows = []
    for question in options.only:
        if question == "stacks":
            found = list(ask(question, 1, of_stacks, absent))
        else:
            found = list(ask(question, rounds, seconds, absent))
        show(question, found)
        rows += found
    print()
    return {
        "benchmark": "scale",
        **peers.heading(profilers),
        "rounds": rounds,
        "seconds": seconds,
        "seconds of stacks": of_stacks,
        "rows": rows,
        "not compared": absent,
    }


def questions(text: str) -> list[str]:
    chosen = text.split(",")
    if unknown := set(chosen) - set(POINTS):
        raise argparse.ArgumentTypeError(
            f"{', '.join(sorted(unknown))}: not of {', '.join(POINTS)}"
        )
    return chosen


def main() -> None:
    if case := peers.case():
        run_case(case)
        return
    text, _, examples = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=text, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=0.7, help="of a measurement (%(default)s)")
    parser.add_argument(
        "--only",
        metavar="NAME,...",
        type=questions,
        default=list(POINTS),
        help=f"some of {', '.join(POINTS)}",
    )
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    parser.add_argument("--svg", metavar="FILE", type=Path, help="also draw them there")
    parser.add_argument(
        "--from", metavar="FILE", type=Path, dest="file", help="take these, measure nothing"
    )
    options = parser.parse_args()
    if options.file:
        figures = json.loads(options.file.read_text(encoding="utf-8"))
        for question in dict.fromkeys(row["question"] for row in figures["rows"]):
            show(question, [row for row in figures["rows"] if row["question"] == question])
        print()
    else:
        figures = measure(options)
    peers.report(figures, options.json)
    if options.svg:
        options.svg.write_text(draw(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
