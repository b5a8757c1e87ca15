"""Which locks of asyncio tasks wait for, and which task holds them, in recordings."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
import rprof
from support import ENGINE

pytestmark = pytest.mark.skipif(
    ENGINE != "direct" or sys.platform != "linux", reason="the direct engine reads tasks"
)

PRELUDE = """
import asyncio, json, os, random, sys, threading, time, rprof
from burning import burn
class Pool:
    def __init__(self):
        self._lock = asyncio.Lock()
        self._condition = asyncio.Condition()
        self._free = asyncio.Semaphore(0)
        self.jobs = asyncio.Queue()
        self.ended = asyncio.Event()
    async def hold(self):
        async with self._lock: await forever()
    async def use(self):
        async with self._lock: pass
    async def acquire(self): await self._lock.acquire()
    async def hold_condition(self):
        async with self._condition: await forever()
    async def use_condition(self):
        async with self._condition: pass
    async def notified(self):
        async with self._condition: await self._condition.wait()
    async def take(self):
        async with self._free: pass
    async def get(self): await self.jobs.get()
    async def wait(self): await self.ended.wait()
async def forever(): await asyncio.get_running_loop().create_future()
async def settle():
    for _ in range(20): await asyncio.sleep(0)
async def recorded(seconds=0.7, **options):
    with rprof.profile(rate=100, max_overhead=1.0, **options) as block:
        await asyncio.sleep(seconds)
    return block.profile
def shares(profile, by):
    told = {}
    for line in profile.to_collapsed(by=by).splitlines():
        stack, _, value = line.partition(";")[2].rpartition(" ")
        if float(value): told[stack] = told.get(stack, 0) + float(value)
    return told
def found(profile):
    "For each lock who waits, who is blamed, and both sums."
    locks = {}
    for name in profile.labels().get("lock", []):
        if not name.startswith("asyncio."): continue
        part = profile.only_labels(lock=name)
        locks[name] = [shares(part, "lock_wait"), shares(part, "lock_blame"),
                       part.totals["lock_wait"], part.totals["lock_blame"]]
    return locks
def tell(**facts): sys.stdout.write(json.dumps(facts) + "\\n"), sys.stdout.flush()
"""


@pytest.fixture
def ask(programs):
    """Run a program, and return what it tells."""

    def run(program: str, main: str = "asyncio.run(main())") -> dict[str, Any]:
        out = programs.check(f"{PRELUDE}{program}\n{main}\n")
        return dict(json.loads(out.splitlines()[-1]))

    return run


def share(stacks: dict[str, float], function: str) -> float:
    """Return the share of the stacks in which this function of the program is."""
    has = sum(value for stack, value in stacks.items() if f".{function};" in f"{stack};")
    return has / (sum(stacks.values()) or 1)


RUNNERS = {
    "asyncio": "asyncio.run(main())",
    "uvloop": "import uvloop; uvloop.new_event_loop().run_until_complete(main())",
    "thread": "t = threading.Thread(target=asyncio.run, args=(main(),)); t.start(); t.join()",
}


@pytest.mark.parametrize("runner", RUNNERS)
def test_each_lock_has_its_name_and_its_holder(ask, runner):
    if runner == "uvloop":
        pytest.importorskip("uvloop", reason="it is not installed")
    told = ask(
        """
async def hold_bare(bare):
    await bare.acquire()
    await forever()
async def use_bare(bare): await bare.acquire()
async def main():
    pool, bare = Pool(), asyncio.Lock()
    ways = {
        "hold": pool.hold(), "use": pool.use(), "acquire": pool.acquire(),
        "notified": pool.notified(),
        "hold_bare": hold_bare(bare), "use_bare": use_bare(bare),
        "take": pool.take(), "get": pool.get(), "wait": pool.wait(),
    }
    tasks = [asyncio.create_task(way, name=name) for name, way in ways.items()]
    await settle()
    tasks += [asyncio.create_task(pool.hold_condition(), name="hold_condition")]
    tasks += [asyncio.create_task(pool.use_condition(), name="use_condition")]
    await settle()
    profile = await recorded()
    by_task = {
        name: profile.only_labels(task=name).totals for name in profile.labels()["task"]
    }
    tell(locks=found(profile), by_task=by_task, wall=profile.duration_ns)
    os._exit(0)
""",
        RUNNERS[runner],
    )
    expected = {
        "asyncio.Lock Pool._lock": (["use", "acquire"], "hold"),
        "asyncio.Lock Pool._condition": (["use_condition"], "hold_condition"),
        "asyncio.Lock bare": (["use_bare"], "<unknown holder>"),
        "asyncio.Condition Pool._condition": (["notified"], None),
        "asyncio.Semaphore Pool._free": (["take"], None),
        "asyncio.Queue Pool.jobs": (["get"], None),
        "asyncio.Event Pool.ended": (["wait"], None),
    }
    assert sorted(told["locks"]) == sorted(expected)
    for name, (waiters, holder) in expected.items():
        waits, blamed, wait, blame = told["locks"][name]
        assert wait == pytest.approx(len(waiters) * told["wall"], rel=0.25), name
        assert all(share(waits, waiter) > 0 for waiter in waiters), (name, waits)
        assert blame == (wait if holder else 0), (name, wait, blame)
        if holder == "<unknown holder>":
            assert set(blamed) == {holder}, (name, blamed)
        elif holder:
            assert share(blamed, holder) == 1 == share(blamed, "forever"), (name, blamed)
    by_task = told["by_task"]
    # Each waits as long as it lives, and the holder is blamed for both of them.
    for name in ("use", "acquire", "use_condition", "use_bare", "take", "get", "wait"):
        assert by_task[name]["lock_wait"] == by_task[name]["task_wall"] > 0, name
    assert by_task["hold"]["lock_wait"] == 0
    waited = by_task["use"]["lock_wait"] + by_task["acquire"]["lock_wait"]
    assert by_task["hold"]["lock_blame"] == waited
    assert by_task["notified"]["lock_blame"] == 0


# One task has the lock for three quarters of the time in one function, and else in another.
HOLDING = """
class Cache:
    def __init__(self):
        self._lock = asyncio.Lock()
    async def load(self):
        async with self._lock: await asyncio.sleep(0.06 * random.uniform(0.7, 1.3))
    async def store(self):
        async with self._lock: await asyncio.sleep(0.02 * random.uniform(0.7, 1.3))
    async def get(self):
        global waited
        began = time.monotonic()
        async with self._lock: waited += time.monotonic() - began
async def fill(cache):
    while True:
        await cache.load()
        await cache.store()
async def serve(cache):
    while True:
        await cache.get()
        await asyncio.sleep(0.001)
waited = 0
"""


@pytest.mark.parametrize(("waiting", "others"), [(5, 0), (100, 900)])
def test_waits_are_blamed_on_who_holds_the_lock_by_its_shares(ask, waiting, others):
    told = ask(
        HOLDING
        + f"""
async def main():
    global waited
    cache = Cache()
    tasks = [asyncio.create_task(fill(cache), name="fill")]
    tasks += [asyncio.create_task(serve(cache)) for _ in range({waiting})]
    tasks += [asyncio.create_task(forever()) for _ in range({others})]
    await settle()
    before = waited
    profile = await recorded(6)
    tell(locks=found(profile), waited=waited - before, unasked=rprof.status().unasked_locks,
         named=profile.only_labels(task="fill").totals["lock_blame"],
         caused=[wait.lock for wait in profile.waits() if wait.culprits])
    os._exit(0)
"""
    )
    ((name, (waits, blamed, wait, blame)),) = told["locks"].items()
    assert name == "asyncio.Lock Cache._lock"
    assert wait == blame
    assert told["unasked"] == 0
    assert wait == pytest.approx(told["waited"] * 1e9, rel=0.35)
    assert share(waits, "get") > 0.9, waits
    # Where the lock goes from one to the next nobody has it.
    known = {stack: value for stack, value in blamed.items() if "<unknown" not in stack}
    assert sum(known.values()) > 0.7 * blame, blamed
    assert share(known, "fill") > 0.9, blamed
    assert told["named"] > 0.6 * blame
    assert share(known, "load") == pytest.approx(0.75, abs=0.25), blamed
    assert name in told["caused"]


def test_a_task_that_computes_with_a_lock_is_blamed_where_it_is(ask):
    told = ask("""
async def compute(lock):
    async with lock:
        while True:
            burn(0.01)
            await asyncio.sleep(0)
async def use(lock):
    async with lock: pass
async def main():
    lock = asyncio.Lock()
    tasks = [asyncio.create_task(compute(lock), name="computes")]
    tasks += [asyncio.create_task(use(lock)) for _ in range(3)]
    await settle()
    profile = await recorded(2)
    tell(locks=found(profile), named=profile.only_labels(task="computes").totals["lock_blame"])
    os._exit(0)
""")
    ((_, (_, blamed, wait, blame)),) = told["locks"].items()
    assert wait == blame > 0
    assert share(blamed, "compute") > 0.8, blamed
    assert sum(value for stack, value in blamed.items() if "burn" in stack) > 0.6 * blame, blamed
    assert "run_forever" not in str(blamed)
    assert told["named"] > 0.8 * blame


def test_the_task_that_has_the_lock_is_blamed_not_those_that_it_awaits(ask):
    told = ask("""
async def busy():
    while True:
        burn(0.005)
        await asyncio.sleep(0)
async def parent(lock):
    async with lock: await asyncio.gather(busy(), forever())
async def use(lock):
    async with lock: pass
async def main():
    lock = asyncio.Lock()
    tasks = [asyncio.create_task(parent(lock), name="parent"), asyncio.create_task(use(lock))]
    await settle()
    profile = await recorded(1)
    tell(locks=found(profile), named=profile.only_labels(task="parent").totals["lock_blame"])
    os._exit(0)
""")
    ((_, (_, blamed, wait, blame)),) = told["locks"].items()
    assert wait == blame == told["named"] > 0
    assert all(stack.endswith("program.parent") for stack in blamed), blamed


def test_labels_of_both_are_told(ask):
    told = ask("""
async def labelled(way, route):
    with rprof.labels(route=route): await way
async def main():
    pool = Pool()
    tasks = [asyncio.create_task(labelled(pool.hold(), "/holds"))]
    tasks += [asyncio.create_task(labelled(pool.use(), "/waits")) for _ in range(2)]
    await settle()
    profile = await recorded()
    routes = {name: profile.only_labels(route=name).totals for name in ("/holds", "/waits")}
    tell(routes=routes, labels=profile.only_labels(route="/holds").labels())
    os._exit(0)
""")
    holds, waits = told["routes"]["/holds"], told["routes"]["/waits"]
    assert waits["lock_wait"] == holds["lock_blame"] > 0
    assert waits["lock_blame"] == holds["lock_wait"] == 0
    assert told["labels"]["lock"] == ["asyncio.Lock Pool._lock"]


def test_nothing_is_told_where_nobody_wants_it(ask):
    told = ask("""
async def main():
    pool = Pool()
    tasks = [asyncio.create_task(way) for way in (pool.hold(), pool.use())]
    await settle()
    profile = await recorded(locks=None)
    tell(labels=profile.labels(), totals=profile.totals)
    os._exit(0)
""")
    assert "lock" not in told["labels"]
    assert told["totals"]["task_wall"] > 0
    assert "lock_wait" not in told["totals"]


def test_beside_too_many_tasks_the_holder_is_not_looked_for_and_that_is_counted(ask):
    told = ask("""
async def main():
    pool = Pool()
    tasks = [asyncio.create_task(pool.hold())]
    tasks += [asyncio.create_task(pool.use()) for _ in range(2000)]
    tasks += [asyncio.create_task(forever()) for _ in range(3000)]
    await settle()
    profile = await recorded(1)
    tell(locks=found(profile), unasked=rprof.status().unasked_locks)
    os._exit(0)
""")
    ((_, (_, blamed, wait, blame)),) = told["locks"].items()
    assert wait == blame > 0
    assert list(blamed) == ["<unknown holder>"]
    assert told["unasked"] > 0


def test_a_slow_request_tells_which_lock_its_task_waited_for(programs):
    out = programs.check(
        PRELUDE
        + """
import logging
class Lines(logging.Handler):
    def emit(self, record): tell(**record.rprof)
logging.getLogger("rprof.slow").addHandler(Lines())
async def hold(lock):
    async with lock: await asyncio.sleep(0.6)
async def use(lock):
    async with lock: pass
async def main():
    lock = asyncio.Lock()
    holding = asyncio.create_task(hold(lock))
    await settle()
    with rprof.request("GET /x", route="/x", slow_after=0.2, repeat=0): await use(lock)
    await holding
asyncio.run(main())
"""
    )
    _, end = map(json.loads, out.splitlines())
    profile = rprof.load(programs.directory / end["profile"])
    own = profile.only_labels({"request task": "own"})
    assert own.labels()["lock"] == ["asyncio.Lock lock"]
    assert own.totals["lock_wait"] == pytest.approx(end["seconds"] * 1e9, rel=0.1)
