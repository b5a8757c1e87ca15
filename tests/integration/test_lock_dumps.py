"""Dumps tell for what each thread waits, who holds it, and who waits for each other."""

from __future__ import annotations

import signal

import pytest
from lock_programs import PREAMBLE, PROGRAM
from support import ENGINE, eventually

pytestmark = pytest.mark.skipif(ENGINE != "direct", reason="locks are read by the direct engine")

TOLD = """
def told():
    "For each thread what its dump says of its lock, with a place instead of numbers."
    waits = {}
    for block in rprof.dump().split("\\n\\n"):
        head, *lines = block.splitlines()
        if head.startswith("Thread "):
            said = [line.strip() for line in lines if line.startswith("  waits for ")]
            waits[head.split('"')[1]] = re.sub(r"Thread \\d+ |:\\d+", "", said[0]) if said else ""
    return waits
"""


def test_each_thread_says_what_it_waits_for_and_who_has_it(programs):
    programs.check(
        "import re\n"
        + PREAMBLE
        + PROGRAM
        + TOLD
        + """
by = ' by "{}" in program.pause (' + __file__ + ")"
held, kept = "held" + by, "kept waiting" + by
expected = {
    "use": "waits for Lock Pool._lock, " + held.format("hold"),
    "use too": "waits for Lock Pool._lock, " + held.format("hold"),
    "use_reentrant": "waits for RLock Pool._reentrant, " + held.format("hold_reentrant"),
    "use_condition": "waits for Lock Pool._condition, " + held.format("hold_condition"),
    "use_shared": "waits for multiprocessing.Lock program.SHARED, " + held.format("hold_shared"),
    "join": "waits for Thread program.holder, " + kept.format("hold"),
    "result": "waits for Future program.future, " + kept.format("ThreadPoolExecutor-0_0"),
    "use_bare": "waits for Lock program.BARE, held by <unknown holder>",
    "get": "waits for Queue program.jobs",
    "get simply": "waits for SimpleQueue program.simple",
    "event": "waits for Event program.event",
    "semaphore": "waits for Semaphore program.semaphore",
    **dict.fromkeys(["hold", "hold_reentrant", "hold_condition", "hold_bare", "hold_shared"], ""),
    "MainThread": "",
    "ThreadPoolExecutor-0_0": "",
}
found = told()
assert found == expected, {name: said for name, said in found.items() if said != expected.get(name)}
assert "deadlock" not in rprof.dump()
os._exit(0)
"""
    )


# Four threads in a circle, one that is kept waiting by it, and one that waits for itself.
CIRCLE = """
names = ["north", "east", "south", "west"]
locks = [threading.Lock() for _ in names]
met = threading.Barrier(len(names))
ended = threading.Lock()
def around(at):
    def wait():
        with locks[at]:
            met.wait()
            locks[(at + 1) % len(names)].acquire(timeout=TIMEOUT)
    return wait
def outside():
    with locks[0]:
        pass
def again():
    with ended:
        with ended:
            pass
"""


@pytest.mark.parametrize("timeout", [-1, 600])
def test_those_who_wait_for_each_other_are_told_as_such(programs, timeout):
    programs.check(
        "import json, urllib.request\n"
        + PREAMBLE
        + f"TIMEOUT = {timeout}\n"
        + CIRCLE
        + """
def get(how):
    with urllib.request.urlopen(f"http://{endpoint.address}/debug/pprof/threads?{how}") as answer:
        return answer.read().decode()
begin(*((name, around(at)) for at, name in enumerate(names)))
begin(("outside", outside), ("again", again))
# It knows the names of now.
endpoint = rprof.serve("127.0.0.1:0")
until = "" if TIMEOUT < 0 else " until a timeout"
for text in (rprof.dump(), get("debug=1"), get("debug=2")):
    said = sorted(line for line in text.splitlines() if line.startswith("deadlock"))
    own, circle = sorted(said, key=len)
    assert own.startswith('deadlock: Thread ') and own.count('"again"') == 2, own
    assert own.count("waits for Lock program.ended held by") == 1, own
    assert circle.startswith(f"deadlock{until}: "), circle
    waits = circle.partition(": ")[2].split(", ")
    assert all(" waits for Lock " in wait for wait in waits), circle
    pairs = {tuple(wait.split('"')[1::2]) for wait in waits}
    assert pairs == set(zip(names, names[1:] + names[:1])), pairs
    assert text.rstrip().splitlines()[-1].startswith("deadlock"), text
data = json.loads(get("format=json"))
ids = {thread["id"]: thread["name"] for thread in data["threads"]}
circles = [([ids[id] for id in one["threads"]], one["has_timeout"]) for one in data["deadlocks"]]
(own, around), = [sorted(circles, key=lambda one: len(one[0]))]
assert own == (["again"], False)
at = around[0].index("north")
assert around == (names[-at:] + names[:-at] if at else names, TIMEOUT > 0), around
locks = {thread["name"]: thread["lock"] for thread in data["threads"]}
assert locks["MainThread"] is None
lock = locks["outside"]
assert lock["holder"] == "north" and ids[lock["holder_id"]] == "north", lock
assert not lock["has_timeout"] and lock["name"].startswith("Lock "), lock
os._exit(0)
"""
    )


def test_a_dump_on_a_signal_tells_while_the_gil_is_stuck(programs):
    program = programs.start(
        "import signal\n"
        + PREAMBLE
        + """
one, two = threading.Lock(), threading.Lock()
met = threading.Barrier(2)
def first():
    with one:
        met.wait()
        with two:
            pass
def second():
    with two:
        met.wait()
        with one:
            pass
begin(("first", first), ("second", second))
rprof.dump_on_signal(signal.SIGUSR2, "dump.txt")
print("set up", flush=True)
sum(range(10**15))
"""
    )
    assert program.stdout.readline() == "set up\n"
    path = programs.directory / "dump.txt"

    def dump() -> str:
        program.send_signal(signal.SIGUSR2)
        text = path.read_text() if path.exists() else ""
        return text if "holds the GIL" in text and "deadlock: " in text else ""

    text = eventually(dump, "a deadlock beside a thread that keeps the GIL")
    assert "waits for Lock program.two, held by Thread " in text
    line, *_ = (line for line in text.splitlines() if line.startswith("deadlock: "))
    assert line.count('"first"') == line.count('"second"') == 2


def test_no_dump_shows_a_lock_with_one_who_waits_for_it(programs):
    # A convoy: whoever was waiting may have the lock a moment later.
    programs.check(
        PREAMBLE
        + """
lock = threading.Lock()
is_over = threading.Event()
def work():
    while not is_over.is_set():
        with lock:
            sum(range(100))
threads = [threading.Thread(target=work, name=f"work {at}") for at in range(8)]
for thread in threads: thread.start()
told = set()
for _ in range(200):
    text = rprof.dump()
    assert "deadlock" not in text, text
    told.update(line for line in text.splitlines() if line.startswith("  waits for "))
is_over.set()
for thread in threads: thread.join()
assert any("waits for Lock program.lock" in line for line in told), told
"""
    )


TASKS = """
import asyncio, json, os, re, sys, urllib.request, rprof
class Pool:
    def __init__(self):
        self._lock = asyncio.Lock()
        self._condition = asyncio.Condition()
        self._free = asyncio.Semaphore(0)
        self.jobs = asyncio.Queue()
        self.ended = asyncio.Event()
    async def hold(self):
        async with self._lock:
            await forever()
    async def use(self):
        async with self._lock:
            pass
    async def acquire(self):
        await self._lock.acquire()
    async def hold_condition(self):
        async with self._condition:
            await forever()
    async def use_condition(self):
        async with self._condition:
            pass
    async def notified(self):
        async with self._condition:
            await self._condition.wait()
    async def take(self):
        async with self._free:
            pass
    async def get(self):
        await self.jobs.get()
    async def join(self):
        await self.jobs.join()
    async def wait(self):
        await self.ended.wait()
async def forever():
    await asyncio.get_running_loop().create_future()
async def hold_bare(bare):
    await bare.acquire()
    await forever()
async def use_bare(bare):
    await bare.acquire()
async def wait_for(event):
    await asyncio.wait_for(event.wait(), 600)
async def settle():
    for _ in range(20): await asyncio.sleep(0)
def look():
    with urllib.request.urlopen(f"http://{address}/debug/pprof/threads?format=json") as answer:
        return json.load(answer)
"""


def test_tasks_say_what_they_wait_for_and_who_has_it(programs):
    programs.check(
        TASKS
        + """
async def main():
    global address
    pool, bare, event = Pool(), asyncio.Lock(), asyncio.Event()
    pool.jobs.put_nowait(1)
    empty = Pool()
    ways = {
        "hold": pool.hold(), "use": pool.use(), "acquire": pool.acquire(),
        "notified": pool.notified(),
        "hold_condition": pool.hold_condition(), "use_condition": pool.use_condition(),
        "take": pool.take(), "get": empty.get(), "join": pool.join(), "wait": pool.wait(),
        "hold_bare": hold_bare(bare), "use_bare": use_bare(bare), "wait_for": wait_for(event),
    }
    tasks = [asyncio.create_task(way, name=name) for name, way in ways.items()]
    await settle()
    text = rprof.dump()
    address = rprof.serve("127.0.0.1:0").address
    data = await asyncio.get_running_loop().run_in_executor(None, look)
    told = {}
    for block in text.split("\\n\\n"):
        # A task below another one has its own line.
        head, *lines = block.splitlines()
        if head.startswith('Task "'):
            said = [line for line in lines if line.startswith("  waits for asyncio.")]
            said = re.sub(r"in (\\S+) \\(.*\\)", r"in \\1", said[0]) if said else ""
            told[head.split('"')[1]] = said
    forever = "in program.forever"
    by_hold = f', held by Task "hold" {forever}'
    by_condition = f', held by Task "hold_condition" {forever}'
    expected = {
        "hold": "", "hold_condition": "", "hold_bare": "",
        "use": "asyncio.Lock Pool._lock" + by_hold,
        "acquire": "asyncio.Lock Pool._lock" + by_hold,
        "use_condition": "asyncio.Lock Pool._condition" + by_condition,
        # Who waits for news of a condition has given its lock back.
        "notified": "asyncio.Condition Pool._condition",
        "take": "asyncio.Semaphore Pool._free",
        "get": "asyncio.Queue Pool.jobs",
        "join": "asyncio.Queue Pool.jobs",
        "wait": "asyncio.Event Pool.ended",
        "use_bare": "asyncio.Lock bare, held by <unknown holder>",
    }
    if sys.version_info >= (3, 12):
        # Before, the waiting is done by a task of its own.
        expected["wait_for"] = "asyncio.Event in program.wait_for"
    for name, said in expected.items():
        assert told[name] == (said and "  waits for " + said), (name, told[name], said)
    locks = {task["name"]: task["lock"] for task in data["tasks"]}
    assert locks["hold"] is None and locks["get"]["holder"] is None
    assert locks["use"]["holder"] == "hold", locks["use"]
    assert data["tasks"][locks["use"]["holder_index"]]["name"] == "hold"
    assert locks["use_bare"]["holder"] == "<unknown holder>"
    assert data["deadlocks"] == [] and "deadlock" not in text
    sys.stdout.flush()
    os._exit(0)
asyncio.run(main())
"""
    )


def test_tasks_that_wait_for_each_other_are_told_as_such(programs):
    programs.check(
        TASKS
        + """
async def both(first, second, event):
    async with first:
        await event.wait()
        async with second:
            pass
async def main():
    global address
    one, two, event = asyncio.Lock(), asyncio.Lock(), asyncio.Event()
    tasks = [
        asyncio.create_task(both(one, two, event), name="to two"),
        asyncio.create_task(both(two, one, event)),
    ]
    await settle()
    assert "deadlock" not in rprof.dump()
    event.set()
    await settle()
    (line,) = [line for line in rprof.dump().splitlines() if line.startswith("deadlock")]
    line = re.sub(r"\\(.*?\\)", "()", line)
    ours, other = 'Task "to two"', "Task in program.both ()"
    lock = "asyncio.Lock second"
    assert line in {
        f"deadlock: {a} waits for {lock} held by {b}, {b} waits for {lock} held by {a}"
        for a, b in ((ours, other), (other, ours))
    }, line
    address = rprof.serve("127.0.0.1:0").address
    data = await asyncio.get_running_loop().run_in_executor(None, look)
    (circle,) = data["deadlocks"]
    names = {data["tasks"][index]["name"] for index in circle["tasks"]}
    assert names == {"to two", None}, names
    os._exit(0)
asyncio.run(main())
"""
    )
