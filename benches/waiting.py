"""Who is told to wait for what, how truly, and at what cost: rprof beside its peers, in one run.

Run:  python benches/waiting.py [--seconds 10] [--rounds 3] [--only NAME,...] [--json FILE]
      python benches/waiting.py --part share --seconds 60
      python benches/waiting.py --part draw --many         # beside 100,000 tasks as well

All profilers take turns, each in a new process, as in the other benchmarks; those that cannot be
had here are named at the end with the reason.

running: tasks with names compute at 1 kHz, on asyncio and on uvloop. `chain` is the part of the
samples of their work whose stacks have all that awaits it, through a task and `gather`, in order:
`root`, `serve`, `handler`, `query`. `task` is the part that has the name of the right task, `-`
where what a profiler writes is not read for that.

share: 200 tasks wait in four functions. Shown is by how much the share of each in all waiting is
wrong, in percent of it, at 100 Hz. Of a profiler that knows no waiting tasks all samples count.

draw: a loop that is half busy, beside so many suspended tasks, at 100 Hz. Shown is what the
profiler takes, its own process included, in percent of a core, and what of that is more than
beside none.

lock: what a `threading.Lock` costs that nobody else wants, in ns for each use, and how much that is
more than without a profiler; the least of all rounds.

truth: what rprof tells of locks and of greenlets, against what was so: `waiting_locks.py`,
`waiting_greenlets.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import importlib.util
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import peers
import rprof
import waiting_greenlets
import waiting_locks
from waiting_tasks import SHARES, TASKS, wait

CHAIN = ("root", "serve", "handler", "query")
JOBS = "abcdefgh"
SUSPENDED, MANY = 1_000, 100_000
PARTS = ("running", "share", "draw", "lock", "truth")


def keep_tasks(recording: peers.Recording, profile: rprof.Profile, key: str, kind: str) -> None:
    """Keep the samples of each task that is told by a label, as `task NAME`."""
    for name in profile.labels().get(key, ()):
        for frames, value in profile.only_labels({key: name}).stacks(kind):
            recording.add(f"task {name}", frames, value)


class Rprof(peers.Rprof):
    """rprof, with what it tells of tasks; `locks` as its option says."""

    def __init__(self, locks: str) -> None:
        super().__init__("direct")
        self.name = "rprof" if locks == "sampled" else f"rprof {locks} locks"
        self.locks = locks

    def start(self, rate: int, kinds: tuple[str, ...], directory: Path) -> None:  # noqa: ARG002
        rprof.start(directory, engine="direct", rate=rate, max_overhead=0.0, locks=self.locks)
        status = rprof.status().locks
        if status is not None and status.problem:
            raise peers.NotDriven(status.problem)

    def read(self, rate: int, kinds: tuple[str, ...], directory: Path) -> peers.Recording:
        recording = super().read(rate, (*kinds, "task_wall"), directory)
        for file in directory.glob("*.pb.gz"):
            keep_tasks(recording, rprof.load(file), "task", "samples")
        return recording


class Ddtrace(peers.Ddtrace):
    """ddtrace, with the names of tasks; with its profiles of locks, if they are wanted."""

    def __init__(self, locks: bool) -> None:
        super().__init__()
        self.name = "ddtrace locks" if locks else "ddtrace"
        self.locks = locks

    @contextlib.contextmanager
    def surroundings(self, directory: Path) -> Iterator[dict[str, str]]:
        with super().surroundings(directory) as variables:
            variables["DD_PROFILING_LOCK_ENABLED"] = str(self.locks).lower()
            yield variables

    def read(self, rate: int, kinds: tuple[str, ...], directory: Path) -> peers.Recording:
        recording = super().read(rate, kinds, directory)
        for profile in self.profiles(directory):
            keep_tasks(recording, profile, "task name", "wall-samples")
        return recording


class AsyncSampling(peers.ProfilingSampling):
    """CPython's own, told to show tasks: all of them, or those that run."""

    def __init__(self, tasks: str) -> None:
        self.name = f"profiling.sampling {tasks}"
        self.tasks = tasks

    def arguments(self, rate: int, kinds: tuple[str, ...], file: Path) -> list[str]:
        # It refuses --all-threads and --mode beside these.
        alone = {"--all-threads", "--mode", kinds[0]}
        found = [word for word in super().arguments(rate, kinds, file) if word not in alone]
        return [*found[:-3], "--async-aware", "--async-mode", self.tasks, *found[-3:]]


PLAIN = peers.Profiler()
TASK_PROFILERS: tuple[peers.Profiler, ...] = (
    Rprof("sampled"),
    Ddtrace(locks=False),
    AsyncSampling("all"),
    peers.PySpy(blocking=False),
    peers.Austin(),
)
RUNNING_PROFILERS = (*TASK_PROFILERS, AsyncSampling("running"))
LOCK_PROFILERS: tuple[peers.Profiler, ...] = (
    PLAIN,
    Rprof("sampled"),
    Rprof("exact"),
    Ddtrace(locks=True),
)
ALL = (*LOCK_PROFILERS, *(p for p in RUNNING_PROFILERS if p.name != "rprof"))


# -------------------------------------------------------------------------------------------------
# What is profiled
# -------------------------------------------------------------------------------------------------


def compute(seconds: float) -> None:
    """Be busy."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


async def query(end: float, job: str) -> None:
    work = globals()[f"work_{job}"]
    while time.monotonic() < end:
        work(0.003)
        await asyncio.sleep(0)


for each in JOBS:
    exec(f"def work_{each}(seconds): compute(seconds)")


async def handler(end: float, job: str) -> None:
    await query(end, job)


async def serve(end: float) -> None:
    await asyncio.gather(*(asyncio.create_task(handler(end, job), name=job) for job in JOBS))


async def root(seconds: float) -> None:
    """Have tasks with names compute in turns."""
    await asyncio.create_task(serve(time.monotonic() + seconds))


def waiting(name: str) -> Callable[[float], Coroutine[Any, Any, None]]:
    """Return a coroutine function of this name that waits for so many seconds."""
    scope: dict[str, Any] = {"sleep": asyncio.sleep}
    exec(f"async def {name}(seconds): await sleep(seconds)", scope)
    return scope[name]


async def share(seconds: float) -> None:
    """Have tasks wait in several functions."""
    jobs = {name: waiting(name) for name in SHARES}
    await asyncio.gather(
        *(jobs[name](seconds) for name, part in SHARES.items() for _ in range(round(TASKS * part)))
    )


async def half_busy(done: threading.Event, number: int, ready: threading.Event) -> None:
    """Be busy half of the time, beside so many tasks that wait."""
    event = asyncio.Event()
    tasks = [asyncio.create_task(wait(event)) for _ in range(number)]
    await asyncio.sleep(0)
    ready.set()
    while not done.is_set():
        compute(0.005)
        await asyncio.sleep(0.005)
    event.set()
    await asyncio.gather(*tasks)


def draw(profiler: peers.Profiler, number: int, seconds: float) -> dict[str, float]:
    """Return what is used beside so many tasks; see `peers.cost`."""
    done, ready = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(half_busy(done, number, ready)))
    thread.start()
    ready.wait()
    # What is done once, before: to get to know the tasks that there are.
    time.sleep(1)
    try:
        return peers.cost(profiler, [time.pthread_getcpuclockid(thread.ident or 0)], seconds)
    finally:
        done.set()
        thread.join()


def lock(seconds: float) -> dict[str, float]:
    """Return ns for each use of a lock that nobody else wants."""
    taken = threading.Lock()

    def by_calls(times: int) -> None:
        for _ in range(times):
            taken.acquire()
            taken.release()

    def by_with(times: int) -> None:
        for _ in range(times):
            with taken:
                pass

    found = {"acquire, release": float("inf"), "with": float("inf")}
    times, end = 20_000, time.monotonic() + seconds
    while time.monotonic() < end:
        for name, use in zip(found, (by_calls, by_with), strict=True):
            began = time.perf_counter_ns()
            use(times)
            found[name] = min(found[name], (time.perf_counter_ns() - began) / times)
    return found


def run_case(case: dict[str, Any]) -> None:
    """Do in this process what `peers.measure` asked for."""
    options = case["options"]
    seconds = options["seconds"]

    def body(profiler: peers.Profiler) -> dict[str, float]:
        if options["what"] == "draw":
            return draw(profiler, options["number"], seconds)
        if options["what"] == "lock":
            return lock(seconds)
        make = root if options["what"] == "running" else share
        if options.get("loop") == "uvloop":
            import uvloop

            uvloop.run(make(seconds))
        else:
            asyncio.run(make(seconds))
        return {}

    peers.record(case, body, ALL)


# -------------------------------------------------------------------------------------------------
# What is told
# -------------------------------------------------------------------------------------------------


def names_of(stack: tuple[peers.Frame, ...]) -> list[str]:
    return [frame.function for frame in stack]


def told_of_running(outcome: peers.Outcome) -> dict[str, Any]:
    """How many of the samples of work have all that awaits it, and how many the right task."""
    values = outcome.recording.values
    samples = whole = right = 0.0
    for stack, value in values["samples"].items():
        names = names_of(stack)
        if any(name.startswith("work_") for name in names):
            samples += value
            places = [names.index(name) if name in names else -1 for name in CHAIN]
            whole += value if places[0] >= 0 and places == sorted(places) else 0
    for job in JOBS:
        for stack, value in values.get(f"task {job}", {}).items():
            right += value if f"work_{job}" in names_of(stack) else 0
    knows_tasks = any(kind.startswith("task ") for kind in values)
    if not samples:
        return {"none": True}
    task = 100 * right / samples if knows_tasks else None
    return {"samples": samples, "chain": 100 * whole / samples, "task": task}


def told_of_shares(outcome: peers.Outcome) -> dict[str, Any]:
    """By how much the share of each function in the waiting is wrong, in percent of it."""
    values = outcome.recording.values
    told = dict.fromkeys(SHARES, 0.0)
    for stack, value in values.get("task_wall", values["samples"]).items():
        names = names_of(stack)
        for name in SHARES:
            told[name] += value if name in names else 0
    total = sum(told.values())
    if not total:
        return {"none": True}
    return {name: 100 * (told[name] / total / part - 1) for name, part in SHARES.items()}


def compare_running(given: Given) -> list[dict[str, Any]]:
    rows = []
    loops = ["asyncio", *(["uvloop"] if importlib.util.find_spec("uvloop") else [])]
    if "uvloop" not in loops:
        given.absent["uvloop"] = "not installed"
    for loop in loops:
        found = given.turns(
            RUNNING_PROFILERS, 1000, told_of_running, what="running", loop=loop, settle=2.0
        )
        print(
            f"\nrunning tasks on {loop} at 1 kHz\n{'':26}{'samples':>9}{'chain %':>9}{'task %':>9}"
        )
        for name, outcomes in found.items():
            results = [outcome.result for outcome in outcomes if "none" not in outcome.result]
            if not results:
                given.absent[f"{name}, running on {loop}"] = "shows no function that a task calls"
                continue
            chain = statistics.median(result["chain"] for result in results)
            tasks = [result["task"] for result in results if result["task"] is not None]
            task = statistics.median(tasks) if tasks else None
            samples = sum(result["samples"] for result in results)
            rows.append({"profiler": name, "loop": loop, "chain": chain, "task": task})
            print(f"{name:26}{samples:9.0f}{chain:9.2f}", end="")
            print(f"{'-':>9}" if task is None else f"{task:9.2f}")
    return rows


def compare_shares(given: Given) -> list[dict[str, Any]]:
    found = given.turns(TASK_PROFILERS, 100, told_of_shares, what="share", settle=2.0)
    print(f"\nshares of {TASKS} tasks that wait, after {given.seconds:.0f} s at 100 Hz, wrong by %")
    print(f"{'':26}" + "".join(f"{f'{name} {part:.0%}':>16}" for name, part in SHARES.items()))
    rows = []
    for name, outcomes in found.items():
        results = [outcome.result for outcome in outcomes if "none" not in outcome.result]
        if not results:
            given.absent[f"{name}, share"] = "tells of no task that waits"
            continue
        # The worst of the rounds is not hidden behind a median.
        worst = {each: max((r[each] for r in results), key=abs) for each in SHARES}
        rows.append({"profiler": name, **worst})
        print(f"{name:26}" + "".join(f"{worst[each]:+16.1f}" for each in SHARES))
    return rows


def compare_draws(given: Given, many: bool) -> list[dict[str, Any]]:
    rows = []
    none: dict[str, float] = {}
    for number in (0, SUSPENDED, *([MANY] if many else [])):
        found = given.turns((PLAIN, *TASK_PROFILERS), 100, lambda _: {}, what="draw", number=number)
        print(f"\nbeside {number:,} suspended tasks at 100 Hz\n{'':26}{'% of core':>10}{'more':>9}")
        for name, outcomes in found.items():
            used = 100 * statistics.median(outcome.result["cpu"] for outcome in outcomes)
            none.setdefault(name, used)
            more = used - none[name]
            rows.append({"profiler": name, "tasks": number, "percent": used, "more": more})
            print(f"{name:26}{used:10.3f}{more:+9.3f}")
    return rows


def compare_locks(given: Given) -> list[dict[str, Any]]:
    found = given.turns(LOCK_PROFILERS, 100, lambda _: {}, what="lock")
    uses = list(found[PLAIN.name][0].result) if PLAIN.name in found else []
    plain = {use: min(o.result[use] for o in found[PLAIN.name]) for use in uses}
    rows = []
    print("\na lock that nobody else wants, ns for each use, and how many more")
    print(f"{'':26}" + "".join(f"{use:>18}{'':>9}" for use in uses))
    for name, outcomes in found.items():
        least = {use: min(outcome.result[use] for outcome in outcomes) for use in uses}
        rows.append({"profiler": name, **least})
        words = (f"{least[use]:18.1f}{least[use] - plain[use]:+9.1f}" for use in uses)
        print(f"{name:26}" + "".join(words))
    return rows


class Given:
    """What was asked for, and which profilers could not be driven."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.seconds, self.rounds, self.only = options.seconds, options.rounds, options.only
        self.absent: dict[str, str] = {}

    def turns(
        self,
        profilers: tuple[peers.Profiler, ...],
        rate: int,
        told: Callable[[peers.Outcome], dict[str, Any]],
        **options: object,
    ) -> dict[str, list[peers.Figures]]:
        wanted = [p for p in profilers if self.only is None or p.name in self.only or p is PLAIN]
        absent = {p.name: reason for p in wanted if (reason := p.absent())}
        self.absent |= absent
        driven = [p for p in wanted if p.name not in absent]
        return peers.turns(
            driven,
            self.rounds,
            rate,
            self.absent,
            os.path.abspath(__file__),
            told=told,
            seconds=self.seconds,
            **options,
        )


def compare_truth(given: Given) -> None:
    """What rprof alone tells; printed by the benchmarks of each."""
    seconds = ["--seconds", str(given.seconds), "--rounds", str(given.rounds)]
    print("\nlocks")
    waiting_locks.main(seconds)
    print("\nlocks that note who takes them")
    waiting_locks.main([*seconds, "--locks", "exact"])
    if importlib.util.find_spec("gevent"):
        print("\ngreenlets")
        waiting_greenlets.main(seconds)
    else:
        given.absent["greenlets"] = "gevent is not installed"


def main() -> None:
    """Print all tables."""
    if case := peers.case():
        run_case(case)
        return
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog="example: python benches/waiting.py --part share --seconds 60 --rounds 1",
    )
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each case (%(default)s)")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this; may be repeated")
    parser.add_argument("--only", metavar="NAME,...", type=lambda text: text.split(","))
    parser.add_argument("--many", action="store_true", help=f"draw beside {MANY:,} tasks, too")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    options = parser.parse_args()
    names = sorted({p.name for p in ALL})
    if unknown := set(options.only or ()) - set(names):
        parser.error(f"--only: no {', '.join(sorted(unknown))}; choose from {', '.join(names)}")
    given = Given(options)
    print(f"CPython {platform.python_version()}, load {peers.LOAD:.1f}")
    figures = {"benchmark": "waiting", **peers.heading([p for p in ALL if not p.absent()])}
    parts: dict[str, Callable[[Given], Any]] = {
        "running": compare_running,
        "share": compare_shares,
        "draw": functools.partial(compare_draws, many=options.many),
        "lock": compare_locks,
        "truth": compare_truth,
    }
    for part in options.part or PARTS:
        figures[part] = parts[part](given)
    print()
    peers.report(figures | {"not compared": given.absent}, options.json)


if __name__ == "__main__":
    main()
