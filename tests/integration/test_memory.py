"""Programs that run out of memory live with that as they do without rprof; how much rprof takes."""

from __future__ import annotations

import sys

import pytest
import rprof
from support import ENGINE

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="RLIMIT_AS bounds what malloc gets on Linux only"
)

# Takes all memory there is, in ever smaller pieces, on several threads at once, runs functions that
# nobody has seen before, and then lets go of it.
EXHAUST = """
import resource, sys, threading, time
import rprof

def made(number):
    space = {"clock": time.perf_counter}
    exec(
        f"def function_with_quite_a_long_name_{number}():\\n"
        "    end = clock() + 0.0005\\n"
        "    while clock() < end: pass\\n",
        space,
    )
    return space[f"function_with_quite_a_long_name_{number}"]

functions = [made(number) for number in range(1000)]
# Not lists in lists: to free those takes stack, which grows no more.
held = [[None] * 1_000_000 for _ in range(4)]

def exhaust(number):
    size, count, mine = 1 << 20, 0, held[number]
    while size >= 64:
        try:
            while True:
                mine[count] = bytearray(size)
                count += 1
        except (MemoryError, IndexError):
            size //= 2

def without_memory():
    "The program has none for a while."
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 20), resource.RLIM_INFINITY))
    threads = [threading.Thread(target=exhaust, args=(n,)) for n in range(3)]
    try:
        for thread in threads: thread.start()
    except (MemoryError, RuntimeError):
        pass
    exhaust(3)
    for thread in threads:
        if thread.ident: thread.join()
    number = 0
    while number < 1000:
        try:
            functions[number]()
        except MemoryError:
            pass
        number += 1
    held.clear()
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


@pytest.mark.parametrize("arenas", ["1", "2", None])
@pytest.mark.parametrize("engine", ["direct", "gil"])
def test_a_program_without_memory_survives(programs, engine, arenas):
    variables = {} if arenas is None else {"MALLOC_ARENA_MAX": arenas}
    out = programs.check(
        EXHAUST
        + f"""
from burning import burn
rprof.start(None, rate=1000, max_overhead=0, engine={engine!r}, recent=0)
burn(0.1)
without_memory()
burn(0.1)
profile = rprof.stop()
print(profile.facts)
seen = sum(row.total_value for row in profile.top(2000, by="cpu") if row.name.endswith("burn"))
assert seen > 0.1e9, profile.top(20, by="cpu")
""",
        **variables,
    )
    # With arenas of their own our threads may have what they need all the same.
    if arenas == "1" and engine == "direct":
        assert "out_of_memory_seconds" in out


@pytest.mark.parametrize("engine", ["direct", "gil"])
def test_windows_that_cannot_be_written_are_merged_or_counted(programs, engine):
    programs.check(
        EXHAUST
        + f"""
rprof.start("out/", rate=1000, window=0.02, max_overhead=0, engine={engine!r}, keep_files=1000)
without_memory()
status = rprof.status()
rprof.stop()
assert rprof.status().running is False
""",
        MALLOC_ARENA_MAX="1",
    )
    files = programs.profiles("out")
    assert files
    for file in files:
        rprof.load(file)


def test_a_start_without_memory_is_refused(programs):
    programs.check(
        """
        import resource, rprof
        with rprof.profile(): pass
        # Not a list in a list: to free that takes stack, which grows no more.
        held, count = [None] * 2_000_000, 0
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used, resource.RLIM_INFINITY))
        size = 1 << 20
        while size >= 64:
            try:
                while True: held[count] = bytearray(size); count += 1
            except MemoryError:
                size //= 2
        refused = False
        try:
            rprof.start(None)
        except MemoryError:
            refused = True
        held = None
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert refused
        rprof.start(None)
        rprof.stop()
        """,
        MALLOC_ARENA_MAX="1",
    )


# Prints in KiB what recursion has added to the memory of the process, and what stays shared of it.
RECURSION = """
import re, sys, threading, time
from burning import burn
def kibibytes(*names):
    status = open("/proc/self/status").read()
    return sum(int(re.search(name + r":\\s+(\\d+)", status)[1]) for name in names)
def deep(frames):
    if frames: deep(frames - 1)
    else: burn(0.3)
def program():
    burn(0.1)
    before = kibibytes("RssAnon", "RssShmem")
    deep(20_000)
    after = kibibytes("RssAnon", "RssShmem")
    end = time.monotonic() + 60
    while (shared := kibibytes("RssShmem")) > 128 and time.monotonic() < end: burn(0.05)
    print(after - before, shared)
sys.setrecursionlimit(30_000)
# As much as 3.10 needs for so many calls.
threading.stack_size(256 << 20)
thread = threading.Thread(target=program)
"""
RUN = "thread.start(); thread.join()"


def test_deep_recursion_takes_little_memory(programs):
    plain, _ = map(int, programs.check(RECURSION + RUN).split())
    code = f"""
import rprof
rprof.start(None, rate=5000, max_overhead=0, engine={ENGINE!r})
{RUN}
print(max(len(frames) for frames, _ in rprof.stop().stacks()))
"""
    added, shared, depth = map(int, programs.check(RECURSION + code).split())
    assert depth >= 400
    assert added - plain <= 2048
    # What large copies alone have needed is given back.
    assert shared <= 128
