"""What importing and starting rprof costs: medians of fresh processes, run in turns.

Run:  python benches/startup.py [--runs N]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

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
    options = parser.parse_args()
    runs = 5 if options.quick else options.runs
    figures: dict[str, list[tuple[float, ...]]] = {name: [] for name in PROGRAMS}
    for turn in range(runs + 1):
        for name, program in PROGRAMS.items():
            done = subprocess.run(
                [sys.executable, "-c", program + USED], capture_output=True, text=True, check=True
            )
            if turn:  # The first turn fills the caches.
                figures[name].append(tuple(float(word) for word in done.stdout.split()))
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)]
        for name, rows in figures.items()
    }
    print(f"CPython {sys.version.split()[0]}, medians of {runs} processes each")
    print("      ms  CPU ms     KiB  (CPU time and memory of the process beyond a bare one's)")
    _, bare_cpu, bare_memory = medians.pop(BARE)
    for name, (wall, cpu, memory) in medians.items():
        print(f"{wall:8.2f}{cpu - bare_cpu:8.2f}{memory - bare_memory:8.0f}  {name}")


if __name__ == "__main__":
    main()
