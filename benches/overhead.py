"""What sampling costs: rprof beside a bare timer and the classic Python-thread sampler.

Run:  python benches/overhead.py [--quick] [--json FILE]

Ten threads with 30 frames each: all blocked, one busy, or all busy. All samplers take turns in
one process, round after round, so that a machine whose speed drifts treats them alike. The cost is
the CPU time of the sampling thread by its own clock, in percent of one core (rprof: of its two
threads); samples are counted per thread and second (ideal: threads x rate). The waking thread is a
Python thread that does nothing but usleep(), so it takes the GIL back each time: it is the least a
sampler written in Python can cost, and a native thread may cost less. Its samples are wake-ups.
"""

from __future__ import annotations

import argparse
import collections
import ctypes
import json
import statistics
import sys
import threading
import time

import rprof

THREADS, FRAMES = 10, 30


class PythonSampler:
    """The sampler that everybody writes first: a Python thread and sys._current_frames()."""

    name = "Python thread"

    def __init__(self, rate: int) -> None:
        self.period = 1 / rate
        self.stacks: collections.Counter = collections.Counter()
        self.samples = 0

    def run(self) -> None:
        own = threading.get_ident()
        while not self.done:
            time.sleep(self.period)
            for ident, leaf in sys._current_frames().items():
                if ident == own:
                    continue
                stack, frame = [], leaf
                while frame is not None:
                    code = frame.f_code
                    stack.append((code.co_filename, code.co_name, frame.f_lineno))
                    frame = frame.f_back
                self.stacks[tuple(stack)] += 1
                self.samples += 1
        self.cpu = time.thread_time()

    def measure(self, seconds: float) -> tuple[float, float]:
        self.done = False
        self.samples = 0
        thread = threading.Thread(target=self.run)
        began = time.perf_counter()
        thread.start()
        time.sleep(seconds)
        self.done = True
        thread.join()
        # A busy thread keeps this one waiting for the GIL: what passed is more than `seconds`.
        passed = time.perf_counter() - began
        return self.cpu / passed, self.samples / passed


class WakingThread(PythonSampler):
    """Wakes up and does nothing: a Python thread in usleep of the C library."""

    name = "waking Python thread"

    def run(self) -> None:
        usleep = ctypes.CDLL(None).usleep
        microseconds = int(self.period * 1e6)
        while not self.done:
            usleep(microseconds)
            self.samples += 1
        self.cpu = time.thread_time()


class Rprof:
    """A recording of all threads; its cost is the sampler thread's own CPU clock."""

    def __init__(self, rate: int, engine: str, max_overhead: float | None = 0.0) -> None:
        self.rate = rate
        self.engine = engine
        self.max_overhead = max_overhead
        limit = "" if max_overhead == 0.0 else ", 1 % limit"
        self.name = f"rprof {engine}{limit}"

    def measure(self, seconds: float) -> tuple[float, float]:
        options = {} if self.max_overhead is None else {"max_overhead": self.max_overhead}
        before = rprof.status().own_cpu_seconds
        began = time.perf_counter()
        rprof.start(None, rate=self.rate, engine=self.engine, **options)
        time.sleep(seconds)
        profile = rprof.stop()
        passed = time.perf_counter() - began
        cpu = rprof.status().own_cpu_seconds - before
        return cpu / passed, profile.totals["samples"] / passed


def deep(depth: int, done: threading.Event, busy: bool) -> None:
    if depth:
        deep(depth - 1, done, busy)
    elif busy:
        while not done.is_set():
            sum(range(1000))
    else:
        done.wait()


def compare(rate: int, busy: int, rounds: int, seconds: float) -> list[dict]:
    done = threading.Event()
    threads = [
        threading.Thread(target=deep, args=(FRAMES, done, number < busy), daemon=True)
        for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    samplers = [
        WakingThread(rate),
        PythonSampler(rate),
        Rprof(rate, "gil"),
        Rprof(rate, "direct"),
        Rprof(rate, "direct", None),
    ]
    figures: dict[str, list[tuple[float, float]]] = {sampler.name: [] for sampler in samplers}
    for _ in range(rounds):
        for sampler in samplers:
            figures[sampler.name].append(sampler.measure(seconds))
    done.set()
    for thread in threads:
        thread.join()
    waking = statistics.median(cost for cost, _ in figures[WakingThread.name])
    python = statistics.median(cost for cost, _ in figures[PythonSampler.name])
    rows = []
    for name, pairs in figures.items():
        cost = statistics.median(cost for cost, _ in pairs)
        rows.append(
            {
                "rate": rate,
                "busy": busy,
                "sampler": name,
                "percent_of_core": 100 * cost,
                "samples_per_second": statistics.median(samples for _, samples in pairs),
                "times_waking": cost / waking,
                "times_python_thread": cost / python,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    options = parser.parse_args()
    rounds, seconds = (1, 0.5) if options.quick else (5, 2.0)
    print(f"CPython {sys.version.split()[0]}, {THREADS} threads x {FRAMES} frames")
    rows = []
    for busy in (0, 1, THREADS):
        for rate in (100, 1000, 10_000):
            if busy == THREADS and rate > 100:
                continue
            print(f"\n{rate} Hz, {busy} of {THREADS} threads busy")
            print(f"{'':22}{'% of core':>10}{'samples/s':>11}{'x waking':>9}{'x Python':>10}")
            for row in compare(rate, busy, rounds, seconds):
                rows.append(row)
                print(
                    f"{row['sampler']:22}{row['percent_of_core']:10.2f}"
                    f"{row['samples_per_second']:11.0f}{row['times_waking']:9.2f}"
                    f"{row['times_python_thread']:10.2f}"
                )
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
