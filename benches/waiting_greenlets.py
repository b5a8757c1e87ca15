"""What it costs a program of greenlets to be profiled, and how true its waits are.

Each figure is taken in processes of its own, with and without profiling in turns, and is the least
of all rounds. `switch` is a raw switch there and back, `sleep` is `gevent.sleep(0)`, `spawn` is
`gevent.spawn(f).join()`. `draw` is the CPU time of the sampler's thread beside so many suspended
greenlets, less that beside none in the second before, in percent of a core: the median of all such
pairs of seconds of one process. `share` compares how the waiting is shared
between functions with how it was, in percent of each.

    python benches/waiting_greenlets.py [--rounds 5] [--seconds 10]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from typing import Any

from apart import in_process

SUSPENDED = (1_000, 100_000)
SHARES = {"often": 0.5, "sometimes": 0.35, "seldom": 0.1, "rarely": 0.05}


def record() -> Any:
    """Begin to profile, without files."""
    import rprof

    return rprof.profile(rate=100, max_overhead=1.0)


def nothing() -> None:
    """Be what is spawned."""


def each(call: Any, times: int) -> float:
    """Return ns of each call."""
    began = time.perf_counter_ns()
    for _ in range(times):
        call()
    return (time.perf_counter_ns() - began) / times


def measure(is_profiled: bool) -> dict[str, float]:
    """Return ns for each operation."""
    import gevent
    import greenlet

    block = record() if is_profiled else None
    if block is not None:
        block.__enter__()
    here = greenlet.getcurrent()

    def back() -> None:
        while True:
            here.switch()

    other = greenlet.greenlet(back)
    operations = {
        "switch": (other.switch, 200_000),
        "sleep": (lambda: gevent.sleep(0), 50_000),
        "spawn": (lambda: gevent.spawn(nothing).join(), 20_000),
    }
    found = {
        name: min(each(call, times // 5) for _ in range(5))
        for name, (call, times) in operations.items()
    }
    if block is not None:
        block.__exit__(None, None, None)
    return found


def draw(number: int, seconds: float) -> dict[str, float]:
    """Return the part of a core that the sampler uses, and what more beside so many."""
    import gevent
    import gevent.event
    import rprof
    from rprof._loading import native

    event = gevent.event.Event()

    def query() -> None:
        event.wait()

    def handler() -> None:
        query()

    def used() -> float:
        before, began = int(native().counters()["sampler_cpu_ns"]), time.monotonic()
        # The program is at work, so that no tick is left out.
        while time.monotonic() < began + 1:
            pass
        passed = time.monotonic() - began
        return (int(native().counters()["sampler_cpu_ns"]) - before) / passed / 1e7

    none, more = [], []
    with rprof.profile(rate=100, max_overhead=1.0):
        for _ in range(max(1, round(seconds / 2))):
            none.append(used())
            event.clear()
            jobs = [gevent.spawn(handler) for _ in range(number)]
            gevent.sleep(0)
            more.append(used() - none[-1])
            event.set()
            gevent.joinall(jobs)
    return {"none": statistics.median(none), "more": statistics.median(more)}


def share(seconds: float) -> dict[str, float]:
    """Return by how much the share of each function in the waiting is wrong, in percent of it."""
    import gevent
    import rprof

    waits = {}
    for name in SHARES:
        source = f"def {name}(seconds): sleep(seconds)"
        scope: dict[str, Any] = {"sleep": gevent.sleep}
        exec(source, scope)
        waits[name] = scope[name]
    with rprof.profile(rate=100, max_overhead=1.0) as block:
        jobs = [
            gevent.spawn(waits[name], seconds)
            for name, part in SHARES.items()
            for _ in range(round(200 * part))
        ]
        gevent.joinall(jobs)
    total = 0.0
    told = dict.fromkeys(SHARES, 0.0)
    for line in block.profile.to_collapsed(by="task_wall").splitlines():
        stack, _, value = line.rpartition(" ")
        for name in SHARES:
            if f".{name};" in f"{stack};" or f";{name};" in f"{stack};":
                told[name] += float(value)
                total += float(value)
    return {name: 100 * (told[name] / total / part - 1) for name, part in SHARES.items()}


def main(argv: list[str] | None = None) -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.one:
        kind, *rest = options.one
        found = {
            "measure": lambda: measure(rest[0] == "profiled"),
            "draw": lambda: draw(int(rest[0]), options.seconds),
            "share": lambda: share(options.seconds),
        }[kind]()
        print(json.dumps(found))
        return
    print(f"load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}")
    least: dict[str, dict[str, float]] = {"plain": {}, "profiled": {}}
    for _ in range(options.rounds):
        for how, known in least.items():
            for name, value in in_process(__file__, "--one", "measure", how).items():
                known[name] = min(value, known.get(name, value))
    print(f"{'':8} {'plain ns':>10} {'profiled ns':>12} {'ratio':>7}")
    for name, plain in least["plain"].items():
        profiled = least["profiled"][name]
        print(f"{name:8} {plain:10.0f} {profiled:12.0f} {profiled / plain:7.3f}")
    seconds = ["--seconds", str(options.seconds)]
    for number in SUSPENDED:
        used = in_process(__file__, *seconds, "--one", "draw", str(number))
        told = f"{used['more']:+.3f} % of a core (none: {used['none']:.3f} %)"
        print(f"draw {number:7} suspended: {told}")
    wrong = in_process(__file__, *seconds, "--one", "share")
    words = (f"{name} {SHARES[name]:.0%}: {value:+.1f} %" for name, value in wrong.items())
    print(f"share after {options.seconds:.0f} s:", ", ".join(words))


if __name__ == "__main__":
    main()
