"""How true what is told of locks is, and what it costs.

Six threads contend for one lock; they note when they began to wait, had it and gave it back, which
is the truth. First comes `lock_wait` against that. `blame` compares the share of each function that
held the lock with its true one, in points: from the moment at which one has given it back, the next
one has it. `unknown` is the share of `<unknown holder>`. Each way to use a lock has a process of
its own. With `--locks exact` locks note who takes them, and `counted` is what they count of the
same wait. `cost` is an uncontended `acquire` and `release`, and a `with`, with locks looked at and
without, in turns; the least of all rounds.

    python benches/waiting_locks.py [--rounds 5] [--seconds 10] [--ways with rlock ...]
                                    [--locks exact]
"""

from __future__ import annotations

import argparse
import bisect
import json
import os
import random
import sys
import threading
import time
from typing import Any

from apart import in_process

THREADS = 6
now = time.perf_counter_ns


class Diary:
    """When a thread began to wait, had the lock, and gave it back, and the function that had it."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, int, int, str]] = []


def compute(seconds: float) -> None:
    """Be busy."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


# What holds the lock, for how long, how often, and how.
HOLDS = {
    "often": (0.004, 60, time.sleep),
    "long": (0.012, 25, time.sleep),
    "busy": (0.003, 15, compute),
}


def by_with(lock: Any, name: str) -> str:
    """Return the source of a function that holds a lock by `with`."""
    del lock
    return f"""
def {name}(lock, began, entries):
    with lock:
        had = now()
        spend()
        entries.append((began, had, now(), {name!r}))
"""


def by_acquire(lock: Any, name: str) -> str:
    """Return the source of one that acquires and releases it."""
    del lock
    return f"""
def {name}(lock, began, entries):
    lock.acquire()
    try:
        had = now()
        spend()
        entries.append((began, had, now(), {name!r}))
    finally:
        lock.release()
"""


# Locks by how they are used.
WAYS: dict[str, tuple[Any, Any]] = {
    "with": (threading.Lock, by_with),
    "condition": (lambda: threading.Condition(threading.Lock()), by_with),
    "rlock": (threading.RLock, by_with),
    "rlock acquire": (threading.RLock, by_acquire),
    "condition acquire": (threading.Condition, by_acquire),
    "acquire": (threading.Lock, by_acquire),
}


def run(way: str, seconds: float) -> list[tuple[int, int, int, str]]:
    """Contend for a lock; return what happened."""
    make, source = WAYS[way]
    lock = make()
    functions = {}
    for name, (length, _, how) in HOLDS.items():
        scope: dict[str, Any] = {"now": now, "spend": lambda how=how, length=length: how(length)}
        exec(source(lock, name), scope)
        functions[name] = scope[name]
    end = time.monotonic() + seconds
    diaries = [Diary() for _ in range(THREADS)]

    def work(at: int) -> None:
        chance, entries = random.Random(at), diaries[at].entries
        weights = [often for _, often, _ in HOLDS.values()]
        while time.monotonic() < end:
            (name,) = chance.choices(list(functions), weights)
            functions[name](lock, now(), entries)
            time.sleep(chance.uniform(0, 0.03))

    threads = [threading.Thread(target=work, args=(at,)) for at in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted((entry for diary in diaries for entry in diary.entries), key=lambda each: each[1])


def truth(entries: list[tuple[int, int, int, str]]) -> tuple[float, dict[str, float]]:
    """Return seconds waited in all, and of these while each function held the lock."""
    ends = [until for _, _, until, _ in entries]
    waited, blame = 0, dict.fromkeys(HOLDS, 0)
    for began, had, _, _ in entries:
        waited += had - began
        at = bisect.bisect_right(ends, began)
        since = ends[at - 1] if at else 0
        while at < len(ends) and since < had:
            blame[entries[at][3]] += max(0, min(had, ends[at]) - max(began, since))
            since = ends[at]
            at += 1
    return waited / 1e9, {name: ns / 1e9 for name, ns in blame.items()}


def true(way: str, seconds: float, locks: str) -> dict[str, Any]:
    """Return what was told and what was so."""
    import rprof

    with rprof.profile(rate=100, max_overhead=1.0, locks=locks) as block:
        entries = run(way, seconds)
        counted = rprof.status().locks
    waited, blame = truth(entries)
    profile = block.profile
    told_wait = told_blame = 0.0
    told = dict.fromkeys([*HOLDS, "<unknown holder>"], 0.0)
    for name in profile.labels()["lock"]:
        # What the main thread waits for is the end of the others.
        if name.startswith("Thread "):
            continue
        part = profile.only_labels(lock=name)
        told_wait += part.totals["lock_wait"] / 1e9
        for line in part.to_collapsed(by="lock_blame").splitlines():
            stack, _, value = line.rpartition(" ")
            told_blame += float(value)
            functions = {frame.rpartition(".")[2] for frame in stack.split(";")}
            for holder in told:
                told[holder] += float(value) if holder in functions else 0.0
    return {
        "waited": waited,
        "told": told_wait,
        "counted": counted and counted.waited_seconds,
        "blame": {name: 100 * value / waited for name, value in blame.items()},
        "told blame": {name: 100 * value / told_blame for name, value in told.items()},
    }


def cost(is_looked_at: bool) -> dict[str, float]:
    """Return ns for each use of a lock that nobody else wants."""
    import rprof

    lock = threading.Lock()

    def by_method(times: int) -> None:
        acquire, release = lock.acquire, lock.release
        for _ in range(times):
            acquire()
            release()

    def by_with(times: int) -> None:
        for _ in range(times):
            with lock:
                pass

    found = {}
    locks = "sampled" if is_looked_at else None
    with rprof.profile(rate=100, max_overhead=1.0, locks=locks):
        for name, use in (("acquire", by_method), ("with", by_with)):
            times, least = 100_000, float("inf")
            for _ in range(10):
                began = now()
                use(times)
                least = min(least, (now() - began) / times)
            found[name] = least
    return found


def main(argv: list[str] | None = None) -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--locks", choices=["sampled", "exact"], default="sampled")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.one:
        kind, argument = options.one
        if kind == "cost":
            print(json.dumps(cost(argument == "looked at")))
        else:
            print(json.dumps(true(argument, options.seconds, options.locks)))
        return
    print(f"load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}")
    same = ("--seconds", str(options.seconds), "--locks", options.locks)
    for way in options.ways:
        found = in_process(__file__, *same, "--one", "true", way)
        waited, told = found["waited"], found["told"]
        print(f"{way}: waited {waited:.2f} s, told {told:.2f} ({100 * (told / waited - 1):+.1f} %)")
        if found["counted"]:
            print(f"  counted {found['counted']:.3f} s of {waited:.3f}")
        shares = found["told blame"]
        unknown = shares.pop("<unknown holder>")
        words = []
        for name, share in shares.items():
            was = found["blame"][name]
            words.append(f"{name} {share:.1f} of {was:.1f} ({share - was:+.1f})")
        print(f"  blame in %: {', '.join(words)}; unknown {unknown:.1f}")
    least: dict[str, dict[str, float]] = {"not": {}, "looked at": {}}
    for _ in range(options.rounds):
        for how, known in least.items():
            for name, value in in_process(__file__, "--one", "cost", how).items():
                known[name] = min(value, known.get(name, value))
    for name, without in least["not"].items():
        looked_at = least["looked at"][name]
        print(f"cost of {name}: {without:.1f} ns, looked at {looked_at:.1f} ns", end=" ")
        print(f"({looked_at - without:+.1f} ns, {100 * (looked_at / without - 1):+.1f} %)")


if __name__ == "__main__":
    main()
