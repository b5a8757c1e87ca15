"""Programs whose wall clock stands still or jumps: no cut goes by it."""

from __future__ import annotations

import json

import pytest
import rprof
from support import ENGINE

# As the test libraries that freeze time do: every way in which Python code asks for it.
FREEZE = """
import time
def freeze(moment):
    real = time.monotonic
    time.time = lambda: float(moment)
    time.time_ns = lambda: moment * 10**9
    time.gmtime = lambda *given, made=time.gmtime: made(*(given or (moment,)))
    time.localtime = lambda *given, made=time.localtime: made(*(given or (moment,)))
    time.monotonic = lambda: float(moment)
    time.monotonic_ns = lambda: moment * 10**9
    time.perf_counter = lambda: float(moment)
    return real
"""
MOMENTS = {"past": 1_000_000_000, "future": 4_000_000_000}


@pytest.mark.parametrize("when", MOMENTS)
def test_the_last_seconds_are_cut_right_while_the_clock_stands_still(programs, when):
    programs.check(
        FREEZE
        + f"""
import rprof
from burning import burn
def early(): burn(0.2)
def late(): burn(0.2)
rprof.start("out/", rate=500, max_overhead=1.0, engine={ENGINE!r})
sleep = time.sleep
early()
end = time.monotonic() + 2.2
while time.monotonic() < end: sleep(0.05)
late()
freeze({MOMENTS[when]})
recent = rprof.recent(0.5)
names = lambda profile: {{row.name for row in profile.top(100)}}
assert "program.late" in names(recent) and "program.early" not in names(recent)
assert {{"program.early", "program.late"}} <= names(rprof.recent(60))
assert 0 < recent.duration_ns < 2 * 10**9, recent.duration_ns
# Where the profile says when it was, that is the time of the system, not of the frozen module.
assert abs(recent.time_ns / 1e9 - {MOMENTS[when]}) > 10**8
"""
    )


@pytest.mark.skipif(ENGINE != "direct", reason="the watcher looks without the GIL")
@pytest.mark.parametrize("when", MOMENTS)
def test_a_slow_request_has_its_profile_while_the_clock_stands_still(programs, when):
    printed = programs.check(
        FREEZE
        + f"""
import json, logging, threading, rprof
from burning import burn
told = threading.Event()
class Lines(logging.Handler):
    def emit(self, record):
        if "took" in record.getMessage():
            print(json.dumps(record.rprof), flush=True)
            told.set()
logging.getLogger("rprof.slow").addHandler(Lines())
freeze({MOMENTS[when]})
with rprof.request("x", route="/x", slow_after=0.05): burn(0.3)
assert told.wait(20)
"""
    )
    (line,) = [json.loads(line) for line in printed.splitlines()]
    assert 0.3 <= line["seconds"] < 20
    profile = rprof.load(programs.directory / line["profile"])
    assert profile.totals["cpu"] > 0.2e9
    assert "burning.burn" in {row.name for row in profile.top(10)}
