"""What importing and starting rprof costs: medians of fresh processes, run in turns.

Run:  python benches/startup.py [--runs N]
      python benches/startup.py --baseline WHEEL      beside another build of rprof, in turns
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
from pathlib import Path

import peers

# Each program prints the milliseconds of its step. The wait for the first sample sleeps,
# since a loop without pause would keep the GIL from the sampler. At the rate of 1 kHz little of it
# is the wait for the first tick.
CLOCK = "import time; begin = time.perf_counter(); "
PRINT = "; print((time.perf_counter() - begin) * 1e3)"
BARE = "a bare interpreter"
PROGRAMS = {
    BARE: f"{CLOCK}pass{PRINT}",
    "import rprof": f"{CLOCK}import rprof{PRINT}",
    "start()": f"import rprof; {CLOCK}rprof.start(None){PRINT}",
    "import and start()": f"{CLOCK}import rprof; rprof.start(None){PRINT}",
    "start() to first sample": (
        f"import rprof; {CLOCK}rprof.start(None, rate=1000)\n"
        "from rprof import _native\n"
        f"while _native.counters()['ticks'] < 1: time.sleep(0.0001)\n{PRINT[2:]}"
    ),
}
# What the process has used by its end: CPU time in ms, and the most memory in KiB.
USED = """
import resource
used = resource.getrusage(resource.RUSAGE_SELF)
# Not ru_maxrss, which begins with what the parent had.
with open("/proc/self/status") as status:
    peak = next(line.split()[1] for line in status if line.startswith("VmHWM"))
print((used.ru_utime + used.ru_stime) * 1e3, peak)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=30, help="processes of each kind (30)")
    parser.add_argument("--quick", action="store_true", help="the same as --runs 5")
    parser.add_argument("--baseline", metavar="WHEEL", type=Path, help="another build of rprof")
    options = parser.parse_args()
    runs = 5 if options.quick else options.runs
    with contextlib.ExitStack() as stack:
        builds: dict[str, dict[str, str]] = {"": {}}
        if options.baseline:
            variables = stack.enter_context(peers.unpacked(options.baseline))
            # An installed package has its bytecode, too.
            compiled = [sys.executable, "-m", "compileall", "-q", variables[peers.BASELINE]]
            subprocess.run(compiled, env=writing(), check=True)
            builds["baseline"] = variables
        medians = measured(builds, runs)
    print(f"CPython {sys.version.split()[0]}, medians of {runs} processes each")
    print("      ms  CPU ms     KiB  (CPU time and memory of the process beyond a bare one's)")
    for build in builds:
        _, bare_cpu, bare_memory = medians[build, BARE]
        for name in PROGRAMS:
            wall, cpu, memory = medians[build, name]
            if name != BARE:
                used = f"{wall:8.2f}{cpu - bare_cpu:8.2f}{memory - bare_memory:8.0f}"
                print(f"{used}  {name}{f', {build}' if build else ''}")
    if options.baseline:
        name = "import and start()"
        times = [medians[build, name][0] for build in builds]
        sizes = [medians[build, name][2] - medians[build, BARE][2] for build in builds]
        print(
            f"{name}: {times[0] / times[1]:.2f} of the baseline's time,"
            f" {sizes[0] / sizes[1]:.2f} of its memory"
        )


def writing() -> dict[str, str]:
    """The environment, in which bytecode is written."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


def measured(
    builds: dict[str, dict[str, str]], runs: int
) -> dict[tuple[str, str], tuple[float, ...]]:
    """Of each program with each build: medians of ms, CPU ms and KiB."""
    figures: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    for turn in range(runs + 1):
        for build, variables in builds.items():
            for name, program in PROGRAMS.items():
                done = subprocess.run(
                    [sys.executable, "-c", program + USED],
                    capture_output=True,
                    text=True,
                    check=True,
                    env=os.environ | variables,
                )
                if turn:  # The first turn fills the caches.
                    row = tuple(float(word) for word in done.stdout.split())
                    figures.setdefault((build, name), []).append(row)
    return {
        key: tuple(statistics.median(column) for column in zip(*rows, strict=True))
        for key, rows in figures.items()
    }


if __name__ == "__main__":
    main()
