"""What it costs to have the tasks of asyncio drawn, and how true their waits are.

`draw` is the CPU time of the sampler's thread beside so many suspended tasks, less that beside
none, in percent of a core. `follow` is the same beside so many requests under way, each of which is
followed, `locks` beside 1,000 tasks of which so many want one lock, and `churn` beside tasks that
come and go all the time. `share` compares how the waiting is shared between functions with how it
was, in percent of each; `whole` is the sum of all. Nothing here holds the GIL for that: the sampler
never has it.

    python benches/waiting_tasks.py [--rounds 3] [--seconds 10]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

from apart import in_process

SUSPENDED = (1_000, 100_000)
REQUESTS = 1_000
LOCKED = 100
SHARES = {"often": 0.5, "sometimes": 0.35, "seldom": 0.1, "rarely": 0.05}
TASKS = 200


def sampler_cpu_ns() -> int:
    """Return the CPU time of the sampler's thread."""
    from rprof._loading import native

    return int(native().counters()["sampler_cpu_ns"])


async def measure(seconds: float) -> float:
    """Return the percent of a core that the sampler uses while this thread computes."""
    import rprof

    with rprof.profile(rate=100, max_overhead=1.0):
        # What is done once, before: to get to know the tasks that there are.
        await asyncio.sleep(0.3)
        before, began = sampler_cpu_ns(), time.monotonic()
        # The program is at work, so that no tick is left out.
        while time.monotonic() < began + seconds:
            pass
        await asyncio.sleep(0)
        return (sampler_cpu_ns() - before) / (time.monotonic() - began) / 1e7


async def wait(event: asyncio.Event) -> None:
    """Be a task that waits."""
    await event.wait()


async def beside(
    task: Callable[[asyncio.Event], Coroutine[Any, Any, None]], number: int, seconds: float
) -> dict[str, float]:
    """Return what the sampler uses beside so many of these tasks, which wait for an event."""
    event = asyncio.Event()
    tasks = [asyncio.create_task(task(event)) for _ in range(number)]
    await asyncio.sleep(0)
    found = await measure(seconds)
    event.set()
    await asyncio.gather(*tasks)
    return {"percent": found}


async def draw(number: int, seconds: float) -> dict[str, float]:
    """Return what the sampler uses beside so many suspended tasks."""
    return await beside(wait, number, seconds)


async def locks(number: int, seconds: float) -> dict[str, float]:
    """Return what the sampler uses beside 1,000 tasks of which so many want a lock."""
    lock = asyncio.Lock()

    async def work() -> None:
        while True:
            async with lock:
                await asyncio.sleep(0.001)

    working = [asyncio.create_task(work()) for _ in range(number)]
    found = await beside(wait, 1_000 - number, seconds)
    for task in working:
        task.cancel()
    return found


async def churn(is_profiled: bool, seconds: float) -> dict[str, float]:
    """Return what the sampler uses while tasks come and go, and the tasks that have."""
    import rprof

    async def short() -> None:
        await asyncio.sleep(0.001)

    block = rprof.profile(rate=100, max_overhead=1.0)
    if is_profiled:
        block.__enter__()
    before, began, number = sampler_cpu_ns(), time.monotonic(), 0
    while time.monotonic() < began + seconds:
        await asyncio.gather(*(short() for _ in range(100)))
        number += 100
    passed = time.monotonic() - began
    used = (sampler_cpu_ns() - before) / passed / 1e7
    if is_profiled:
        block.__exit__(None, None, None)
    return {"percent": used, "tasks": number / passed}


async def follow(number: int, seconds: float) -> dict[str, float]:
    """Return what the sampler uses beside so many requests under way."""
    import rprof

    async def serve(event: asyncio.Event) -> None:
        with rprof.request("GET /", route="/", slow_after=3600):
            await event.wait()

    return await beside(serve, number, seconds)


async def share(seconds: float) -> dict[str, float]:
    """Return by how much the share of each function in the waiting is wrong, in percent of it."""
    import rprof

    waits: dict[str, Any] = {}
    for name in SHARES:
        scope: dict[str, Any] = {"sleep": asyncio.sleep}
        exec(f"async def {name}(seconds): await sleep(seconds)", scope)
        waits[name] = scope[name]
    with rprof.profile(rate=100, max_overhead=1.0) as block:
        began = time.monotonic()
        await asyncio.gather(
            *(
                waits[name](seconds)
                for name, part in SHARES.items()
                for _ in range(round(TASKS * part))
            )
        )
        passed = time.monotonic() - began
    told = dict.fromkeys(SHARES, 0.0)
    for line in block.profile.to_collapsed(by="task_wall").splitlines():
        stack, _, value = line.rpartition(" ")
        for name in SHARES:
            if f".{name};" in f"{stack};" or f";{name};" in f"{stack};":
                told[name] += float(value)
    total = sum(told.values())
    wrong = {name: 100 * (told[name] / total / part - 1) for name, part in SHARES.items()}
    return {**wrong, "whole": 100 * (total / (TASKS * passed * 1e9) - 1)}


def main(argv: list[str] | None = None) -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.one:
        kind, *rest = options.one
        found = {
            "draw": lambda: draw(int(rest[0]), options.seconds),
            "churn": lambda: churn(rest[0] == "profiled", options.seconds),
            "follow": lambda: follow(int(rest[0]), options.seconds),
            "locks": lambda: locks(int(rest[0]), options.seconds),
            "share": lambda: share(options.seconds),
        }[kind]()
        print(json.dumps(asyncio.run(found)))
        return
    print(f"load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}")
    seconds = ["--seconds", str(options.seconds)]
    least: dict[tuple[str, int], float] = {}
    for _ in range(options.rounds):
        for kind, number in [
            *(("draw", number) for number in (0, *SUSPENDED)),
            *(("follow", number) for number in (0, REQUESTS)),
            *(("locks", number) for number in (0, LOCKED)),
        ]:
            used = in_process(__file__, *seconds, "--one", kind, str(number))["percent"]
            least[kind, number] = min(used, least.get((kind, number), used))
    for (kind, number), used in least.items():
        if number:
            none = least[kind, 0]
            print(f"{kind} {number:7}: {used - none:+.3f} % of a core (none: {none:.3f} %)")
    for how in ("plain", "profiled"):
        found = in_process(__file__, *seconds, "--one", "churn", how)
        used, rate = found["percent"], found["tasks"]
        print(f"churn {how:8}: {used:.3f} % of a core, {rate:,.0f} tasks a second")
    wrong = in_process(__file__, *seconds, "--one", "share")
    words = (f"{name}: {value:+.1f} %" for name, value in wrong.items())
    print(f"share after {options.seconds:.0f} s:", ", ".join(words))


if __name__ == "__main__":
    main()
