"""What an uncontended lock costs, plain and where it notes who takes it: `locks="exact"`.

Both are measured in turns in one process, which is being profiled all the while. Each figure is
the least of all rounds, in ns, with the loop around it.

    python benches/locks_exact.py [--rounds 40] [--times 50000]
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import rprof


def by_calls(lock: Any, times: int) -> None:
    """Take it and give it back by bound methods."""
    acquire, release = lock.acquire, lock.release
    for _ in range(times):
        acquire()
        release()


def by_methods(lock: Any, times: int) -> None:
    """Do the same as it is written mostly."""
    for _ in range(times):
        lock.acquire()
        lock.release()


def by_with(lock: Any, times: int) -> None:
    """Take it for a block."""
    for _ in range(times):
        with lock:
            pass


USES: dict[str, Callable[[Any, int], None]] = {
    "acquire(), release()": by_calls,
    "lock.acquire(), lock.release()": by_methods,
    "with": by_with,
}


def measure(locks: str, times: int, least: dict[str, float]) -> None:
    """Measure each use once, and keep what is less than before."""
    lock = threading.Lock()
    with rprof.profile(rate=100, max_overhead=1.0, locks=locks):
        problem = rprof.status().locks
        if problem is not None and problem.problem:
            raise SystemExit(problem.problem)
        for name, use in USES.items():
            began = time.perf_counter_ns()
            use(lock, times)
            took = (time.perf_counter_ns() - began) / times
            least[name] = min(took, least.get(name, took))


def main(argv: list[str] | None = None) -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--times", type=int, default=50_000)
    options = parser.parse_args(argv)
    print(f"load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}")
    least: dict[str, dict[str, float]] = {"sampled": {}, "exact": {}}
    for _ in range(options.rounds):
        for locks, known in least.items():
            measure(locks, options.times, known)
    for name, plain in least["sampled"].items():
        exact = least["exact"][name]
        print(f"{name}: {plain:.1f} ns, exact {exact:.1f} ns", end=" ")
        print(f"({exact - plain:+.1f} ns, x {exact / plain:.3f})")


if __name__ == "__main__":
    main()
