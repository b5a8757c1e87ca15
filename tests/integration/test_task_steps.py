"""Steps of asyncio's tasks, counted one by one, against what the program knows of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support import ENGINE

pytestmark = pytest.mark.skipif(ENGINE != "direct", reason="what tasks are is learnt by its reader")

PRELUDE = """
import json, os, sys, threading, time
import rprof
def tell():
    rows = {row.coroutine.rpartition(".")[2]: row._asdict() for row in rprof.task_steps()}
    print(json.dumps(rows))
"""

COUNTED = """
async def short(times):
    for _ in range(times): await asyncio.sleep(0)
async def woken(queue, times):
    for _ in range(times): await queue.get()
async def feed(queue, times):
    for _ in range(times):
        queue.put_nowait(None)
        await asyncio.sleep(0)
async def blocked():
    await asyncio.sleep(0)
    time.sleep(0.15)
async def computed():
    await asyncio.sleep(0)
    until = time.thread_time() + 0.12
    while time.thread_time() < until: pass
async def main():
    queue = asyncio.Queue()
    await asyncio.gather(
        *(short(100) for _ in range(3)), woken(queue, 50), feed(queue, 50), blocked(), computed(),
    )
"""

RUNNERS = {
    "asyncio": "asyncio.run(main())\n",
    "uvloop": "import uvloop\nuvloop.new_event_loop().run_until_complete(main())\n",
    "thread": "thread = threading.Thread(target=asyncio.run, args=(main(),))\n"
    "thread.start(); thread.join()\n",
}


def check(told: dict[str, Any]) -> None:
    """Compare with what `COUNTED` does."""
    # The first step, and one after each time that it has given way.
    assert told["short"]["steps"] == 3 * 101
    # It has begun before anything was there.
    assert told["woken"]["steps"] == 51
    assert told["feed"]["steps"] == 51
    assert told["blocked"]["steps"] == told["computed"]["steps"] == 2
    for row in told.values():
        assert 0 <= row["cpu"] <= row["run"]
        assert row["run"] / row["steps"] <= row["longest"] <= row["run"]
    blocked, computed = told["blocked"], told["computed"]
    assert blocked["longest"] >= 0.15
    assert blocked["cpu"] < 0.05
    assert computed["cpu"] >= 0.12 - 0.001
    assert (blocked["stalls"], computed["stalls"]) == (1, 1)
    assert told["woken"]["stalls"] == 0


@pytest.mark.parametrize("runner", RUNNERS)
def test_every_step_is_counted(programs, runner):
    if runner == "uvloop":
        pytest.importorskip("uvloop", reason="it has no wheel for this Python")
    start = "import asyncio\nrprof.start(output=None, task_steps=True)\n"
    check(json.loads(programs.check(PRELUDE + start + COUNTED + RUNNERS[runner] + "tell()\n")))


def test_asyncio_may_be_imported_later(programs):
    late = """
rprof.start(output=None, task_steps=True)
assert rprof.task_steps() == []
import asyncio
rprof.dump()
"""
    check(json.loads(programs.check(PRELUDE + late + COUNTED + RUNNERS["asyncio"] + "tell()\n")))


def test_nothing_is_counted_that_was_not_asked_for(programs):
    told = programs.check(
        PRELUDE
        + """
import asyncio
async def step(): await asyncio.sleep(0)
rprof.start(output=None)
asyncio.run(step())
try: rprof.task_steps()
except rprof.RprofStateError as error: print(error)
rprof.stop()
rprof.start(output=None, task_steps=True)
asyncio.run(step())
first = rprof.task_steps()
rprof.stop()
asyncio.run(step())
rprof.start(output=None, task_steps=True)
print([row.steps for row in first if row.coroutine == 'program.step'], rprof.task_steps())
"""
    )
    refused, counted = told.splitlines()
    assert refused == "steps are not counted; call rprof.start(task_steps=True) first"
    assert counted == "[2] []"


def test_what_a_step_raises_reaches_the_loop(programs):
    told = programs.check(
        PRELUDE
        + """
import asyncio
rprof.start(output=None, task_steps=True)
async def failing():
    await asyncio.sleep(0)
    raise ValueError("of the task")
async def leaving():
    await asyncio.sleep(0)
    raise KeyboardInterrupt
async def cancelled(): await asyncio.sleep(3600)
async def main():
    task = asyncio.create_task(cancelled())
    await asyncio.sleep(0)
    task.cancel()
    raised = await asyncio.gather(failing(), task, return_exceptions=True)
    print([type(one).__name__ for one in raised])
    await asyncio.create_task(leaving())
try: asyncio.run(main())
except KeyboardInterrupt: print("left")
print(sorted((row.coroutine.rpartition(".")[2], row.steps) for row in rprof.task_steps()
             if row.coroutine.startswith("program.") and "main" not in row.coroutine))
"""
    )
    raised, left, counted = told.splitlines()
    assert raised == "['ValueError', 'CancelledError']"
    assert left == "left"
    assert counted == "[('cancelled', 2), ('failing', 2), ('leaving', 2)]"


def test_a_child_counts_its_own(programs):
    told = programs.check(
        PRELUDE
        + """
import asyncio
async def step(): await asyncio.sleep(0)
rprof.start(output=None, task_steps=True)
asyncio.run(step())
child = os.fork()
if child == 0:
    asyncio.run(step())
    rprof.dump()
    tell()
    sys.stdout.flush()
    os._exit(0)
os.waitpid(child, 0)
"""
    )
    assert json.loads(told)["step"]["steps"] == 2


def test_the_endpoint_has_the_same(programs):
    told = programs.check(
        PRELUDE
        + """
import asyncio, urllib.error, urllib.request
endpoint = rprof.serve("127.0.0.1:0")
def fetch():
    url = f"http://{endpoint.address}/debug/pprof/task_steps"
    with urllib.request.urlopen(url) as answer: return answer.read().decode()
try: fetch()
except urllib.error.HTTPError as error: print(error.code)
rprof.start(output=None, task_steps=True)
async def step(): await asyncio.sleep(0)
asyncio.run(step())
print(fetch())
"""
    )
    code, head, row = told.splitlines()[:3]
    assert code == "404"
    assert head.split() == ["steps", "run", "s", "cpu", "s", "longest", "s", "stalls", "coroutine"]
    assert (row.split()[0], row.split()[-1]) == ("2", "program.step")
