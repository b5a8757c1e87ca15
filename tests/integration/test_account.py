"""The account of memory: its parts add up, and it tells what glibc keeps."""

from __future__ import annotations

import platform

import pytest

HEAD = """
import ctypes, os, sys
import rprof

def hold(count, size):
    # Not a comprehension, which CPython up to 3.11 has as a function of its own.
    held = []
    for _ in range(count):
        held.append(bytearray(os.urandom(16)) * (size // 16))
    return held
"""

needs_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc's malloc tells what it has"
)


@needs_glibc
def test_parts_add_up_to_what_is_in_memory(programs):
    programs.check(
        HEAD
        + """
rprof.start(None, memory=16_384)
small = hold(200_000, 64)
large = hold(2_000, 20_000)
account = rprof.memory_account()
assert account.resident == account.anonymous + account.file + account.shared, account
parts = account.arenas + account.malloc_used + account.malloc_kept + account.unexplained
assert parts >= account.anonymous, account
assert account.unexplained < 0.1 * account.resident, account
# 13 MB of objects with their buffers, and 40 MB of large ones.
assert account.arenas > 200_000 * 100, account
assert account.malloc_used > 40_000_000, account
true = 200_000 * (sys.getsizeof(small[0])) + sum(map(sys.getsizeof, large)) + sys.getsizeof(small)
assert abs(account.python - true) < 5 * account.python_error + 0.05 * true, (account, true)
assert 0 < account.python_error < 0.05 * account.python
assert account.advice == "", account
assert rprof.status().memory.account.arenas == account.arenas
text = str(account)
assert "in memory" in text and "in use in Python" in text, text
"""
    )


@needs_glibc
def test_what_glibc_keeps_is_told_with_the_remedy(programs):
    programs.check(
        HEAD
        + """
held = hold(100_000, 2_000)
# The last of each few hundred stays, so that none of it goes back to the system.
for at in range(len(held)):
    if at % 37:
        held[at] = None
account = rprof.memory_account()
assert account.malloc_kept > 100_000_000, account
assert account.python is None and account.arenas is None, account
assert "glibc keeps it" in account.advice and account.advice in str(account), account
before = account.resident
ctypes.CDLL(None).malloc_trim(0)
assert rprof.memory_account().resident < before - 100_000_000
"""
    )


@needs_glibc
def test_windows_and_metrics_have_it(programs):
    programs.check(
        HEAD
        + """
import urllib.request
rprof.start("out/", memory=True, window=3600)
endpoint = rprof.serve("127.0.0.1:0")
held = hold(1_000, 20_000)
path = rprof.flush()
heap = rprof.load(str(path).replace(".pb.gz", ".heap.pb.gz"))
facts = heap.facts
assert facts["memory_resident_bytes"] > 20_000_000
assert facts["memory_anonymous_bytes"] < facts["memory_resident_bytes"]
assert facts["memory_malloc_used_bytes"] > 20_000_000
assert facts["memory_arenas_bytes"] > 0
with urllib.request.urlopen(f"http://{endpoint.address}/metrics") as answer:
    text = answer.read().decode()
assert "# TYPE rprof_memory_bytes gauge\\n" in text
name = 'rprof_memory_bytes{part="malloc_used"} '
told = [line for line in text.splitlines() if line.startswith(name)]
assert float(told[0].removeprefix(name)) > 20_000_000, told
endpoint.stop()
rprof.stop()
with urllib.request.urlopen(f"http://{rprof.serve('127.0.0.1:0').address}/metrics") as answer:
    assert b"rprof_memory_bytes" not in answer.read()
"""
    )


@needs_glibc
@pytest.mark.parametrize("kind", ["pymalloc", "malloc", "debug"])
def test_arenas_are_counted_as_the_interpreter_has_them(programs, kind):
    programs.check(
        HEAD
        + """
import re, tempfile
# What the interpreter says itself, which it does only until its allocators are hooked.
with tempfile.TemporaryFile() as file:
    stderr = os.dup(2)
    os.dup2(file.fileno(), 2)
    sys._debugmallocstats()
    os.dup2(stderr, 2)
    os.close(stderr)
    file.seek(0)
    told = re.search(rb"arenas \\* .*= +([0-9,]+)", file.read())
true = int(told[1].replace(b",", b"")) if told else 0
rprof.start(None, memory=True)
before = rprof.memory_account().arenas
assert true <= before <= true + (4 << 20), (before, true)
held = hold(100_000, 64)
after = rprof.memory_account().arenas
if os.environ["PYTHONMALLOC"] == "malloc":
    assert true == before == after == 0, (before, after)
else:
    assert after - before > 100_000 * 100, (before, after)
    del held
    import gc
    gc.collect()
    assert rprof.memory_account().arenas < after
# A child has those of its parent.
pid = os.fork()
if pid == 0:
    os._exit(0 if rprof.memory_account().arenas is not None else 1)
assert os.waitpid(pid, 0)[1] == 0
""",
        PYTHONMALLOC=kind,
    )


@needs_glibc
def test_arenas_are_not_known_where_another_hook_was_first(programs):
    programs.check(
        HEAD
        + """
import tracemalloc
tracemalloc.start()
rprof.start(None, memory=True)
account = rprof.memory_account()
assert account.arenas is None and account.unexplained is None, account
assert account.malloc_used > 0 and account.python is not None, account
assert "arenas of" not in str(account)
tracemalloc.stop()
"""
    )


@needs_glibc
def test_glibc_is_not_asked_in_passing_where_it_takes_long(programs):
    programs.check(
        HEAD
        + """
rprof.start(None, memory=16_384)
assert rprof.status().memory.account.malloc_used
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
# Free blocks that cannot be joined, and are too large for its short cuts.
blocks = [libc.malloc(1_100) for _ in range(400_000)]
for block in blocks[::2]:
    libc.free(block)
account = rprof.memory_account()
assert account.malloc_used > 200_000 * 1_100, account
passing = rprof.status().memory.account
assert passing.malloc_used is None and passing.malloc_kept is None, passing
assert passing.unexplained is None and passing.resident, passing
assert rprof.memory_account().malloc_used
"""
    )
