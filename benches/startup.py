"""What importing and starting rprof costs: medians of fresh processes, run in turns.

Run:  python benches/startup.py [--runs N]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

# Each program prints one figure in milliseconds. The imports that `import rprof` itself needs from
# the standard library are measured on their own, so that the difference is rprof's. The wait for
# the first sample sleeps, since a loop without pause would keep the GIL from the sampler. At the
# rate of 1 kHz little of it is the wait for the first tick.
NEEDS = "atexit, collections.abc, contextlib, functools, os, sys, threading, typing"
CLOCK = "import time; begin = time.perf_counter(); "
PRINT = "; print((time.perf_counter() - begin) * 1e3)"
PROGRAMS = {
    "the stdlib modules rprof needs": f"{CLOCK}import {NEEDS}{PRINT}",
    "import rprof": f"{CLOCK}import rprof{PRINT}",
    "start() to first sample": (
        "import time, rprof; begin = time.perf_counter(); rprof.start(None, rate=1000)\n"
        "from rprof import _native\n"
        "while _native.counters()['ticks'] < 1: time.sleep(0.0001)\n"
        "print((time.perf_counter() - begin) * 1e3)"
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=30, help="processes of each kind (30)")
    parser.add_argument("--quick", action="store_true", help="the same as --runs 5")
    options = parser.parse_args()
    runs = 5 if options.quick else options.runs
    figures: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for turn in range(runs + 1):
        for name, program in PROGRAMS.items():
            done = subprocess.run(
                [sys.executable, "-c", program], capture_output=True, text=True, check=True
            )
            if turn:  # The first turn fills the caches.
                figures[name].append(float(done.stdout))
    medians = {name: statistics.median(values) for name, values in figures.items()}
    print(f"CPython {sys.version.split()[0]}, medians of {runs} processes each, ms")
    for name, median in medians.items():
        print(f"{median:8.2f}  {name}")
    needs, whole, _ = medians.values()
    print(f"{whole - needs:8.2f}  import rprof over what it needs")


if __name__ == "__main__":
    main()
