"""How far what a profiler says is from what happened.

Run:  python benches/accuracy.py [--seconds N] [--rate HZ] [--rounds N] [--only NAME,...]
                                  [--json FILE] [--bursts]

A workload of known cost is run under each profiler in turn: loops in Python, one long big-integer
multiplication by an operator and a trivial call on the next line, sorting in C by a call, hashing
and sleeping without the GIL; half of the time goes to one function with a line for each of these.
The workload itself measures what each function and each line of that function really took, by the
wall clock and by its thread's CPU clock. What the profiler says is compared by the total variation
distance: the share of all time that is in the wrong place, in percent (0: all right, 100: all
wrong). A profiler that cannot tell wall and CPU time in one run is run once for each.

The floor is what an ideal sampler of as many samples would show by chance, on average. `sleep` is
the CPU time given to the sleeping function beyond the truth, in points. The figures are medians of
the rounds. Profilers that are not installed are named; what a profiler does not tell is left out.

With --bursts: rprof alone, on short requests and labels; see bursts.py.
"""

# The loops of one turn that read a clock are no loops: see `clocks`.
# ruff: noqa: B007

from __future__ import annotations

import argparse
import hashlib
import math
import platform
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peers

FACTOR = 3**40_000
NUMBERS = list(range(30_000))
BLOB = bytes(4 << 20)

local = threading.local()


class Truth:
    """What the functions and lines of one thread took: wall and CPU seconds."""

    def __init__(self) -> None:
        self.wall: Counter[str] = Counter()
        self.cpu: Counter[str] = Counter()

    def add(self, name: str, wall: float, cpu: float) -> None:
        self.wall[name] += wall
        self.cpu[name] += cpu


def clocks() -> tuple[Iterator[float], Iterator[float]]:
    """The clocks as iterators, for `for now in clock: break`.

    The interpreter looks after a call whether another thread wants the GIL, and waits for it there.
    In such a loop it does not: the wait stays where it is without our measuring, in the statement
    that follows. The CPU clock is a system call, at which Linux looks whether the thread's turn is
    over: what it waits there for its next turn is no statement's, so the wall clock is read again.
    """
    return iter(time.perf_counter, None), iter(time.thread_time, None)


def count_up(rounds: int) -> None:
    total = 0
    for k in range(rounds * 4_000):
        total += k


def add_words(rounds: int) -> None:
    words: dict[int, int] = {}
    for k in range(rounds * 2_000):
        words[k & 255] = words.get(k & 255, 0) + 1


def multiply(rounds: int) -> None:
    wall, cpu = clocks()
    add = local.truth.add
    for _ in range(rounds):
        _ = FACTOR * FACTOR
        for a in wall:
            break
        for b in cpu:
            break
        nothing()
        for c in wall:
            break
        for d in cpu:
            break
        add("nothing", c - a, d - b)


def nothing() -> None:
    """Called after the multiplication: a sampler that needs the GIL sees the time here."""


def sort_numbers(rounds: int) -> None:
    for _ in range(rounds):
        sorted(NUMBERS, reverse=True)


def digest(rounds: int) -> None:
    for _ in range(max(1, rounds // 4)):
        hashlib.sha256(BLOB).digest()


def rest(rounds: int) -> None:
    for _ in range(rounds):
        time.sleep(0.0007)


def lines(rounds: int) -> None:
    """Each statement that takes time has a line, and its truth, of its own."""
    wall, cpu = clocks()
    add = local.truth.add
    for _ in range(max(1, rounds // 4)):
        for b in cpu:
            break
        for a in wall:
            break
        _ = FACTOR * FACTOR  # line: multiply
        for c in wall:
            break
        for d in cpu:
            break
        for e in wall:
            break
        sum(range(40_000))  # line: sum
        for f in wall:
            break
        for g in cpu:
            break
        for h in wall:
            break
        sorted(NUMBERS, reverse=True)  # line: sort
        for i in wall:
            break
        for j in cpu:
            break
        for k in wall:
            break
        time.sleep(0.0005)  # line: sleep
        for m in wall:
            break
        for n in cpu:
            break
        add("line multiply", c - a, d - b)
        add("line sum", f - e, g - d)
        add("line sort", i - h, j - g)
        add("line sleep", m - k, n - j)


FUNCTIONS = (count_up, add_words, multiply, sort_numbers, digest, rest)
NAMES = {function.__name__ for function in (*FUNCTIONS, nothing, lines)}
LINES = {
    number: text.rpartition("line: ")[2].strip()
    for number, text in enumerate(Path(__file__).read_text(encoding="utf-8").splitlines(), 1)
    if "# " in text and "line: " in text and "text" not in text
}


def work(seconds: float, seed: int) -> Truth:
    """Call the functions in random order and amounts, `lines` for half of the time."""
    local.truth = truth = Truth()
    wall, cpu = clocks()
    chance = random.Random(seed)
    start, cpu_start = next(wall), next(cpu)
    now = start
    while now - start < seconds:
        half = truth.wall["lines"] < (now - start) / 2
        function: Callable[[int], None] = lines if half else chance.choice(FUNCTIONS)
        rounds = chance.randint(1, 24)
        for a in wall:
            break
        for b in cpu:
            break
        function(rounds)
        for now in wall:
            break
        for d in cpu:
            break
        truth.add(function.__name__, now - a, d - b)
    # What is measured inside of a function is not its own; the rest is this function's.
    for values, whole in ((truth.wall, now - start), (truth.cpu, next(cpu) - cpu_start)):
        values["elsewhere"] = whole - sum(values[f.__name__] for f in (*FUNCTIONS, lines))
        values["multiply"] -= values["nothing"]
        named = sum(value for name, value in values.items() if name.startswith("line "))
        values["line elsewhere"] = values["lines"] - named
    return truth


def several(seconds: float, seed: int, threads: int) -> list[Truth]:
    """The same in several threads at once, which want the GIL from each other."""
    truths: list[Truth] = []
    workers = [
        threading.Thread(
            target=lambda n=n: truths.append(work(seconds, seed + n)), name=f"worker {n}"
        )
        for n in range(threads)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return truths


def run(_: peers.Profiler, seconds: float, threads: int, seed: int) -> list[dict[str, Any]]:
    truths = [work(seconds, seed)] if threads == 1 else several(seconds, seed, threads)
    return [{"wall": truth.wall, "cpu": truth.cpu} for truth in truths]


class Charged:
    """Values charged to the functions of the workload and to the lines of `lines`."""

    def __init__(self, stacks: Counter[tuple[peers.Frame, ...]]) -> None:
        self.function: Counter[str] = Counter()
        self.line: Counter[str] = Counter()
        for stack, value in stacks.items():
            named = [f for f in stack if f.file == "accuracy.py" and f.function in NAMES]
            if named:
                self.function[named[-1].function] += value
                if named[-1].function == "lines":
                    self.line[LINES.get(named[-1].line, "elsewhere")] += value
            elif any(frame.function == "work" for frame in stack):
                self.function["elsewhere"] += value


def true_values(truths: list[dict[str, dict[str, float]]], kind: str, line: bool) -> Counter[str]:
    merged: Counter[str] = Counter()
    for truth in truths:
        for name, value in truth[kind].items():
            if name.startswith("line ") == line:
                merged[name.removeprefix("line ")] += value
    return merged


def distance(truth: Counter[str], said: Counter[str]) -> float:
    """Total variation distance in percent."""
    whole, told = sum(truth.values()), sum(said.values())
    if not told:
        return 100.0
    return 50 * sum(abs(truth[name] / whole - said[name] / told) for name in {*truth, *said})


def noise_floor(truth: Counter[str], samples: float) -> float:
    """The mean distance of `samples` independent draws from the truth, in percent."""
    whole = sum(truth.values())
    shares = [max(value / whole, 0) for value in truth.values()]
    return 50 * sum(math.sqrt(2 * p * (1 - p) / math.pi / max(samples, 1)) for p in shares)


def compare(
    truths: list[dict[str, dict[str, float]]], recording: peers.Recording, kinds: tuple[str, ...]
) -> dict[str, float]:
    row: dict[str, float] = {}
    samples = Charged(recording.values["samples"])
    if not samples.function:
        raise peers.NotDriven("no sample of the workload")
    for kind in kinds:
        said = Charged(recording.values.get(kind, Counter()))
        for name, told, counts in (
            ("function", said.function, samples.function),
            ("line", said.line, samples.line),
        ):
            truth = true_values(truths, kind, name == "line")
            row[f"{name} {kind}"] = distance(truth, told)
            # Where one run tells both, its samples are of all time: on the CPU is a part of them.
            part = 1.0
            if kind == "cpu" and "wall" in kinds:
                part = sum(truth.values()) / sum(
                    true_values(truths, "wall", name == "line").values()
                )
            row[f"{name} {kind} floor"] = noise_floor(truth, sum(counts.values()) * part)
        if kind == "cpu":
            truth, told = true_values(truths, "cpu", False), said.function
            real = truth["rest"] / sum(truth.values())
            row["sleep"] = 100 * (told["rest"] / max(sum(told.values()), 1e-9) - real)
        if kind == kinds[0]:
            row[f"samples {kind}"] = sum(samples.function.values())
    return row


COLUMNS = (
    "function wall",
    "function wall floor",
    "function cpu",
    "function cpu floor",
    "line wall",
    "line wall floor",
    "line cpu",
    "line cpu floor",
    "sleep",
)


def main() -> None:
    if case := peers.case():
        peers.record(case, lambda profiler: run(profiler, **case["options"]))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=8, help="each run (%(default)s)")
    parser.add_argument("--rate", type=int, default=1_000, help="Hz (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--only", metavar="NAME,...", help="some of the profilers")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    parser.add_argument("--bursts", action="store_true", help="short requests, rprof alone")
    options = parser.parse_args()
    if options.bursts:
        import bursts

        rows = bursts.measure(options.seconds)
        peers.report(
            {"benchmark": "bursts", **peers.heading([]), "not compared": {}, "rows": rows},
            options.json,
        )
        return
    profilers, absent = peers.available(options.only)
    profilers = [p for p in profilers if p.rates is None]
    print(
        f"CPython {platform.python_version()}, {options.rate} Hz, {options.seconds} s each,"
        f" {options.rounds} rounds, in percent"
    )
    rows = []
    for threads in (1, 3):
        found: dict[str, list[dict[str, float]]] = {}
        for seed in range(options.rounds):
            for profiler in profilers:
                if threads > 1 and "threads" in profiler.reasons:
                    absent[f"{profiler.name}, {threads} threads"] = profiler.reasons["threads"]
                    continue
                figures: dict[str, float] = {}
                try:
                    for kinds in profiler.runs:
                        truths, recording, _ = peers.measure(
                            profiler,
                            options.rate,
                            kinds,
                            __file__,
                            seconds=options.seconds,
                            threads=threads,
                            seed=7 + 10 * seed,
                        )
                        figures |= compare(truths, recording, kinds)
                except peers.NotDriven as why:
                    absent[f"{profiler.name}, {threads} thread{'s' * (threads > 1)}"] = str(why)
                else:
                    found.setdefault(profiler.name, []).append(figures)
        print(f"\n{threads} thread{'s' * (threads > 1)}{'':24}function              line")
        print(f"{'profiler':20} {'samples':>8}" + "   wall floor   cpu floor" * 2 + "  sleep")
        for name, rounds in found.items():
            row = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
            rows.append({"profiler": name, "threads": threads, **row})
            samples = row.get("samples wall", row.get("samples cpu", 0))
            cells = (f"{row[key]:6.2f}" if key in row else f"{'-':>6}" for key in COLUMNS)
            print(f"{name:20} {samples:8.0f} " + " ".join(cells))
    figures = {"benchmark": "accuracy", **peers.heading(profilers)}
    figures |= {"rate": options.rate, "seconds": options.seconds, "rounds": options.rounds}
    print()
    peers.report(figures | {"not compared": absent, "rows": rows}, options.json)


if __name__ == "__main__":
    main()
