"""Which task of trio a thread runs, and which under anyio, by the labels of a recording."""

from __future__ import annotations

import json

import pytest
import rprof
from support import ENGINE

pytestmark = pytest.mark.skipif(ENGINE != "direct", reason="tasks are read by the direct engine")

BEGIN = """
import sys, time, rprof
from burning import burn
async def query(seconds, sleep):
    for _ in range(20):
        burn(seconds)
        await sleep(0)
async def often(sleep): await query(0.03, sleep)
async def seldom(sleep): await query(0.01, sleep)
async def unnamed(sleep): await query(0.01, sleep)
"""
TRIO = """
import trio
async def main():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(often, trio.sleep, name="the first")
        nursery.start_soon(seldom, trio.sleep, name="the second")
        nursery.start_soon(unnamed, trio.sleep)
def run(): trio.run(main)
"""
# anyio imports either only when it runs it.
ANYIO = """
import anyio
__import__(BACKEND)
async def main():
    async with anyio.create_task_group() as group:
        group.start_soon(often, anyio.sleep, name="the first")
        group.start_soon(seldom, anyio.sleep, name="the second")
        group.start_soon(unnamed, anyio.sleep)
def run(): anyio.run(main, backend=BACKEND)
"""


@pytest.mark.parametrize("how", ["trio", "anyio on trio", "anyio on asyncio", "thread"])
def test_samples_have_the_name_of_the_task(programs, how):
    if "asyncio" not in how:
        pytest.importorskip("trio", reason="it is not installed")
    if "anyio" in how:
        pytest.importorskip("anyio", reason="it is not installed")
        program = ANYIO.replace("BACKEND", repr(how.rpartition(" ")[2]))
    else:
        program = TRIO
    run = "run()"
    if how == "thread":
        run = "import threading; t = threading.Thread(target=run); t.start(); t.join()"
    programs.check(
        BEGIN
        + program
        + f"""
with rprof.profile("x.pb.gz", rate=500, max_overhead=1.0):
    {run}
assert rprof.status().last_error is None, rprof.status().last_error
"""
    )
    profile = rprof.load(programs.directory / "x.pb.gz")
    for name, function in (("the first", "often"), ("the second", "seldom")):
        found = profile.only_labels(task=name)
        stacks = [(frames, value) for frames, value in found.stacks("cpu") if value]
        # What the task does itself: anyio has a function of its own around the program's.
        others = {f"program.{name}" for name in ("often", "seldom", "unnamed") if name != function}
        for frames, _ in stacks:
            assert not others & {frame.name for frame in frames}, frames
        rows = {row.name: row.total_value for row in profile.top(100, by="cpu")}
        # Of a step that ends between two looks nothing is known; that is rarer where CPUs are free.
        assert found.totals["cpu"] > 0.9 * rows[f"program.{function}"]


def test_what_runs_between_the_tasks_of_trio_has_no_name(programs):
    pytest.importorskip("trio", reason="it is not installed")
    programs.check(
        BEGIN
        + """
import trio
class Busy(trio.abc.Instrument):
    def before_io_wait(self, timeout): burn(0.01)
async def main():
    for _ in range(30): await trio.sleep(0.001)
with rprof.profile("x.pb.gz", rate=500, max_overhead=1.0):
    trio.run(main, instruments=[Busy()])
"""
    )
    profile = rprof.load(programs.directory / "x.pb.gz")
    for frames, value in profile.only_labels(task="*").stacks("wall"):
        assert not value or "program.Busy.before_io_wait" not in [frame.name for frame in frames]


def test_a_trio_that_keeps_its_tasks_otherwise_is_said(programs):
    pytest.importorskip("trio", reason="it is not installed")
    told = programs.check(
        """
import json, rprof, trio
import trio._core._run as run
class Strange:
    def __setattr__(self, name, value): pass
run.Task = Strange
with rprof.profile(): pass
print(json.dumps(rprof.status().last_error))
"""
    )
    error = json.loads(told.splitlines()[-1])
    assert error.startswith("the tasks of trio cannot be seen: "), error
