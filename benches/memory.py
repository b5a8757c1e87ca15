"""What sampling the heap costs: eight programs, with each profiler of memory beside none.

Run:  python benches/memory.py [--rounds N] [--only NAME,...] [--json FILE]

All configurations take turns, round after round, each in a new process. A figure is the median of
the rounds' ratios of the CPU time of the program's work to that of the plain process of the same
round; the last columns are the geometric mean of the programs, and RSS: the median of the peaks,
less that of the plain process, in MiB. 60,000 dictionaries are kept meanwhile, as a program has
something in memory. What is not installed is named and left out.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path


class Cell:
    """A link of a chain."""

    def __init__(self, following: Cell | None) -> None:
        self.following = following


def make_two(number: int) -> tuple[list[int], dict[str, int]]:
    return [number, number], {"number": number}


def churn() -> None:
    for number in range(700_000):
        make_two(number)


def documents() -> None:
    document = {str(n): [n, n * 1.5, str(n), {"n": None}] for n in range(400)}
    for _ in range(120):
        json.loads(json.dumps(document))


def tree() -> None:
    def make(depth: int) -> tuple[object, ...]:
        return (make(depth - 1), make(depth - 1)) if depth else ()

    for _ in range(9):
        make(15)


def cells() -> None:
    for _ in range(6):
        last = None
        for _ in range(60_000):
            last = Cell(last)
        # From the end, for a chain that goes at once goes by recursion.
        while last is not None:
            last = last.following


def strings() -> None:
    for number in range(350_000):
        f"{number}:{number!r}".upper().split(":")


def packets() -> None:
    queue = [[n, n % 7] for n in range(200)]
    for _ in range(2_500):
        moved = []
        for count, state in queue:
            moved.append([count + 1, (state * 5 + 3) % 7])
        queue = moved


def fib() -> None:
    def fib(n: int) -> int:
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    fib(28)


def django() -> None:
    from django.conf import settings
    from django.template import Context, Engine

    if not settings.configured:
        settings.configure()
    template = Engine().from_string(
        "{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell|upper }}</td>{% endfor %}</tr>"
        "{% endfor %}"
    )
    rows = [[f"cell {n}" for n in range(10)] for _ in range(60)]
    for _ in range(12):
        template.render(Context({"rows": rows}))


PROGRAMS: dict[str, Callable[[], None]] = {
    "churn": churn,
    "json": documents,
    "tree": tree,
    "cells": cells,
    "str": strings,
    "packets": packets,
    "fib": fib,
    "django": django,
}
NEEDED = {"django": "django"}


def start_rprof(memory: bool | int | None) -> None:
    import rprof

    # Only what memory adds: without the samples of threads, which have a benchmark of their own.
    rprof.start(None, rate=1, recent=0, memory=memory)


def start_ddtrace() -> None:
    os.environ.setdefault("DD_PROFILING_HEAP_ENABLED", "1")
    from ddtrace.internal.datadog.profiling import ddup
    from ddtrace.profiling.collector import memalloc

    ddup.config(service="bench", env="bench", version="1")
    ddup.start()
    memalloc.MemoryCollector().start()


def start_tracemalloc() -> None:
    import tracemalloc

    tracemalloc.start(1)


def start_pyroscope() -> None:
    import pyroscope

    pyroscope.configure(
        application_name="bench",
        server_address="http://127.0.0.1:9",
        cpu_enabled=False,
        mem_enabled=True,
    )


# What begins it, and what has to be there.
PROFILERS: dict[str, tuple[Callable[[], object], str | None]] = {
    "plain": (lambda: None, None),
    "plain again": (lambda: None, None),
    "rprof off": (lambda: start_rprof(None), "rprof"),
    "rprof": (lambda: start_rprof(True), "rprof"),
    "rprof 512 KiB": (lambda: start_rprof(512 << 10), "rprof"),
    "rprof 64 KiB": (lambda: start_rprof(64 << 10), "rprof"),
    "ddtrace heap": (start_ddtrace, "ddtrace"),
    "pyroscope memory": (start_pyroscope, "pyroscope"),
    "tracemalloc(1)": (start_tracemalloc, None),
}
# Those that run the program themselves: what stands before it and before its arguments, and what
# has to be there.
COMMANDS: dict[str, tuple[list[str], list[str], str]] = {
    "memray": (["-m", "memray", "run", "-q", "-f", "-o", os.devnull], [], "memray"),
    "memray Python": (
        ["-m", "memray", "run", "-q", "-f", "--trace-python-allocators", "-o", os.devnull],
        [],
        "memray",
    ),
    "Scalene": (["-m", "scalene", "run", "-o", "scalene.json"], ["---"], "scalene"),
}


def work(program: str, profiler: str) -> None:
    """One measurement, in a process of its own: CPU seconds and the peak of RSS in KiB."""
    kept = [{"number": number} for number in range(60_000)]
    if profiler in PROFILERS:
        PROFILERS[profiler][0]()
    PROGRAMS[program]()
    begin = time.process_time()
    for _ in range(2):
        PROGRAMS[program]()
    spent = time.process_time() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print("measured", spent, peak, len(kept), flush=True)
    # Some profilers take long to end, which is not what is measured.
    os._exit(0)


def measure(program: str, profiler: str) -> tuple[float, float] | None:
    before, between, _ = COMMANDS.get(profiler, ([], [], ""))
    command = [sys.executable, *before, os.path.abspath(__file__), *between]
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(
            [*command, "--work", program, profiler],
            capture_output=True,
            text=True,
            check=False,
            cwd=directory,
        )
    for line in done.stdout.splitlines():
        if line.startswith("measured "):
            _, spent, peak, _ = line.split()
            return float(spent), float(peak)
    return None


def installed(names: list[str]) -> Iterator[str]:
    for name in names:
        needed = COMMANDS[name][-1] if name in COMMANDS else PROFILERS[name][1]
        if needed is None or find_spec(needed) is not None:
            yield name
        else:
            print(f"not installed: {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", nargs=2)
    options = parser.parse_args()
    if options.work:
        work(*options.work)
        return
    names = [*PROFILERS, *COMMANDS]
    if options.only:
        names = ["plain", *(name for name in names if name in options.only.split(","))]
    names = list(installed(names))
    programs = [name for name in PROGRAMS if name not in NEEDED or find_spec(NEEDED[name])]
    print("load at the begin:", os.getloadavg()[0])
    ratios: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    peaks: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for program in programs:
            plain: tuple[float, float] | None = None
            for name in names:
                found = measure(program, name)
                if name == "plain":
                    plain = found
                if found is None or plain is None:
                    continue
                ratios[name].setdefault(program, []).append(found[0] / plain[0])
                peaks[name].append(found[1] - plain[1])
    print(f"{'':28}" + "".join(f"{name:>9}" for name in programs) + f"{'geomean':>9}{'RSS':>9}")
    results = {}
    for name in names:
        medians = {p: statistics.median(values) for p, values in ratios[name].items()}
        if not medians:
            print(f"{name:28} did not run")
            continue
        mean = math.exp(statistics.mean(math.log(value) for value in medians.values()))
        rss = statistics.median(peaks[name]) / 1024
        columns = "".join(f"{medians.get(p, math.nan):9.3f}" for p in programs)
        print(f"{name:28}{columns}{mean:9.4f}{rss:+9.1f}")
        results[name] = {**medians, "geomean": mean, "rss_mib": rss}
    print("load at the end:", os.getloadavg()[0])
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
