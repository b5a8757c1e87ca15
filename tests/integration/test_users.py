"""Processes that change their user, as servers do: the kernel then hides much of them."""

from __future__ import annotations

import os
import sys

import pytest

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="what is hidden is in Linux' /proc"),
    pytest.mark.skipif(
        not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can change its user"
    ),
]

PREAMBLE = """
import os, signal, sys, threading, time
import rprof
from burning import burn

def become_nobody():
    "As gunicorn's workers do; from here on it is not dumpable (prctl(2), PR_SET_DUMPABLE)."
    os.setgroups([]); os.setgid(65534); os.setuid(65534)

def waits(profile):
    "Time that threads waited for the GIL in seconds; None if the profile does not say."
    totals = {name.replace("-", "_"): value for name, value in profile.totals.items()}
    assert "gil" in totals
    return totals["gil_wait"] / 1e9 if "gil_wait" in totals else None

def compete(seconds=0.5):
    threads = [threading.Thread(target=burn, args=(seconds / 3,)) for _ in range(3)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()

def recorded():
    with rprof.profile(rate=500, max_overhead=0, engine="direct") as block:
        compete()
    return block.profile

# What is needed later is loaded while it can be read.
with rprof.profile() as block: pass
block.profile.totals
"""


def test_what_threads_wait_for_is_left_out_where_it_is_hidden(programs):
    programs.check(
        PREAMBLE
        + """
before = waits(recorded())
assert before > 0.3, before
if os.fork() == 0:
    become_nobody()
    profile = recorded()
    # Either the truth or nothing.
    after = waits(profile)
    assert after is None or abs(after - before) < before / 10, (before, after)
    if after is None:
        assert any("no gil_wait" in comment for comment in profile.comments), profile.comments
        assert "no gil_wait" in rprof.status().engine_reason, rprof.status()
    assert profile.totals["cpu"] > 0.4e9
    os._exit(0)
assert os.waitpid(-1, 0)[1] == 0
# It is the child's alone.
assert "no gil_wait" not in rprof.status().engine_reason
""",
        # The kernel may still count threads that have just been joined; CPython then warns.
        "-Wignore::DeprecationWarning",
    )


def test_windows_before_the_change_are_whole(programs):
    programs.check(
        PREAMBLE
        + """
rprof.start(None, rate=500, max_overhead=0, engine="direct", recent=0)
before = recorded()
become_nobody()
after = recorded()
assert waits(before) > 0.3, before.totals
assert waits(after) is None, after.totals
assert all("no gil_wait" not in comment for comment in before.comments)
assert any("no gil_wait" in comment for comment in after.comments)
# It spans both.
assert waits(rprof.stop()) is None
"""
    )


def test_threads_that_were_known_before_the_change_are_known_after_it(programs):
    programs.check(
        PREAMBLE
        + """
done = []
def work():
    while not done:
        burn(0.01)
        time.sleep(0.001)
rprof.start(None, rate=500, max_overhead=0, engine="direct", recent=0)
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads: thread.start()
burn(0.5)
become_nobody()
with rprof.profile(rate=500, max_overhead=0, engine="direct") as block:
    time.sleep(0.5)
done.append(True)
for thread in threads: thread.join()
assert waits(block.profile) > 0.3, block.profile.totals
rprof.stop()
"""
    )


def test_a_lock_is_told_from_another_wait(programs):
    out = programs.check(
        PREAMBLE
        + """
if os.fork() == 0:
    become_nobody()
    lock = threading.Lock()
    lock.acquire()
    def locked():
        with lock: pass
    def asleep():
        while not done: time.sleep(0.01)
    done = []
    threads = [threading.Thread(target=target) for target in (locked, asleep)]
    for thread in threads: thread.start()
    reader, writer = os.pipe()
    os.dup2(writer, 2)
    os.close(writer)
    rprof.dump_on_signal(signal.SIGUSR2)
    # Until they have come to where they stay.
    for _ in range(100):
        os.kill(os.getpid(), signal.SIGUSR2)
        text = ""
        while text.count("most recent call first") < 3: text += os.read(reader, 1 << 16).decode()
        while not text.endswith("\\n\\n"): text += os.read(reader, 1 << 16).decode()
        if "waits for a lock" in text and "program.asleep" in text: break
    rprof.dump_on_signal(None)
    print(text, flush=True)
    done.append(True)
    lock.release()
    for thread in threads: thread.join()
    os._exit(0)
assert os.waitpid(-1, 0)[1] == 0
"""
    )
    blocks = out.split("\n\n")
    assert any("program.locked" in block and "waits for a lock" in block for block in blocks), out
    assert any("program.asleep" in block and "blocked" in block for block in blocks), out
