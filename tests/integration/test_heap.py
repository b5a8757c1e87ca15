"""The heap by samples: sums, other hooks in every order, forks, threads, ends."""

from __future__ import annotations

import sys

import pytest

# What every program begins with: a heap of known content, and its sums.
HEAD = """
import math, os, sys, threading
import rprof

RATE = int(os.environ.get("RATE", "16384"))

class Small:
    __slots__ = ("a", "b")

def hold_small(count):
    # Not a comprehension, which CPython up to 3.11 has as a function of its own.
    held = []
    for _ in range(count):
        held.append(Small())
    return held

def hold_large(count):
    held = []
    for _ in range(count):
        held.append(bytearray(20_000))
    return held

def churn(count):
    for number in range(count):
        [number] * (number % 100)

def inuse(profile, function):
    rows = profile.top(10_000, by="inuse_space")
    return sum(row.self_value for row in rows if row.name.endswith(function))

def total(profile, by="inuse_space"):
    return profile.totals[by]

def bound(true, rate=None):
    # Five standard deviations at most: a byte's variance is no more than the rate.
    return 5 * math.sqrt((rate or RATE) * true) + 1

def near(found, true, slack=0.0):
    assert abs(found - true) <= bound(true) + slack, (found, true, bound(true))

def is_freed(profile, function):
    # CPython keeps some of the lists and tuples that were freed for later ones, and a table of its
    # arenas for ever (128 KiB for 4 GiB of addresses): these lie where they were allocated.
    found = inuse(profile, function)
    assert found <= bound(2_000) + 131_072, found
"""


@pytest.fixture
def run_heap(programs):
    def run(code, **variables):
        done = programs.run(HEAD + code, **variables)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert done.stdout.splitlines()[-1] == "ok"
        return done

    return run


def test_sums_are_those_of_what_is_held(run_heap):
    run_heap("""
rprof.start(None, memory=RATE)
small = hold_small(60_000)
large = hold_large(500)
churn(200_000)
heap = rprof.heap()
near(inuse(heap, "hold_small"), 60_000 * 48,
     slack=2 * sys.getsizeof(small))
near(inuse(heap, "hold_large"), 500 * 20_001,
     slack=500 * 100)
assert inuse(heap, "churn") <= bound(20_000), inuse(heap, "churn")
del small
heap = rprof.heap()
is_freed(heap, "hold_small")
allocated = total(heap, "alloc_space")
assert allocated > 60_000 * 48 + 500 * 20_000
memory = rprof.status().memory
assert memory.rate == RATE and memory.samples > 100 and memory.displaced == 0, memory
assert memory.lost == 0 and memory.overflow == 0
rprof.stop()
assert rprof.status().memory is None
try:
    rprof.heap()
except rprof.RprofStateError as error:
    assert "memory=True" in str(error)
else:
    raise AssertionError
print("ok")
""")


@pytest.mark.parametrize("kind", ["", "debug", "malloc", "pymalloc_debug"])
def test_the_total_is_that_of_tracemalloc(run_heap, kind):
    run_heap(
        """
import tracemalloc
tracemalloc.start()
rprof.start(None, memory=RATE)
before = tracemalloc.get_traced_memory()[0]
held = hold_small(60_000), hold_large(500)
more = {n: str(n) for n in range(30_000)}, [n * 1.5 for n in range(30_000)]
churn(100_000)
true = tracemalloc.get_traced_memory()[0] - before
found = total(rprof.heap())
# What rprof itself holds was allocated between the two.
near(found, true, slack=300_000 + 0.03 * true)
print("ok")
""",
        **({"PYTHONMALLOC": kind} if kind else {}),
    )


ORDERS = {
    "over, and left first": """
rprof.start(None, memory=RATE)
tracemalloc.start()
held = hold_small(20_000)
tracemalloc.stop()
more = hold_small(20_000)
near(inuse(rprof.heap(), "hold_small"), 40_000 * 48, slack=700_000)
rprof.stop()
""",
    "over, and left last": """
rprof.start(None, memory=RATE)
tracemalloc.start()
held = hold_small(20_000)
rprof.stop()
del held
tracemalloc.stop()
""",
    "under, and left first": """
tracemalloc.start()
rprof.start(None, memory=RATE)
held = hold_small(20_000)
assert total(rprof.heap()) > 0
tracemalloc.stop()
# Our hooks are gone with it, and come back; of what is in use nothing is known any more.
heap = rprof.heap()
assert inuse(heap, "hold_small") == 0
assert rprof.status().memory.displaced == 1
del held
held = hold_small(20_000)
heap = rprof.heap()
near(inuse(heap, "hold_small"), 20_000 * 48, slack=400_000)
rprof.stop()
""",
    "under, and left last": """
tracemalloc.start()
rprof.start(None, memory=RATE)
held = hold_small(20_000)
rprof.stop()
del held
held = hold_small(20_000)
tracemalloc.stop()
del held
""",
    "again and again": """
for _ in range(8):
    tracemalloc.start()
    rprof.start(None, memory=RATE)
    held = hold_small(5_000)
    rprof.heap()
    tracemalloc.stop()
    try:
        rprof.heap()
    except rprof.RprofStateError:
        pass
    more = hold_small(5_000)
    del held
    rprof.stop()
    del more
""",
}


@pytest.mark.parametrize("order", ORDERS)
def test_tracemalloc_comes_and_goes(run_heap, order):
    code = "import tracemalloc\n" + ORDERS[order] + "\n__import__('gc').collect()\nprint('ok')\n"
    run_heap(code)


def test_threads_have_their_own(run_heap):
    run_heap("""
import zlib
rprof.start(None, memory=RATE)
results = {}
def work(name):
    data = os.urandom(40_000)
    for _ in range(300):
        zlib.compress(data)
    results[name] = hold_small(20_000), hold_large(100)
threads = [threading.Thread(target=work, args=(f"w{n}",), name=f"w{n}") for n in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
heap = rprof.heap()
found = inuse(heap, "hold_small")
near(found, 6 * 20_000 * 48, slack=6 * 200_000)
assert len({row.id for row in heap.threads}) >= 6
results.clear()
heap = rprof.heap()
is_freed(heap, "hold_large")
print("ok")
""")


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork")
def test_a_child_has_what_its_parent_holds(run_heap):
    run_heap(
        """
import time
rprof.start(None, memory=RATE)
held = hold_small(40_000)
is_over = threading.Event()
def allocate():
    while not is_over.is_set():
        bytearray(3_000), [0] * 50
threads = [threading.Thread(target=allocate, daemon=True) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            more = hold_small(1_000)
            found = inuse(rprof.heap(), "hold_small")
            near(found, 41_000 * 48, slack=500_000)
            held.clear()
            del more
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
is_over.set()
for thread in threads:
    thread.join()
near(inuse(rprof.heap(), "hold_small"),
     40_000 * 48, slack=500_000)
print("ok")
""",
        PYTHONWARNINGS="ignore",
    )


def test_sub_interpreters_come_and_go(run_heap):
    run_heap("""
try:
    import _interpreters as interpreters
except ImportError:
    try:
        import _xxsubinterpreters as interpreters
    except ImportError:
        interpreters = None
rprof.start(None, memory=RATE)
code = "held = [[n] for n in range(20_000)]; held = None"
def work():
    for _ in range(3):
        other = interpreters.create()
        interpreters.run_string(other, code)
        interpreters.destroy(other)
if interpreters is not None:
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
assert total(rprof.heap(), "alloc_space") > 0
print("ok")
""")


def test_the_process_ends_while_threads_allocate(run_heap):
    run_heap("""
import zlib
rprof.start(None, memory=1_024)
data = bytes(200_000)
def allocate():
    while True:
        zlib.compress(data, 1)
for _ in range(3):
    threading.Thread(target=allocate, daemon=True).start()
class Late:
    def __del__(self):
        churn(1_000)
late = Late()
churn(10_000)
print("ok")
""")


def test_deep_stacks_and_generators(run_heap):
    run_heap("""
import asyncio
rprof.start(None, memory=1_024)
def deep(depth):
    if depth:
        return deep(depth - 1)
    return hold_large(20)
held = deep(800)
heap = rprof.heap()
near(inuse(heap, "hold_large"), 20 * 20_001, slack=20_000)
def numbers():
    for number in range(5_000):
        yield [number] * 20
async def task():
    await asyncio.sleep(0)
    return list(numbers())
async def main():
    return await asyncio.gather(*(task() for _ in range(5)))
kept = asyncio.run(main())
near(inuse(rprof.heap(), "numbers"), 25_000 * (16 + 40 + 8 + 160), slack=1_500_000)
print("ok")
""")


def test_blocks_have_a_heap_of_their_own(run_heap):
    run_heap("""
with rprof.profile("block.pb.gz", memory=1_024) as block:
    held = hold_large(100)
near(inuse(block.heap, "hold_large"), 2_000_100,
     slack=20_000)
assert list(block.heap.totals) == ["alloc_objects", "alloc_space", "inuse_objects", "inuse_space"]
read = rprof.load("block.heap.pb.gz")
assert total(read) == total(block.heap)
assert "inuse_space" not in rprof.load("block.pb.gz").totals
with rprof.profile() as plain:
    pass
try:
    plain.heap
except rprof.RprofStateError as error:
    assert "memory=True" in str(error)
else:
    raise AssertionError
print("ok")
""")


def test_windows_have_files_beside_them(run_heap, programs):
    run_heap("""
from pathlib import Path
rprof.start("out/", memory=RATE, window=3600)
held = hold_small(40_000)
rprof.flush()
churn(100_000)
rprof.flush()
more = hold_small(40_000)
rprof.stop()
heaps = sorted(Path("out").glob("*.heap.pb.gz"))
windows = sorted(set(Path("out").glob("*.pb.gz")) - set(heaps))
assert len(heaps) == len(windows) == 3, (heaps, windows)
assert [path.name.replace(".heap", "") for path in heaps] == [path.name for path in windows]
profiles = [rprof.load(path) for path in heaps]
def small(profile):
    return inuse(profile, "hold_small")
near(small(profiles[0]), 40_000 * 48, slack=500_000)
near(small(profiles[1]), 40_000 * 48, slack=500_000)
near(small(profiles[2]), 80_000 * 48, slack=1_000_000)
# What was allocated is of each window, what is in use of its end.
merged = rprof.merge(profiles)
assert total(merged, "alloc_space") == sum(total(profile, "alloc_space") for profile in profiles)
assert total(merged) == total(profiles[2])
# A directory means its windows, unless something of heaps is asked for.
from rprof.cli._inputs import read
assert "inuse_space" not in read(["out"]).totals and "wall" in read(["out"], "cpu").totals
assert read(["out"], "inuse_space").totals == merged.totals
print("ok")
""")


def test_off_hooks_nothing(run_heap):
    run_heap("""
import ctypes
class Allocator(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in "context malloc calloc realloc free".split()]
def allocators():
    found = []
    for domain in range(3):
        allocator = Allocator()
        ctypes.pythonapi.PyMem_GetAllocator(domain, ctypes.byref(allocator))
        found.append([getattr(allocator, name) for name, _ in Allocator._fields_])
    return found
before = allocators()
rprof.start(None)
with rprof.profile():
    churn(1_000)
assert allocators() == before
rprof.stop()
rprof.start(None, memory=True)
after = allocators()
assert after != before
# The context is the one that was there: others may be reading the structure.
assert [one[0] for one in after] == [one[0] for one in before]
print("ok")
""")


@pytest.mark.parametrize("text", ["x", "5", "-1"])
def test_a_rate_that_cannot_be_is_refused(programs, text):
    done = programs.run("import rprof; rprof.start(None)", RPROF_MEMORY=text)
    assert done.returncode != 0
    assert "RPROF_MEMORY" in done.stderr


@pytest.mark.skipif(sys.version_info < (3, 11), reason="CPython 3.10 tells another count")
def test_the_count_of_blocks_stays_exact(run_heap):
    run_heap("""
rprof.start(None, memory=1_024)
before = sys.getallocatedblocks()
for _ in range(50):
    held = hold_small(2_000)
    del held
assert abs(sys.getallocatedblocks() - before) < 1_000
print("ok")
""")


def test_the_endpoint_tells_of_the_heap(run_heap):
    run_heap("""
import urllib.error, urllib.request
endpoint = rprof.serve("127.0.0.1:0")
def ask(path):
    with urllib.request.urlopen(f"http://{endpoint.address}/debug/pprof/{path}") as answer:
        with open("asked.pb.gz", "wb") as file:
            file.write(answer.read())
    return rprof.load("asked.pb.gz")
def refused(path):
    try:
        ask(path)
    except urllib.error.HTTPError as error:
        return error.code
assert refused("heap") == 404
rprof.start(None, memory=RATE)
held = hold_small(40_000)
found = ask("heap")
near(inuse(found, "hold_small"), 40_000 * 48, slack=500_000)
assert total(found, "alloc_space") > 40_000 * 48 * 0.5
later = ask("allocs?seconds=0.1")
assert total(later, "alloc_space") < total(found, "alloc_space")
assert inuse(later, "hold_small") == 0
assert refused("heap?seconds=-1") == 400
endpoint.stop()
print("ok")
""")
