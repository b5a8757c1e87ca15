"""Which task a thread runs, and what awaits that, in the stacks and labels of a recording."""

from __future__ import annotations

import sys

import pytest
import rprof
from support import ENGINE

pytestmark = pytest.mark.skipif(ENGINE != "direct", reason="tasks are read by the direct engine")

BEGIN = """
import asyncio, sys, threading, time, rprof
from burning import burn
async def query():
    for _ in range(20):
        burn(0.005)
        await asyncio.sleep(0)
async def handler(): await query()
"""
LOOP = ("_run_once", "_run", "run_forever", "run_until_complete", "run", "main_of_loop")


def chains(path, measure="cpu"):
    """Return how much each chain of functions has that leads to `query`, without asyncio's own."""
    profile = rprof.load(path)
    found: dict[tuple[str, ...], int] = {}
    for frames, value in profile.stacks(measure):
        names = [frame.name for frame in frames]
        if not value or "program.query" not in names:
            continue
        names = names[: names.index("program.query") + 1]
        own = [
            name.removeprefix("program.")
            for name in names
            if name.startswith("program.") or name in ("<gather>", "<shield>")
        ]
        chain = tuple(name for name in own if name not in ("<module>", "serve"))
        found[chain] = found.get(chain, 0) + value
    return found


def shares(path, measure="cpu"):
    """Return the part of each chain."""
    found = chains(path, measure)
    return {chain: value / sum(found.values()) for chain, value in found.items()}


WAYS = """
async def shielded(): await asyncio.shield(handler())
async def twice(): await asyncio.shield(asyncio.gather(handler()))
async def waiting(): await asyncio.wait([asyncio.create_task(handler())])
async def timing(): await asyncio.wait_for(asyncio.create_task(handler()), 100)
async def completing():
    for one in asyncio.as_completed([handler()]): await one
async def grouping():
    async with asyncio.TaskGroup() as group: group.create_task(handler())
async def awaiting(): await asyncio.create_task(handler())
async def gathering(): await asyncio.gather(handler(), handler())
async def limiting():
    async with asyncio.timeout(100): await asyncio.create_task(handler())
ways = [shielded, twice, waiting, timing, completing, awaiting, gathering]
if sys.version_info >= (3, 11): ways += [grouping, limiting]
async def main():
    for way in ways: await asyncio.create_task(way())
"""


@pytest.mark.parametrize("runner", ["asyncio", "uvloop", "thread"])
def test_what_awaits_a_running_task_is_below_it(programs, runner):
    if runner == "uvloop":
        pytest.importorskip("uvloop", reason="it is not installed")
    run = {
        "asyncio": "asyncio.run(main())",
        "uvloop": "import uvloop; uvloop.new_event_loop().run_until_complete(main())",
        "thread": "t = threading.Thread(target=asyncio.run, args=(main(),)); t.start(); t.join()",
    }[runner]
    programs.check(
        BEGIN
        + WAYS
        + f"""
with rprof.profile("x.pb.gz", rate=1000, max_overhead=1.0):
    {run}
assert rprof.status().last_error is None, rprof.status().last_error
"""
    )
    found = chains(programs.directory / "x.pb.gz")
    expected = {
        ("main", "shielded", "<shield>", "handler", "query"),
        ("main", "twice", "<shield>", "<gather>", "handler", "query"),
        ("main", "gathering", "<gather>", "handler", "query"),
    }
    plain = ["waiting", "timing", "completing", "awaiting"]
    if sys.version_info >= (3, 11):
        plain += ["grouping", "limiting"]
    expected |= {("main", way, "handler", "query") for way in plain}
    assert expected <= set(found)
    # Of a step that ends between two looks nothing is known; that is rare.
    whole = sum(found.values())
    assert sum(found[chain] for chain in expected) > 0.97 * whole, found


def test_names_that_somebody_gave_are_labels_and_others_are_not(programs):
    programs.check(
        BEGIN
        + """
names = ["plain", "sp ace; \\u00e9\\u4e2d", "Task-of mine"]
async def main():
    tasks = [asyncio.create_task(handler(), name=name) for name in names]
    await asyncio.gather(*tasks, handler())
with rprof.profile("x.pb.gz", rate=1000, max_overhead=1.0):
    asyncio.run(main())
"""
    )
    profile = rprof.load(programs.directory / "x.pb.gz")
    names = ["plain", "sp ace; \u00e9\u4e2d", "Task-of mine"]
    assert sorted(profile.labels()["task"]) == sorted(names)
    whole = profile.totals["cpu"]
    for name in names:
        part = profile.only_labels({"task": name}).totals["cpu"] / whole
        assert 0.1 < part < 0.4, name


def test_of_very_many_names_some_are_labels(programs):
    programs.check(
        BEGIN
        + """
async def short(): burn(0.004)
async def main():
    for number in range(250): await asyncio.create_task(short(), name=f"number {number}")
with rprof.profile("x.pb.gz", rate=1000, max_overhead=1.0):
    asyncio.run(main())
"""
    )
    assert len(rprof.load(programs.directory / "x.pb.gz").labels()["task"]) == 100


def test_cpu_time_of_labels_is_the_clocks_also_in_tasks_with_names(programs):
    programs.check(
        BEGIN
        + """
spent = []
async def work(route):
    with rprof.labels(route=route):
        before = time.thread_time()
        for _ in range(30): burn(0.002)
        spent.append(time.thread_time() - before)
async def main():
    for number in range(6):
        await asyncio.create_task(work(f"/{number % 2}"), name=f"job {number}")
with rprof.profile("x.pb.gz", rate=200, max_overhead=1.0):
    asyncio.run(main())
print(sum(spent))
""",
    )
    profile = rprof.load(programs.directory / "x.pb.gz")
    assert "<not sampled>" not in {row.name for row in profile.top(100)}
    jobs = profile.labels()["task"]
    assert len(jobs) == 6
    by_job = sum(profile.only_labels({"task": job}).totals["cpu"] for job in jobs)
    by_route = sum(
        profile.only_labels({"route": route}).totals["cpu"] for route in profile.labels()["route"]
    )
    assert by_job > 0.9 * by_route


def test_each_of_several_loops_has_its_own(programs):
    programs.check(
        BEGIN
        + """
def serve(name):
    async def outer(): await asyncio.gather(asyncio.create_task(handler(), name=name))
    asyncio.run(outer())
threads = [threading.Thread(target=serve, args=(f"t{n}",), name=f"t{n}") for n in range(3)]
with rprof.profile("x.pb.gz", rate=500, max_overhead=1.0):
    for thread in threads: thread.start()
    for thread in threads: thread.join()
"""
    )
    profile = rprof.load(programs.directory / "x.pb.gz")
    for name in ("t0", "t1", "t2"):
        only = profile.only_labels({"task": name})
        assert [thread.name for thread in only.threads] == [name]


def test_a_thread_without_tasks_has_the_stack_it_had(programs):
    programs.check(
        """
import asyncio, rprof
from burning import burn
def numbers():
    while True:
        burn(0.001)
        yield
def plain():
    steps = numbers()
    for _ in range(200): next(steps)
with rprof.profile("x.pb.gz", rate=500, max_overhead=1.0):
    plain()
"""
    )
    profile = rprof.load(programs.directory / "x.pb.gz")
    assert "task" not in profile.labels()
    names = {tuple(frame.name for frame in frames)[:3] for frames, _ in profile.stacks("cpu")}
    assert ("program.<module>", "program.plain", "program.numbers") in names
