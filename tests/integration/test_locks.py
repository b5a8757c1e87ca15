"""Which locks threads wait for and who holds them: each is known beforehand."""

from __future__ import annotations

import sys

import pytest
from lock_programs import PREAMBLE, PROGRAM

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="Linux tells what a thread waits for"
)


def test_each_lock_has_its_name_and_its_holder(programs):
    programs.check(
        PREAMBLE
        + PROGRAM
        + """
locks = found(recorded())
expected = {
    "Lock Pool._lock": (["use", "use too"], "pause"),
    "RLock Pool._reentrant": (["use_reentrant"], "pause"),
    "Lock Pool._condition": (["use_condition"], "pause"),
    "multiprocessing.Lock program.SHARED": (["use_shared"], "pause"),
    "Thread program.holder": (["join"], "pause"),
    "Future program.future": (["result"], "pause"),
    "Lock program.BARE": (["use_bare"], "<unknown holder>"),
    "Queue program.jobs": (["get"], ""),
    "SimpleQueue program.simple": (["get simply"], ""),
    "Event program.event": (["event"], ""),
    "Semaphore program.semaphore": (["semaphore"], ""),
}
assert sorted(locks) == sorted(expected), sorted(locks)
for name, (waiters, holder) in expected.items():
    found_waiters, blamed, wait, blame = locks[name]
    assert found_waiters == waiters, (name, found_waiters)
    assert wait > 0 and blame == (wait if holder else 0), (name, wait, blame)
    assert {who.rsplit(".", 1)[-1] for who in blamed} == ({holder} if holder else set()), (
        name, blamed
    )
os._exit(0)
"""
    )


def test_the_thread_that_holds_is_the_one_that_is_blamed(programs):
    programs.check(
        PREAMBLE
        + PROGRAM
        + """
profile = recorded()
blamed = {
    thread.name: thread.totals["lock_blame"] for thread in profile.threads
    if thread.totals["lock_blame"]
}
waited = profile.only_labels(lock="Lock Pool._lock").totals["lock_wait"]
# Two wait for it, and one for the end of the thread that holds it.
joined = [name for name in profile.labels()["lock"] if name.startswith("Thread ")]
joined = sum(profile.only_labels(lock=name).totals["lock_wait"] for name in joined)
assert blamed["hold"] == waited + joined, (blamed, waited, joined)
for name in ("hold_reentrant", "hold_condition", "hold_shared"):
    assert blamed[name] > 0, blamed
assert blamed["use_bare"] > 0 and "hold_bare" not in blamed, blamed
os._exit(0)
"""
    )


def test_who_has_a_lock_of_another_process_is_told_as_such(programs):
    programs.check(
        PREAMBLE
        + """
shared = multiprocessing.get_context("fork").Lock()
read, write = os.pipe()
child = os.fork()
if child == 0:
    shared.acquire()
    os.write(write, b"!")
    os.read(os.pipe()[0], 1)
os.read(read, 1)
def use():
    with shared:
        pass
begin(("use", use))
((name, (waiters, blamed, wait, blame)),) = found(recorded()).items()
assert name.startswith("multiprocessing.Lock ") and name.endswith("shared"), name
assert (waiters, blamed) == (["use"], {"<other process>"}), (waiters, blamed)
assert wait == blame > 0
os.kill(child, 9)
os._exit(0)
"""
    )


def test_nothing_is_told_where_nobody_wants_it(programs):
    programs.check(
        PREAMBLE
        + PROGRAM
        + """
profile = recorded(locks=None)
assert "lock" not in profile.labels(), profile.labels()
assert "lock_wait" not in profile.totals and "lock_blame" not in profile.totals, profile.totals
os._exit(0)
"""
    )


def test_a_lock_that_its_holder_waits_for_again_is_its_own(programs):
    programs.check(
        PREAMBLE
        + """
lock = threading.Lock()
def twice():
    with lock:
        with lock:
            pass
begin(("twice", twice))
profile = recorded()
((_, (waiters, blamed, wait, blame)),) = found(profile).items()
assert waiters == ["twice"] and wait == blame > 0
(who,) = blamed
assert who.endswith("twice"), blamed
os._exit(0)
"""
    )


def test_who_waits_for_news_of_a_condition_has_not_its_lock(programs):
    programs.check(
        PREAMBLE
        + """
lock = threading.Lock()
condition = threading.Condition(lock)
def wait_for_news():
    with condition:
        condition.wait()
def take():
    lock.acquire()
    threading.Event().wait()
def want():
    with lock:
        pass
begin(("news", wait_for_news))
begin(("taker", take))
begin(("wanter", want))
(name, (waiters, blamed, waited, told)), = (
    (name, found) for name, found in found(recorded()).items() if name.startswith("Lock")
)
assert waiters == ["wanter"], (name, waiters)
assert "program.wait_for_news" not in blamed, blamed
assert blamed == {"<unknown holder>"}, blamed
assert waited == told > 0
os._exit(0)
"""
    )


def test_locks_beyond_the_limit_of_a_look_are_counted(programs):
    programs.check(
        PREAMBLE
        + """
locks = [threading.Lock() for _ in range(70)]
def hold(at=0):
    if at == len(locks):
        time.sleep(600)
    with locks[at]:
        hold(at + 1)
def use(at):
    with locks[at]:
        pass
begin(("hold", hold))
begin(*((f"use {at}", lambda at=at: use(at)) for at in range(10, 20)))
profile = recorded()
assert profile.totals["lock_blame"] == profile.totals["lock_wait"] > 0
assert rprof.status().unasked_locks == 0, rprof.status()
begin(*((f"use {at}", lambda at=at: use(at)) for at in (*range(10), *range(20, 70))))
profile = recorded()
assert profile.totals["lock_blame"] == profile.totals["lock_wait"] > 0
# At each look 6 of the locks were not asked for, and of 6 others it was not told that he has them.
unasked = rprof.status().unasked_locks
assert unasked and unasked % 6 == 0, unasked
blamed = {row.name: row.self_value for row in profile.top(9, by="lock_blame")}
assert 0 < blamed["<unknown holder>"] < blamed["program.hold"], blamed
os._exit(0)
"""
    )


def test_threads_beyond_the_limit_of_a_look_are_looked_through_at_the_next_one(programs):
    programs.check(
        PREAMBLE
        + """
lock, is_held, never = threading.Lock(), threading.Event(), threading.Event()
def hold():
    with lock:
        is_held.set()
        time.sleep(600)
def use():
    is_held.wait()
    with lock:
        pass
# CPython lists the newest thread first.
for function in (use, hold):
    threading.Thread(target=function, daemon=True).start()
begin(*((f"idle {at}", never.wait) for at in range(150)))
profile = recorded()
# 128 of them can be walked in one look, so that the first one did not come to who holds it.
assert rprof.status().unasked_locks == 1, rprof.status()
blamed = {row.name: row.self_value for row in profile.top(9, by="lock_blame")}
assert blamed["program.hold"] > 10 * blamed.get("<unknown holder>", 0), blamed
os._exit(0)
"""
    )


def test_who_was_given_a_lock_and_has_to_wait_for_the_gil_is_blamed(programs):
    programs.check(
        PREAMBLE
        + """
lock, is_over, never = threading.Lock(), threading.Event(), threading.Event()
def hold():
    with lock:
        is_over.wait()
    # Keeps the GIL, but not the lock.
    sum(range(100_000_000))
def use():
    with lock:
        pass
def use_too():
    with lock:
        pass
threads = begin(("hold", hold))
threads += begin(("use", use))
threads += begin(("use too", use_too))
with rprof.profile(rate=200, max_overhead=0, engine="direct") as block:
    time.sleep(0.2)
    is_over.set()
    for thread in threads:
        thread.join()
(name,) = [name for name in block.profile.labels()["lock"] if name.startswith("Lock ")]
part = block.profile.only_labels(lock=name)
blamed = {row.name: row.self_value for row in part.top(9, by="lock_blame")}
given = sum(blamed.get(f"program.{name}", 0) for name in ("use", "use_too"))
assert given > 5 * blamed.get("<unknown holder>", 0), blamed
assert not blamed.get("program.hold"), blamed
"""
    )


def test_functions_of_any_size_are_seen_to_wait_and_those_too_large_to_hold_are_counted(programs):
    programs.check(
        PREAMBLE
        + """
lock = threading.Lock()
names = ", ".join(f"v{number}" for number in range(300))
exec(f"def use({names}):\\n    with lock: pass")
# Each of these has an entry in the table of what is done where something is raised.
many = "    try: pause()\\n    except KeyError: pass\\n" * 9_000
exec("def hold():\\n    with lock:\\n        pause()\\n        return\\n" + many)
def pause():
    time.sleep(600)
begin(("hold", hold))
begin(("use", lambda: use(*range(300))))
((name, (waiters, blamed, wait, blame)),) = found(recorded()).items()
assert waiters == ["use"] and wait == blame > 0
# Before 3.11 a frame says itself in which blocks it is.
is_known = sys.version_info < (3, 11)
assert blamed == {"program.pause" if is_known else "<unknown holder>"}, blamed
assert (rprof.status().unasked_locks == 0) is is_known, rprof.status()
os._exit(0)
"""
    )
