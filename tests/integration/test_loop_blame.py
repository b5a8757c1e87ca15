"""Who keeps an event loop busy while callbacks are ready, against what the program knows of it."""

from __future__ import annotations

import pytest
import rprof
from support import ENGINE

pytestmark = pytest.mark.skipif(ENGINE != "direct", reason="loops are read by the direct engine")

BEGIN = """
import asyncio, threading, time, rprof
from burning import burn
async def quick(until):
    while time.monotonic() < until: await asyncio.sleep(0)
def compute(seconds): burn(seconds)
async def hog(until):
    while time.monotonic() < until:
        compute(0.02)
        await asyncio.sleep(0)
async def main():
    until = time.monotonic() + 1.5
    await asyncio.gather(hog(until), *(quick(until) for _ in range(10)))
"""


def blame_of(profile: rprof.Profile, function: str) -> tuple[float, float]:
    """Return the blame and the wall time of a function and what it calls."""
    found = []
    for measure in ("loop_blame", "wall"):
        rows = {row.name: row.total_value for row in profile.top(1000, by=measure)}
        found.append(rows.get(f"program.{function}", 0))
    return found[0], found[1]


RUNNERS = {
    "asyncio": "asyncio.run(main())",
    "uvloop": "import uvloop; uvloop.new_event_loop().run_until_complete(main())",
    "thread": "t = threading.Thread(target=asyncio.run, args=(main(),)); t.start(); t.join()",
    "attributes": """
class Loop(asyncio.SelectorEventLoop):
    def __init__(self):
        self.first = 1
        super().__init__()
        for number in range(40): setattr(self, f"attribute_{number}", number)
        vars(self)
loop = Loop()
loop.run_until_complete(main())
loop.close()
""",
    "twice": "asyncio.run(asyncio.sleep(0.1)); asyncio.run(main())",
}


@pytest.mark.parametrize("runner", list(RUNNERS))
def test_each_callback_that_waits_weighs_on_what_keeps_the_loop(programs, runner):
    if runner == "uvloop":
        pytest.importorskip("uvloop", reason="it has no wheel for this Python")
    programs.check(
        BEGIN
        + f"""
with rprof.profile("x.pb.gz", rate=200, max_overhead=1.0):
    {"exec(" + repr(RUNNERS[runner]) + ")"}
assert rprof.status().last_error is None, rprof.status().last_error
"""
    )
    profile = rprof.load(programs.directory / "x.pb.gz")
    blame, wall = blame_of(profile, "compute")
    assert wall > 1e9
    # The ten that wait for their turn all the time.
    assert blame / wall == pytest.approx(10, abs=0.5)
    assert blame > 0.9 * profile.totals["loop_blame"]


def test_a_loop_that_has_nothing_to_do_blames_nobody(programs):
    programs.check(
        BEGIN
        + """
async def alone():
    for _ in range(20):
        await asyncio.sleep(0.01)
        burn(0.01)
with rprof.profile("x.pb.gz", rate=200, max_overhead=1.0):
    asyncio.run(alone())
    # Nor does what runs no loop any more.
    burn(0.3)
"""
    )
    profile = rprof.load(programs.directory / "x.pb.gz")
    assert profile.totals["loop_blame"] < 0.02 * profile.totals["wall"], profile.totals


def test_a_step_that_sleeps_is_blamed_all_the_time(programs):
    programs.check(
        BEGIN
        + """
async def sleeper():
    time.sleep(0.5)
async def both():
    await asyncio.gather(sleeper(), asyncio.sleep(0), asyncio.sleep(0))
with rprof.profile("x.pb.gz", rate=200, max_overhead=1.0):
    asyncio.run(both())
"""
    )
    profile = rprof.load(programs.directory / "x.pb.gz")
    blame, wall = blame_of(profile, "sleeper")
    assert wall > 0.4e9
    assert blame / wall == pytest.approx(2, abs=0.1)
