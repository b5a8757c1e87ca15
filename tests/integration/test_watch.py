"""Watchdogs: stalled event loops, deadlocks, sudden growth."""

from __future__ import annotations

import json
import signal

import pytest
import rprof
from support import ENGINE

pytestmark = pytest.mark.skipif(ENGINE != "direct", reason="the watcher looks without the GIL")

LOG = """
import asyncio, json, logging, os, sys, threading, time, rprof
from burning import burn
told = threading.Event()
class Lines(logging.Handler):
    def emit(self, record):
        line = {"logger": record.name, "text": record.getMessage(), **record.rprof}
        sys.stdout.write(json.dumps(line) + "\\n")
        sys.stdout.flush()
        told.set()
logging.getLogger("rprof.watch").addHandler(Lines())
"""


def records(text):
    return [json.loads(line) for line in text.splitlines()]


def test_a_stalled_loop_is_told_with_what_keeps_it(programs):
    found = records(
        programs.check(
            LOG
            + """
def culprit():
    end = time.monotonic() + 0.6
    while time.monotonic() < end: pass
async def main():
    watched = rprof.watch_loop(stall=0.2, name="mine")
    for _ in range(20): await asyncio.sleep(0.01)
    culprit()
    while not ends.is_set(): await asyncio.sleep(0.01)
    watched.stop()
ends = threading.Event()
class Ends(logging.Handler):
    def emit(self, record):
        if "turns again" in record.getMessage(): ends.set()
logging.getLogger("rprof.watch").addHandler(Ends())
asyncio.run(main())
"""
        )
    )
    stall, end = found
    assert stall["loop"] == end["loop"] == "mine"
    assert stall["seconds"] >= 0.2
    assert "program.culprit" in stall["stack"]
    assert "turns again" in end["text"]
    assert end["seconds"] >= 0.5


def test_the_culprit_may_be_c_code_that_keeps_the_gil(programs):
    found = records(
        programs.check(
            LOG
            + """
def culprit():
    # One call, which lets nobody else have the GIL.
    sum(range(size))
size = 10_000_000
async def main():
    global size
    rprof.watch_loop(stall=0.1)
    while not told.is_set():
        culprit()
        size = min(10 * size, 10**9) if not told.is_set() else size
        await asyncio.sleep(0.05)
asyncio.run(main())
"""
        )
    )
    assert "program.culprit" in found[0]["stack"]
    assert "holds the GIL" in found[0]["stack"]


LOOPS = {
    "asyncio": "run = asyncio.run",
    "a runner": """
def run(main):
    loop = asyncio.new_event_loop()
    try: loop.run_until_complete(main)
    finally: loop.close()
""",
    "uvloop": """
import uvloop
def run(main):
    loop = uvloop.new_event_loop()
    try: loop.run_until_complete(main)
    finally: loop.close()
""",
}


@pytest.mark.parametrize("kind", LOOPS)
def test_a_loop_that_has_ended_is_not_stalled(programs, kind):
    """Nor does it take the place of others; one that stands still while it runs is told."""
    if kind == "uvloop":
        pytest.importorskip("uvloop", reason="it is not installed")
    found = records(
        programs.check(
            LOG
            + LOOPS[kind]
            + """
kept = []
async def short(): kept.append(rprof.watch_loop(stall=0.05, name="short"))
async def main():
    rprof.watch_loop(stall=0.3, name="long")
    # By now those that have ended have stood still for longer than they may.
    end = time.monotonic() + 1.0
    while time.monotonic() < end: pass
    while not told.is_set(): await asyncio.sleep(0.01)
# More than are watched at once.
for _ in range(100): run(short())
time.sleep(0.2)
run(main())
"""
        )
    )
    assert {record["loop"] for record in found} == {"long"}


def test_a_loop_that_nobody_runs_at_the_moment_is_not_stalled(programs):
    found = records(
        programs.check(
            LOG
            + """
loop = asyncio.new_event_loop()
async def begin():
    global watched
    watched = rprof.watch_loop(stall=0.05, name="between")
    await asyncio.sleep(0.1)
loop.run_until_complete(begin())
# Longer than it may stand still, and another that does tells that everything was looked at.
async def main():
    rprof.watch_loop(stall=0.2, name="other")
    time.sleep(1.0)
    while not told.is_set(): await asyncio.sleep(0.01)
asyncio.run(main())
loop.run_until_complete(asyncio.sleep(0.1))
loop.close()
"""
        )
    )
    assert {record["loop"] for record in found} == {"other"}


def test_a_deadlock_is_suspected_and_told_once(programs):
    found = records(
        programs.check(
            LOG
            + """
rprof.start("out/", rate=200)
one, two = threading.Lock(), threading.Lock()
met = threading.Barrier(2)
def first():
    with one:
        met.wait()
        two.acquire()
def second():
    with two:
        met.wait()
        one.acquire()
threads = [threading.Thread(target=f, name=f.__name__, daemon=True) for f in (first, second)]
rprof.watch(deadlock=0.5)
for thread in threads: thread.start()
# Waits for a lock as well, so that nobody is left to do anything.
told.wait()
"""
        )
    )
    (deadlock,) = found
    assert deadlock["seconds"] >= 0.5
    for name in ("first", "second"):
        assert f"in program.{name}" in deadlock["text"]
    assert "waits for a lock" in deadlock["text"]
    assert "\ndeadlock: Thread " in deadlock["text"]
    profile = rprof.load(programs.directory / deadlock["profile"])
    assert {"first", "second"} <= {thread.name for thread in profile.threads}


def test_threads_that_wait_for_each_other_beside_one_that_works_are_told(programs):
    found = records(
        programs.check(
            LOG
            + """
lock = threading.Lock()
def again():
    with lock:
        with lock:
            pass
threading.Thread(target=again, name="again", daemon=True).start()
rprof.watch(deadlock=0.5)
while not told.is_set():
    sum(range(1000))
"""
        )
    )
    (deadlock,) = found
    assert deadlock["seconds"] >= 0.5
    line = deadlock["text"].rstrip().splitlines()[-1]
    assert line.startswith("deadlock: Thread ")
    assert line.count('"again"') == 2


def test_who_waits_for_something_else_is_no_deadlock(programs):
    found = records(
        programs.check(
            LOG
            + """
lock = threading.Lock()
lock.acquire()
threading.Thread(target=lock.acquire, daemon=True).start()
rprof.watch(deadlock=0.2)
async def main():
    # That this one stands still is told by whoever looks for deadlocks, and has looked by then.
    rprof.watch_loop(stall=0.6, name="witness")
    while not told.is_set():
        time.sleep(1.2)
        await asyncio.sleep(0)
asyncio.run(main())
"""
        )
    )
    assert {record.get("loop") for record in found} == {"witness"}


def test_growth_of_memory_is_told_with_the_last_minutes(programs):
    found = records(
        programs.check(
            LOG
            + """
def hoard():
    return bytearray(os.urandom(1 << 20)) * 100
rprof.start("out/", rate=200)
rprof.watch(rss=64 << 20)
kept = []
while not told.is_set() and len(kept) < 20:
    kept.append(hoard())
    told.wait(1.2)
"""
        )
    )
    (step,) = found
    assert step["kind"] == "rss"
    assert step["to"] - step["from"] >= 64 << 20
    assert "MiB" in step["text"]
    assert rprof.load(programs.directory / step["profile"]).totals["samples"]


def test_what_has_the_memory_survives_a_kill(programs):
    done = programs.run(
        LOG
        + """
import signal
def hoard():
    return bytearray(os.urandom(1 << 20)) * 100
rprof.start("out/", memory=True, window=3600)
rprof.watch(rss=64 << 20)
kept = []
while not told.is_set() and len(kept) < 20:
    kept.append(hoard())
    told.wait(1.2)
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    (step,) = records(done.stdout)
    assert "in use in Python" in step["text"]
    account = step["account"]
    assert account["resident"] > account["anonymous"] > 64 << 20
    # What Python has is among what malloc has, for the blocks are large.
    assert account["malloc_used"] > 64 << 20
    assert account["python"] == pytest.approx(account["malloc_used"], rel=0.3)
    left = sorted((programs.directory / "out").glob("rss-*"))
    assert [path.name.endswith(".heap.pb.gz") for path in left] == [True, False]
    heap = rprof.load(left[0])
    assert programs.directory / step["heap"] == left[0]
    assert heap.top(1, by="inuse_space")[0].name.endswith("hoard")
    assert heap.facts["memory_resident_bytes"] > 64 << 20
    assert heap.facts["memory_malloc_used_bytes"] > 64 << 20


def test_cpu_in_use_is_told(programs):
    found = records(
        programs.check(
            LOG
            + """
rprof.watch(cpu=0.2)
while not told.is_set(): burn(0.05)
"""
        )
    )
    assert found[0]["kind"] == "cpu"
    assert found[0]["to"] >= 0.2


def test_watching_goes_on_after_a_fork(programs):
    found = records(
        programs.check(
            LOG
            + """
async def main():
    rprof.watch_loop(stall=0.1)
    await asyncio.sleep(0)
    child = os.fork()
    if child == 0: os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    while not told.is_set():
        time.sleep(0.2)
        await asyncio.sleep(0.05)
asyncio.run(main())
"""
        )
    )
    assert "in program.main" in found[0]["stack"]


def test_watching_ends_with_the_process_and_before_a_fork(programs):
    programs.check(
        """
        import os, time, rprof
        OURS = {"rprof-reporter", "rprof-watch"}
        def threads():
            found = set()
            for thread in os.listdir("/proc/self/task"):
                with open(f"/proc/self/task/{thread}/comm") as name: found.add(name.read().strip())
            return found
        rprof.watch(deadlock=100, cpu=100, rss=1 << 40)
        def await_ours():
            # A thread takes its name after it has begun.
            end = time.monotonic() + 30
            while not OURS <= threads(): assert time.monotonic() < end, threads()
        await_ours()
        child = os.fork()
        if child == 0:
            assert not OURS & threads(), threads()
            rprof.watch(deadlock=100)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        await_ours()
        rprof.watch(cpu=100)
        rprof.watch()
        """
    )
