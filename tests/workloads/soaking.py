"""A program of what is hard on a profiler, and a list of what may be seen of it.

Five threads work until the time is up: one starts short threads, one makes functions that live for
a moment, one recurses deep, one runs generators, one raises. What they call is fixed, so that
whoever reads a stack can tell one that cannot have been.
"""

from __future__ import annotations

import itertools
import threading
import time

DEPTH = 50_000
"""Calls of a deep recursion."""

CALLS = {
    "<module>": {"main"},
    "main": {"play"},
    "play": {"run", "resources"},
    "run": {"__init__", "start", "join"},
    "start_briefly": {"__init__", "start", "join", "<listcomp>"},
    "<listcomp>": {"__init__"},
    "brief": {"catch", "consume"},
    "make": {"source"},
    "recurse": {"down"},
    "down": {"down", "hold"},
    "generate": {"consume", "abandon"},
    "consume": {"doubled"},
    # What is left of a generator is closed from the inside, by its last owner.
    "abandon": {"doubled", "<genexpr>", "numbers"},
    "doubled": {"<genexpr>", "numbers"},
    "<genexpr>": {"numbers"},
    "numbers": {"square"},
    "throw": {"catch"},
    "catch": {"raise_at"},
    "raise_at": {"raise_at"},
}
"""What each function of this program calls in Python, whether it is here or elsewhere. Of the
functions that `make` makes, `made_7` calls `within_7` and nothing else."""

TARGETS = {"start_briefly", "brief", "make", "recurse", "generate", "throw"}
"""What threads begin with."""

THREADS = ("starter", "maker", "recurser", "generator", "thrower")
"""Names of the threads that live as long as the program; those of short ones are `brief N`."""


def source(number: int) -> str:
    """Text of a module that has no like: its functions' names, lines and sizes are its own."""
    padding = "    value = number + 1\n" * (number % 7)
    return "\n" * (number % 50) + (
        f"def within_{number}(number):\n"
        f"{padding}"
        f"    return number * number\n"
        f"def made_{number}(count):\n"
        f"    total = 0\n"
        f"{padding.replace('number', 'total')}"
        f"    for step in range(count):\n"
        f"        total += within_{number}(step)\n"
        f"    return total\n"
    )


def make(end: float, counts: dict[str, int]) -> None:
    """Make functions, call and free them: the next ones get their places in memory."""
    for number in itertools.count():
        if time.monotonic() > end:
            counts["functions"] = 2 * number
            return
        space: dict[str, object] = {}
        exec(compile(source(number), f"made_{number}", "exec"), space)
        space[f"made_{number}"](60)
        # A function and its globals hold each other: without this the garbage collector frees them.
        if number % 4:
            space.clear()


def brief(number: int) -> None:
    catch()
    for _ in range(number % 20):
        consume()


def start_briefly(end: float, counts: dict[str, int], threads: int) -> None:
    """Start threads that soon end, spread over the time."""
    began = time.monotonic()
    for number in range(0, threads, 10):
        due = began + (end - began) * number / threads
        time.sleep(max(0.0, due - time.monotonic()))
        group = [
            threading.Thread(target=brief, args=(number + k,), name=f"brief {number + k}")
            for k in range(10)
        ]
        for thread in group:
            thread.start()
        for thread in group:
            thread.join()
        counts["threads"] = number + len(group)


def hold() -> None:
    """Stay at the bottom for a while."""
    sum(range(300_000))


def down(depth: int) -> None:
    if depth:
        down(depth - 1)
    else:
        hold()


def recurse(end: float, counts: dict[str, int]) -> None:
    """Go down and up again, with a rest: most stacks of this differ from all others."""
    while time.monotonic() < end:
        down(DEPTH)
        counts["recursions"] += 1
        time.sleep(0.5)


def square(number: int) -> int:
    return number * number


def numbers(count: int):
    for number in range(count):
        yield square(number)


def doubled(count: int):
    yield from (2 * number for number in numbers(count))


def consume() -> int:
    return sum(doubled(30))


def abandon() -> None:
    next(doubled(5))


def generate(end: float, counts: dict[str, int]) -> None:
    while time.monotonic() < end:
        for _ in range(50):
            consume()
            abandon()
        counts["generators"] += 300


def raise_at(depth: int) -> None:
    if depth:
        raise_at(depth - 1)
    raise ValueError(depth)


def catch() -> None:
    try:
        raise_at(30)
    except ValueError as error:
        error.args = ()


def throw(end: float, counts: dict[str, int]) -> None:
    while time.monotonic() < end:
        for _ in range(50):
            catch()
        counts["exceptions"] += 50


def run(seconds: float, threads: int) -> dict[str, int]:
    """Do all of it; return how much was done."""
    counts = dict.fromkeys(("threads", "functions", "recursions", "generators", "exceptions"), 0)
    end = time.monotonic() + seconds
    workers = [
        threading.Thread(target=start_briefly, args=(end, counts, threads), name="starter"),
        threading.Thread(target=make, args=(end, counts), name="maker"),
        threading.Thread(target=generate, args=(end, counts), name="generator"),
        threading.Thread(target=throw, args=(end, counts), name="thrower"),
    ]
    recurser = threading.Thread(target=recurse, args=(end, counts), name="recurser")
    for worker in workers:
        worker.start()
    # Before 3.11 each call takes native stack: 0.5 KiB, and more in a debug build.
    usual = threading.stack_size(256 << 20)
    recurser.start()
    threading.stack_size(usual)
    for worker in (*workers, recurser):
        worker.join()
    return counts
