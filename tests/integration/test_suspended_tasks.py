"""Suspended tasks of asyncio, as they are drawn without the GIL, against what the program knows."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
import rprof
from support import ENGINE

pytestmark = pytest.mark.skipif(ENGINE != "direct", reason="tasks are read by the direct engine")

# `tell` prints what a test is to know.
PRELUDE = """
import asyncio, gc, json, os, sys, threading, time, rprof
def tell(**facts): sys.stdout.write(json.dumps(facts) + "\\n")
def collapsed(profile, by="task_wall"):
    told = {}
    for line in profile.to_collapsed(by=by).splitlines():
        stack, _, value = line.rpartition(" ")
        told[stack] = told.get(stack, 0) + float(value)
    return told
def total(profile, by="task_wall"): return sum(collapsed(profile, by).values())
async def wait(event): await event.wait()
async def settle():
    for _ in range(3): await asyncio.sleep(0)
"""


@pytest.fixture
def ask(programs):
    """Run a program, and return what it tells."""

    def run(program: str, *, prelude: str = PRELUDE) -> dict[str, Any]:
        return dict(json.loads(programs.check(prelude + program).splitlines()[-1]))

    return run


def share(stacks: dict[str, float], *functions: str) -> float:
    """Return how much stacks have in which these functions of the program call each other."""
    wanted = ";".join(name if name[0] == "<" else f"program.{name}" for name in functions)
    return sum(value for stack, value in stacks.items() if f";{wanted};" in f"{stack};")


@pytest.mark.parametrize("runner", ["asyncio", "uvloop", "thread"])
def test_waiting_is_charged_to_where_tasks_wait(ask, runner):
    if runner == "uvloop":
        pytest.importorskip("uvloop", reason="it is not installed")
    run = {
        "asyncio": "asyncio.run(main())",
        "uvloop": "import uvloop; uvloop.new_event_loop().run_until_complete(main())",
        "thread": "t = threading.Thread(target=asyncio.run, args=(main(),), name='loop');"
        " t.start(); t.join()",
    }[runner]
    told = ask(
        """
async def query(event): await event.wait()
async def handler(event): await query(event)
async def other(event): await event.wait()
async def gathering(event): await asyncio.gather(handler(event), handler(event))
async def main():
    global block
    event = asyncio.Event()
    waiting = [asyncio.create_task(one(event)) for one in (gathering, handler, other)]
    await settle()
    with rprof.profile(rate=100) as block:
        await asyncio.sleep(1)
    event.set()
    await asyncio.gather(*waiting)
"""
        + run
        + """
assert rprof.status().last_error is None, rprof.status().last_error
threads = [thread.name for thread in block.profile.threads if thread.name != "MainThread"]
tell(stacks=collapsed(block.profile), wall=block.profile.duration_ns, threads=threads)
"""
    )
    stacks, wall = told["stacks"], told["wall"]
    near = {"rel": 0.1}
    # Each lives as long as the block, and so few are read all, those that await others as well.
    assert share(stacks, "gathering", "<gather>", "handler", "query") == pytest.approx(
        2 * wall, **near
    )
    assert share(stacks, "handler", "query") == pytest.approx(3 * wall, **near)
    assert share(stacks, "other") == pytest.approx(wall, **near)
    assert share(stacks, "gathering") == pytest.approx(3 * wall, **near)
    assert share(stacks, "main") == pytest.approx(wall, **near)
    assert sum(stacks.values()) == pytest.approx(6 * wall, **near)
    assert "run_forever" not in str(stacks)
    assert ("loop" in told["threads"]) == (runner == "thread")


def test_a_sample_of_many_stands_for_all(ask):
    told = ask("""
async def often(event): await event.wait()
async def seldom(event): await event.wait()
async def main():
    event = asyncio.Event()
    waiting = [asyncio.create_task(often(event)) for _ in range(3000)]
    waiting += [asyncio.create_task(seldom(event)) for _ in range(1000)]
    await settle()
    with rprof.profile(rate=100) as block:
        await asyncio.sleep(3)
    event.set()
    await asyncio.gather(*waiting)
    return block.profile
profile = asyncio.run(main())
tell(stacks=collapsed(profile), wall=profile.duration_ns)
""")
    sums = {name: share(told["stacks"], name) for name in ("often", "seldom")}
    all_of_them = sum(sums.values())
    assert all_of_them == pytest.approx(4000 * told["wall"], rel=0.06)
    # 900 were drawn: five times the error of that.
    assert sums["seldom"] / all_of_them == pytest.approx(0.25, abs=0.075)


def test_tasks_that_come_and_go_are_seen_as_long_as_they_live(ask):
    told = ask("""
lived = 0
async def short():
    global lived
    began = time.monotonic()
    await asyncio.sleep(0.05)
    lived += time.monotonic() - began
async def long(event): await event.wait()
async def main():
    event = asyncio.Event()
    waiting = [asyncio.create_task(long(event)) for _ in range(300)]
    await settle()
    with rprof.profile(rate=100) as block:
        began = time.monotonic()
        while time.monotonic() < began + 4:
            short_ones = [asyncio.create_task(short()) for _ in range(100)]
            await asyncio.sleep(0.02)
            del short_ones
    # What lives on is not in the profile any more.
    told = lived
    event.set()
    await asyncio.gather(*waiting)
    return block.profile, told
profile, told = asyncio.run(main())
tell(stacks=collapsed(profile), wall=profile.duration_ns, lived=told)
""")
    assert share(told["stacks"], "long") == pytest.approx(300 * told["wall"], rel=0.1)
    assert share(told["stacks"], "short") == pytest.approx(told["lived"] * 1e9, rel=0.2)


def test_tasks_that_have_ended_are_not_charged(ask):
    told = ask("""
async def short(): await asyncio.sleep(0)
async def main():
    event = asyncio.Event()
    ended = [asyncio.create_task(short()) for _ in range(2000)]
    await asyncio.gather(*ended)
    waiting = [asyncio.create_task(wait(event)) for _ in range(1000)]
    await settle()
    with rprof.profile(rate=100) as block:
        await asyncio.sleep(3)
    event.set()
    await asyncio.gather(*waiting)
    return block.profile, len(ended)
profile, _ = asyncio.run(main())
tell(stacks=collapsed(profile), wall=profile.duration_ns)
""")
    assert "program.short" not in str(told["stacks"])
    assert share(told["stacks"], "wait") == pytest.approx(1000 * told["wall"], rel=0.25)


def test_few_tasks_where_there_were_many_are_seen(ask):
    told = ask("""
async def main():
    event = asyncio.Event()
    many = [asyncio.create_task(wait(event)) for _ in range(60_000)]
    await settle()
    event.set()
    await asyncio.gather(*many)
    del many
    gc.collect()
    event = asyncio.Event()
    waiting = [asyncio.create_task(wait(event)) for _ in range(200)]
    await settle()
    with rprof.profile(rate=100) as block:
        await asyncio.sleep(3)
    event.set()
    await asyncio.gather(*waiting)
    return block.profile
profile = asyncio.run(main())
tell(stacks=collapsed(profile), wall=profile.duration_ns)
""")
    # Most places of the table are free: what is looked at is drawn with an error of 4 %.
    assert share(told["stacks"], "wait") == pytest.approx(200 * told["wall"], rel=0.2)


def test_names_and_labels_are_those_of_the_task(ask):
    told = ask("""
async def labelled(event):
    with rprof.labels(route="/checkout"): await event.wait()
async def main():
    event = asyncio.Event()
    waiting = [asyncio.create_task(labelled(event), name="pump")]
    waiting += [asyncio.create_task(labelled(event)) for _ in range(2)]
    await settle()
    with rprof.profile(rate=100) as block:
        await asyncio.sleep(0.7)
    event.set()
    await asyncio.gather(*waiting)
    return block.profile
profile = asyncio.run(main())
route = profile.only_labels({"route": "/checkout"})
tell(route=total(route), pump=total(route.only_labels({"task": "pump"})),
     names=profile.labels().get("task"), wall=profile.duration_ns)
""")
    assert told["route"] == pytest.approx(3 * told["wall"], rel=0.15)
    assert told["pump"] == pytest.approx(told["wall"], rel=0.15)
    assert told["names"] == ["pump"]


def test_a_task_that_computes_is_charged_where_its_thread_is(ask):
    told = ask("""
from burning import burn
async def computing():
    for _ in range(100):
        burn(0.01)
        await asyncio.sleep(0)
async def main():
    with rprof.profile(rate=200, max_overhead=1.0) as block: await asyncio.create_task(computing())
    return block.profile
profile = asyncio.run(main())
tell(stacks=collapsed(profile), wall=profile.duration_ns)
""")
    stacks = told["stacks"]
    assert share(stacks, "main", "computing") == pytest.approx(told["wall"], rel=0.2)
    burning = sum(value for stack, value in stacks.items() if "burning.burn" in stack)
    assert burning > 0.8 * share(stacks, "main", "computing")
    assert "run_forever" not in str(stacks)


def test_a_forked_child_sees_its_own(ask):
    told = ask("""
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
def life():
    async def main():
        event = asyncio.Event()
        waiting = [asyncio.create_task(wait(event)) for _ in range(5)]
        await settle()
        with rprof.profile(rate=100) as block: await asyncio.sleep(1)
        event.set()
        await asyncio.gather(*waiting)
        return block.profile
    profile = asyncio.run(main())
    return {"stacks": collapsed(profile), "wall": profile.duration_ns}
life()
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    os.write(writing, json.dumps(life()).encode())
    os._exit(0)
os.close(writing)
with os.fdopen(reading) as answer: child_told = json.loads(answer.read())
os.waitpid(child, 0)
tell(**child_told)
""")
    assert share(told["stacks"], "wait") == pytest.approx(5 * told["wall"], rel=0.15)


def test_no_edge_is_invented_while_tasks_come_and_go(ask):
    told = ask("""
async def leaf(seconds): await asyncio.sleep(seconds)
async def middle(seconds): await leaf(seconds)
async def one(): await middle(0.001)
async def two(): await asyncio.gather(middle(0.002), leaf(0))
async def three():
    tasks = [asyncio.create_task(leaf(0.001)) for _ in range(5)]
    await asyncio.wait(tasks)
async def busy(until):
    while time.monotonic() < until:
        await asyncio.gather(one(), two(), three())
def serve(): asyncio.run(main())
async def main(): await asyncio.gather(*(busy(time.monotonic() + 4) for _ in range(20)))
with rprof.profile(rate=100, max_overhead=1.0) as block:
    threads = [threading.Thread(target=serve) for _ in range(2)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
assert rprof.status().last_error is None
edges = set()
for frames, value in block.profile.stacks("task_wall"):
    names = [frame.name for frame in frames]
    # Up to 3.11 a comprehension has a frame of its own, and the collector may run anywhere.
    names = [name for name in names if name not in ("program.<listcomp>", "<gc>")]
    own = [name for name in names if name.startswith(("program.", "<"))]
    if value: edges |= set(zip(["", *own], own))
tell(edges=sorted(edges))
""")
    name = "program.{}".format
    allowed = {("", name("main")), (name("main"), "<gather>"), ("<gather>", name("busy"))}
    allowed |= {(name("busy"), "<gather>"), (name("one"), name("middle"))}
    allowed |= {("<gather>", name(one)) for one in ("one", "two", "three", "middle", "leaf")}
    allowed |= {(name("middle"), name("leaf")), (name("two"), "<gather>")}
    allowed |= {(name("three"), name("leaf"))}
    # Before a task is awaited, and when what awaited it has gone on, it stands alone.
    alone = {("", name(one)) for one in ("busy", "one", "two", "three", "middle", "leaf")}
    found = {tuple(edge) for edge in told["edges"]}
    assert found <= allowed | alone, found - allowed - alone
    assert {(name("middle"), name("leaf")), (name("busy"), "<gather>")} <= found


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there are no eager tasks before 3.12")
def test_eager_tasks_are_seen(ask):
    told = ask("""
async def main():
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    event = asyncio.Event()
    waiting = [asyncio.create_task(wait(event)) for _ in range(4)]
    with rprof.profile(rate=100) as block: await asyncio.sleep(0.7)
    event.set()
    await asyncio.gather(*waiting)
    return block.profile
profile = asyncio.run(main())
tell(stacks=collapsed(profile), wall=profile.duration_ns)
""")
    assert share(told["stacks"], "wait") == pytest.approx(4 * told["wall"], rel=0.15)


# Log records of slow requests as lines of JSON.
REQUESTS = """
import logging
class Lines(logging.Handler):
    def emit(self, record): tell(**record.rprof), sys.stdout.flush()
logging.getLogger("rprof.slow").addHandler(Lines())
async def query(seconds): await asyncio.sleep(seconds)
async def load(): await query(0.5)
"""


def test_the_profile_of_a_request_that_waits_adds_up_to_its_duration(programs):
    out = programs.check(
        PRELUDE
        + REQUESTS
        + """
async def view():
    await query(0.4)
    await asyncio.gather(load(), load())
async def serve():
    with rprof.request("GET /x", route="/x", slow_after=0.2, repeat=0): await view()
async def main():
    event = asyncio.Event()
    others = [asyncio.create_task(wait(event)) for _ in range(3)]
    await serve()
    event.set()
    await asyncio.gather(*others)
asyncio.run(main())
"""
    )
    _, end = map(json.loads, out.splitlines())
    profile = rprof.load(programs.directory / end["profile"])
    own = profile.only_labels({"request task": "own"})
    child = profile.only_labels({"request task": "child"})
    # Its own task is followed from its begin to its end, whatever is drawn.
    assert own.totals["task_wall"] == pytest.approx(end["seconds"] * 1e9, rel=0.02)
    assert child.totals["task_wall"] == pytest.approx(2 * 0.5e9, rel=0.35)
    assert set(profile.labels()["request task"]) == {"own", "child"}
    assert profile.labels()["route"] == ["/x"]
    names = {row.name for row in child.top(20, by="task_wall")}
    assert {"program.load", "program.query", "<gather>"} <= names
    assert "program.wait" not in {row.name for row in profile.top(100, by="task_wall")}
    assert "program.view" in end["where"]
    assert "on no thread" not in end["where"]


def test_of_many_requests_each_adds_up(programs):
    out = programs.check(
        PRELUDE
        + REQUESTS
        + """
async def serve(number):
    with rprof.request(f"{number}", route="/x", slow_after=1.5, repeat=0): await query(2)
async def main():
    # In groups: each has its turn now and then only.
    await asyncio.gather(*(serve(number) for number in range(300)))
with rprof.profile(rate=100) as block: asyncio.run(main())
profile = rprof.recent(60)
own = profile.only_labels({"request task": "own"})
apart = "request task" in block.profile.labels()
tell(own=total(own), all=total(block.profile), own_of_block=apart)
"""
    )
    records = [json.loads(line) for line in out.splitlines()]
    # Some requests are told of after that.
    told = next(record for record in records if "own" in record)
    ends = [record for record in records if "where" in record]
    assert len(ends) > 5
    for end in ends:
        if end["profile"] and (programs.directory / end["profile"]).exists():
            profile = rprof.load(programs.directory / end["profile"])
            assert profile.totals["task_wall"] == pytest.approx(end["seconds"] * 1e9, rel=0.02)
    assert told["own"] == pytest.approx(300 * 2e9, rel=0.1)
    # What is not kept apart by requests has what was drawn by chance.
    assert told["all"] == pytest.approx(300 * 2e9, rel=0.15)
    assert not told["own_of_block"]


def test_the_next_requests_have_where_they_waited(programs):
    told = json.loads(
        programs.check(
            PRELUDE
            + REQUESTS
            + """
async def serve(route):
    with rprof.request("GET", route=route): await load()
async def main():
    await asyncio.gather(*(serve(route) for route in ("/x", "/y") * 3))
capture = rprof.profile_next(3, route="/x")
asyncio.run(main())
profile = capture.result(60)
tell(total=total(profile), durations=capture.durations, stacks=collapsed(profile))
"""
        ).splitlines()[-1]
    )
    assert told["total"] == pytest.approx(sum(told["durations"]) * 1e9, rel=0.02)
    assert share(told["stacks"], "serve", "load", "query") > 0.8 * told["total"]


def test_a_request_within_a_request_has_its_own_time(programs):
    out = programs.check(
        PRELUDE
        + REQUESTS
        + """
async def main():
    with rprof.request("outer", slow_after=0.1, repeat=0):
        await query(0.4)
        with rprof.request("inner", slow_after=0.1, repeat=0): await query(0.6)
        await query(0.4)
asyncio.run(main())
"""
    )
    ends = [record for record in map(json.loads, out.splitlines()) if "where" in record]
    inner = next(end for end in ends if end["request"] == "inner")
    profile = rprof.load(programs.directory / inner["profile"])
    assert profile.totals["task_wall"] == pytest.approx(inner["seconds"] * 1e9, rel=0.02)
