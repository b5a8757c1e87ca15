"""Where the CPU time of short requests goes: bursts of work under labels, and sleep in between.

Called by accuracy.py --bursts. Each row is one run: threads or asyncio tasks that compute for some
milliseconds under `rprof.request` or `rprof.labels`, or under neither, and then sleep outside of
it. The work measures itself by its thread's CPU clock. In percent:

  function  CPU time charged to the function that computed, of what it has spent (100: all right)
  route     the route's CPU time by rprof.routes(), of what was spent in its requests
  sleep     CPU time charged to anything else, beyond what was spent there, in points of all
  one look  what one look that finds a thread computing is worth, in points of all: at 100 Hz a few
            seconds have so few looks that one more or less beside the function shows in `sleep`
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from typing import Any

import rprof

WORKERS = 2


class Truth(threading.local):
    """CPU seconds of the calling thread: computing, and under labels."""

    burnt = 0.0
    labelled = 0.0


def burn(seconds: float, truth: Truth) -> None:
    """Compute for so much of the thread's CPU time."""
    clock = time.thread_time
    began = clock()
    while clock() < began + seconds:
        for _ in range(200):
            pass
    truth.burnt += clock() - began


def under(how: str) -> Any:
    """Return what the work is done under."""
    if how == "request":
        return rprof.request("burst", route="/burst")
    return rprof.labels(route="/burst") if how == "labels" else contextlib.nullcontext()


def burst(how: str, seconds: float, truth: Truth) -> None:
    """Work once."""
    with under(how):
        began = time.thread_time()
        burn(seconds, truth)
        truth.labelled += time.thread_time() - began


def in_threads(how: str, seconds: float, until: float) -> tuple[float, float, float]:
    """Return the CPU seconds of all threads: computing, under labels, altogether."""
    sums: list[tuple[float, float, float]] = []

    def work() -> None:
        truth, began = Truth(), time.thread_time()
        while time.monotonic() < until:
            burst(how, seconds, truth)
            time.sleep(0.0231)
        sums.append((truth.burnt, truth.labelled, time.thread_time() - began))

    threads = [threading.Thread(target=work) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    burnt, labelled, whole = (sum(values) for values in zip(*sums, strict=True))
    return burnt, labelled, whole


def in_tasks(how: str, seconds: float, until: float) -> tuple[float, float, float]:
    """Do the same in tasks of one event loop."""
    truth, began = Truth(), time.thread_time()

    async def work() -> None:
        while time.monotonic() < until:
            burst(how, seconds, truth)
            await asyncio.sleep(0.0231)

    async def main() -> None:
        await asyncio.gather(*(work() for _ in range(WORKERS)))

    asyncio.run(main())
    return truth.burnt, truth.labelled, time.thread_time() - began


def route_cpu() -> float:
    """Return what `rprof.routes()` says so far."""
    return sum(row.cpu for row in rprof.routes() if row.route == "/burst")


def row(place: str, how: str, milliseconds: int, rate: int, seconds: float) -> dict[str, Any]:
    """Measure one row."""
    work = in_threads if place == "threads" else in_tasks
    before = route_cpu()
    with rprof.profile(rate=rate, max_overhead=0) as block:
        burnt, labelled, whole = work(how, milliseconds / 1e3, time.monotonic() + seconds)
    rows = block.profile.top(100_000, by="cpu")
    told = sum(r.self_value for r in rows if r.name.rpartition(".")[2] == "burn") / 1e9
    everything = sum(r.self_value for r in rows) / 1e9
    figures = {
        "place": place,
        "under": how,
        "ms": milliseconds,
        "rate": rate,
        "function": 100 * told / burnt,
        "sleep": 100 * ((everything - told) - (whole - burnt)) / whole,
        "one look": 100 / rate / whole,
    }
    if how == "request":
        figures["route"] = 100 * (route_cpu() - before) / labelled
    return figures


def measure(seconds: float) -> list[dict[str, Any]]:
    """Measure and print all rows."""
    rows = []
    print(f"{'bursts':34} function   sleep one look    route")
    choices = itertools.product(
        ("threads", "asyncio"), ("nothing", "request", "labels"), (100, 1_000), (1, 3, 10, 30)
    )
    for place, how, rate, milliseconds in choices:
        found = row(place, how, milliseconds, rate, seconds)
        rows.append(found)
        name = f"{milliseconds} ms, {how}, {place}, {rate} Hz"
        route = f"{found['route']:8.2f}" if "route" in found else f"{'-':>8}"
        figures = f"{found['function']:8.2f} {found['sleep']:7.2f} {found['one look']:8.2f}"
        print(f"{name:34} {figures} {route}", flush=True)
    return rows
