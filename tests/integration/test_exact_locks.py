"""Locks that note who takes them, by whatever method, as `locks="exact"` has them do."""

from __future__ import annotations

import sys

import pytest
from lock_programs import PREAMBLE, PROGRAM
from support import ENGINE

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or ENGINE != "direct", reason="locks are read by the direct engine"
)

# What the methods of locks lead to.
DEFINITIONS = """
import _thread, ctypes
class Definition(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("method", ctypes.c_void_p), ("flags", ctypes.c_int)]
NAMES = ("acquire", "acquire_lock", "__enter__", "release", "release_lock", "__exit__")
def definition(name):
    method = getattr(type(_thread.allocate_lock()), name)
    return Definition.from_address(ctypes.c_void_p.from_address(id(method) + 40).value)
def methods():
    return [definition(name).method for name in NAMES]
"""
# A lock that one takes and another waits for.
PAIR = """
lock = threading.Lock()
def hold():
    lock.acquire()
    time.sleep(600)
def use():
    lock.acquire()
def blamed_for(profile):
    waiters, blamed, wait, blame = found(profile)["Lock program.lock"]
    assert waiters == ["use"] and wait == blame > 0, (waiters, wait, blame)
    return blamed
"""


def test_who_takes_a_lock_by_a_call_is_known(programs):
    programs.check(
        PREAMBLE
        + "rprof.start(output=None, locks='exact')\n"
        + PROGRAM
        + """
assert rprof.status().locks.problem == "", rprof.status()
profile = recorded()
locks = found(profile)
waiters, blamed, wait, blame = locks["Lock program.BARE"]
assert (waiters, blamed) == (["use_bare"], {"program.pause"}) and wait == blame > 0, locks
totals = {thread.name: thread.totals["lock_blame"] for thread in profile.threads}
assert totals["hold_bare"] == wait and totals["use_bare"] == 0, totals
for name in ("Lock Pool._lock", "Lock Pool._condition", "RLock Pool._reentrant"):
    waiters, blamed, wait, blame = locks[name]
    assert {who.rsplit(".", 1)[-1] for who in blamed} == {"pause"} and wait == blame > 0, locks
for name in ("Queue program.jobs", "Event program.event", "Semaphore program.semaphore"):
    assert locks[name][1] == set() and locks[name][3] == 0, locks
(line,) = [line for line in rprof.dump().splitlines() if "Lock program.BARE" in line]
assert 'held by Thread' in line and '"hold_bare"' in line, line
os._exit(0)
"""
    )


def test_of_a_lock_that_was_taken_before_is_only_told_what_stacks_tell(programs):
    programs.check(
        PREAMBLE
        + PROGRAM
        + """
locks = found(recorded(locks="exact"))
assert locks["Lock program.BARE"][:2] == (["use_bare"], {"<unknown holder>"}), locks
assert locks["Lock Pool._lock"][:2] == (["use", "use too"], {"program.pause"}), locks
os._exit(0)
"""
    )


def test_what_an_earlier_recording_has_noted_is_not_believed(programs):
    programs.check(
        PREAMBLE
        + PAIR
        + """
with rprof.profile(locks="exact"):
    begin(("hold", hold), ("use", use))
# It may have changed hands since.
assert blamed_for(recorded(locks="exact")) == {"<unknown holder>"}
os._exit(0)
"""
    )


def test_nobody_is_blamed_for_a_thread_that_is_gone(programs):
    programs.check(
        PREAMBLE
        + PAIR
        + """
rprof.start(output=None, locks="exact")
gone = threading.Thread(target=lock.acquire)
gone.start()
gone.join()
# Some of them have its ident.
threads = begin(*((f"idle {at}", threading.Event().wait) for at in range(5)))
begin(("use", use))
assert blamed_for(recorded()) == {"<unknown holder>"}
os._exit(0)
"""
    )


def test_who_has_given_a_lock_back_is_not_blamed_while_the_next_one_waits_for_the_gil(programs):
    programs.check(
        PREAMBLE
        + """
rprof.start(output=None, locks="exact")
lock, is_over = threading.Lock(), threading.Event()
def hold():
    lock.acquire()
    is_over.wait()
    lock.release()
    # Keeps the GIL, but not the lock.
    sum(range(100_000_000))
def use():
    lock.acquire()
    lock.release()
threads = [thread for name in ("hold", "use", "use too")
           for thread in begin((name, hold if name == "hold" else use))]
with rprof.profile(rate=200, max_overhead=0, engine="direct") as block:
    time.sleep(0.2)
    is_over.set()
    for thread in threads:
        thread.join()
(name,) = [name for name in block.profile.labels()["lock"] if name.startswith("Lock ")]
part = block.profile.only_labels(lock=name)
blamed = {row.name: row.self_value for row in part.top(9, by="lock_blame")}
assert not blamed.get("program.hold"), blamed
assert blamed["program.use"] > 5 * blamed.get("<unknown holder>", 0), blamed
"""
    )


def test_waits_are_counted_one_by_one_but_not_those_to_be_told_something(programs):
    programs.check(
        PREAMBLE
        + """
rprof.start(output=None, locks="exact")
lock, (read, write) = threading.Lock(), os.pipe()
def use(by):
    by()
    os.write(write, b"!")
    time.sleep(600)
def counted():
    locks = rprof.status().locks
    return locks.contended, locks.given_up
for by in (lock.acquire, lock.__enter__, lock.acquire_lock):
    lock.acquire()
    begin(("use", lambda: use(by)))
    before, waited = counted(), rprof.status().locks.waited_seconds
    lock.release()
    os.read(read, 1)
    assert counted() == (before[0] + 1, before[1]), (by, before, counted())
    assert rprof.status().locks.waited_seconds > waited
    lock.release()

# Taken by another thread.
begin(("hold", lambda: use(lock.acquire)))
os.read(read, 1)
before = counted()
assert not lock.acquire(False) and not lock.acquire(timeout=0.001)
assert counted() == (before[0], before[1] + 2), (before, counted())
# Nobody has it, or it is the thread's own: it waits for another thread to tell it something.
free = threading.Lock()
for _ in range(1_000):
    with free:
        pass
free.acquire()
assert not free.acquire(timeout=0.001)
assert counted() == (before[0], before[1] + 2), (before, counted())
try: free.acquire("?", "?")
except TypeError: pass
else: raise AssertionError
os._exit(0)
"""
    )


def test_what_is_counted_is_in_the_profile_and_in_metrics(programs):
    programs.check(
        PREAMBLE
        + """
import urllib.request
def scraped():
    with urllib.request.urlopen(metrics, timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    words = (line.split() for line in lines if line.startswith("rprof_locks_"))
    return {name: float(value) for name, value in words}
metrics = f"http://{rprof.serve('127.0.0.1:0').address}/debug/pprof/metrics"
assert scraped() == {}
with rprof.profile(locks="exact") as block:
    lock = threading.Lock()
    with lock:
        thread = threading.Thread(target=lambda: lock.acquire(timeout=0.05), daemon=True)
        thread.start(); thread.join()
    found = scraped()
    waited = rprof.status().locks.waited_seconds
    # Before 3.13 a thread that is joined has a lock of its own.
    assert found["rprof_locks_given_up_total"] == 1, found
    assert 0.05 <= found["rprof_locks_waited_seconds_total"] <= waited, (found, waited)
facts = block.profile.facts
assert facts["locks_found_taken"] >= 1 and facts["locks_waited_seconds"] >= 0.05, facts
assert scraped() == {}
with rprof.profile() as block:
    pass
assert "locks_found_taken" not in block.profile.facts, block.profile.facts
"""
    )


def test_methods_are_the_interpreters_own_when_nobody_wants_to_know(programs):
    programs.check(
        PREAMBLE
        + DEFINITIONS
        + """
own = methods()
lock = threading.Lock()
before = repr(lock), lock.acquire, type(lock).acquire
assert rprof.status().locks is None
with rprof.profile(locks="exact"):
    replaced = methods()
    assert not set(own) & set(replaced)
    with rprof.profile(locks="exact"), rprof.profile(locks="sampled"):
        assert methods() == replaced
    assert methods() == replaced
    assert repr(lock) == before[0] and type(lock).acquire is before[2]
    assert lock.acquire.__doc__ == before[1].__doc__ and before[1] == lock.acquire
    # One that was there before is as good as another.
    assert before[1]() is True and lock.locked() and before[1](False) is False
    lock.release()
    assert not lock.locked()
    try: lock.release()
    except RuntimeError: pass
    else: raise AssertionError
    assert rprof.status().locks.problem == ""
assert methods() == own
assert rprof.status().locks is None
rprof.start(output=None, locks="exact")
assert methods() == replaced
rprof.stop()
assert methods() == own
try:
    with rprof.profile(locks="exact"):
        raise KeyError
except KeyError: pass
assert methods() == own
"""
    )


def test_a_child_has_the_interpreters_own_methods_until_it_records(programs):
    programs.check(
        PREAMBLE
        + DEFINITIONS
        + """
own = methods()
lock = threading.Lock()
with rprof.profile(locks="exact"):
    replaced = methods()
    lock.acquire()
    child = os.fork()
    if child == 0:
        assert methods() == own and rprof.status().locks is None
        lock.release()
        with rprof.profile(locks="exact"):
            assert methods() == replaced and rprof.status().locks.contended == 0
            with lock:
                pass
        assert methods() == own
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert methods() == replaced
assert methods() == own
"""
    )


def test_an_interpreter_with_other_locks_is_left_as_it_is(programs):
    programs.check(
        PREAMBLE
        + DEFINITIONS
        + """
own = methods()
# A flag that is not known.
definition("__enter__").flags |= 0x4000
with rprof.profile(locks="exact") as block:
    assert methods() == own
    status = rprof.status()
    problem = "the method __enter__ of locks has an unknown definition"
    assert status.locks == (problem, None, None, None), status.locks
    assert status.last_error.endswith("it is as 'sampled': " + problem), status.last_error
assert "lock_wait" in block.profile.totals
assert rprof.status().locks is None
"""
    )


def test_a_function_that_somebody_else_has_put_there_stays(programs):
    programs.check(
        PREAMBLE
        + DEFINITIONS
        + """
with rprof.profile(locks="exact"):
    pass
own = methods()
# Nobody calls it, and it does something else.
method, other = definition("release_lock"), definition("locked").method
original, method.method = method.method, other
with rprof.profile(locks="exact"):
    assert rprof.status().locks.problem, rprof.status()
    assert [*methods()[:4], original, methods()[5]] == own
    assert method.method == other
method.method = original
with rprof.profile(locks="exact"):
    assert rprof.status().locks.problem == "", rprof.status()
    assert method.method != original
assert method.method == original
"""
    )


def test_locks_hold_while_recordings_begin_and_end(programs):
    programs.check(
        PREAMBLE
        + """
lock, count, is_over = threading.Lock(), 0, False
def work(at):
    global count
    done = 0
    while not is_over:
        if at % 2:
            with lock:
                count += 1
        else:
            lock.acquire()
            count += 1
            lock.release()
        done += 1
    return done
sys.setswitchinterval(1e-5)
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    work = [pool.submit(work, at) for at in range(4)]
    for _ in range(40):
        with rprof.profile(locks="exact"):
            assert rprof.status().locks.problem == "", rprof.status()
    is_over = True
assert count == sum(each.result() for each in work) > 0
"""
    )


def test_locks_of_another_interpreter_work_as_they_do(programs):
    programs.check(
        PREAMBLE
        + """
if sys.version_info >= (3, 13):
    import _interpreters as interpreters
else:
    import _xxsubinterpreters as interpreters
code = '''
import threading
lock = threading.Lock()
for _ in range(1_000):
    with lock: pass
    assert lock.acquire() and not lock.acquire(False)
    lock.release()
'''
def run():
    other = interpreters.create()
    # 3.13 and later return what was raised.
    assert not (interpreters.exec if sys.version_info >= (3, 13) else interpreters.run_string)(
        other, code
    )
    interpreters.destroy(other)
with rprof.profile(locks="exact"):
    run()
run()
"""
    )
