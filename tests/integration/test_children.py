"""Forked children: those that become something else have no thread of ours, others are profiled."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
import rprof
from support import ENGINE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and namespaces")

CHILDREN = '''
import ctypes, os, subprocess, sys, time, rprof
NEW_USER = 0x10000000
libc = ctypes.CDLL(None, use_errno=True)

def threads():
    return len(os.listdir("/proc/self/task"))

def unshare():
    if libc.unshare(NEW_USER) != 0:
        raise OSError(ctypes.get_errno(), "unshare")

def run_in_child(work, fork=os.fork):
    """Return the exit code of a child that does this."""
    pid = fork()
    if type(pid) is tuple:
        pid = pid[0]
    if pid == 0:
        code = 99
        try:
            code = work() or 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
'''


def has_user_namespaces():
    done = subprocess.run(["unshare", "-U", "true"], check=False, capture_output=True)
    return done.returncode == 0


needs_namespaces = pytest.mark.skipif(
    not has_user_namespaces(), reason="no user namespace can be had here"
)


@needs_namespaces
@pytest.mark.parametrize("engine", ["direct", "gil"])
def test_a_child_may_have_a_user_namespace_of_its_own(programs, engine):
    programs.check(
        CHILDREN
        + f"""
rprof.start("out/", engine={engine!r}, rate=1000)
rprof.dump_on_signal(10)
rprof.serve("127.0.0.1:0")

def unshare_after_some_work():
    sum(i for i in range(100))
    unshare()

holder, told = os.pipe()
def enter_that_of_another():
    # Of a parent without threads: setns refuses as unshare does.
    unshare()
    os.write(told, b"x")
    time.sleep(60)

for _ in range(5):
    assert run_in_child(unshare) == 0
    assert run_in_child(unshare_after_some_work) == 0
    assert run_in_child(unshare, os.forkpty) == 0
    assert subprocess.run(["true"], preexec_fn=unshare).returncode == 0
pid = os.fork()
if pid == 0:
    enter_that_of_another()
assert os.read(holder, 1) == b"x"
def enter():
    file = os.open(f"/proc/{{pid}}/ns/user", os.O_RDONLY)
    if libc.setns(file, NEW_USER) != 0:
        return ctypes.get_errno()
assert run_in_child(enter) == 0
os.kill(pid, 9)
os.waitpid(pid, 0)
assert rprof.is_running()
rprof.stop()
"""
    )


def test_a_preexec_function_takes_as_long_as_it_likes(programs):
    programs.check(
        CHILDREN
        + """
rprof.start("out/", rate=1000)
def prepare():
    end = time.monotonic() + 0.2
    while time.monotonic() < end:
        sum(range(100))
    assert threads() == 1
    os.setsid()
for _ in range(3):
    subprocess.run(["true"], preexec_fn=prepare, check=True)
# A class of the application's, and one whose method is wrapped.
class Popen(subprocess.Popen):
    pass
assert Popen(["true"], preexec_fn=prepare).wait() == 0
execute = subprocess.Popen._execute_child
subprocess.Popen._execute_child = lambda *args: execute(*args)
subprocess.run(["true"], preexec_fn=prepare, check=True)
rprof.stop()
"""
    )
    assert len(programs.profiles("out")) == 1


def test_a_child_that_becomes_another_program_has_had_no_thread(programs):
    programs.check(
        CHILDREN
        + """
rprof.start("out/", rate=1000)
def become():
    os.setsid()
    for descriptor in range(3, 100):
        try: os.close(descriptor)
        except OSError: pass
    if threads() != 1:
        return 1
    os.execv("/bin/true", ["true"])
for _ in range(10):
    assert run_in_child(become) == 0
rprof.stop()
"""
    )
    assert len(programs.profiles("out")) == 1


BUSY = {
    "computes": "burn_two(0.3)",
    "calls": """
        end = time.monotonic() + 0.3
        while time.monotonic() < end: burn_two(0.001)
    """,
    "waits": """
        end = time.monotonic() + 0.3
        while time.monotonic() < end: time.sleep(0.001); burn_two(0.001)
    """,
    "has_a_thread": """
        import threading
        thread = threading.Thread(target=burn_two, args=(0.3,))
        thread.start()
        thread.join()
    """,
    "forks_again": """
        if os.fork(): os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
        burn_two(0.3)
    """,
}


@pytest.mark.parametrize("work", BUSY)
def test_a_child_that_lives_is_profiled_without_asking(programs, work):
    """It calls nothing of rprof's, and its file covers what it did."""
    if work == "waits" and ENGINE == "gil":
        pytest.skip("the gil engine gets its turn while the child waits, not in between")
    spent = programs.check(
        f"""
import os, sys, time, rprof
from burning import burn_one, burn_two
rprof.start("out/", rate=1000, max_overhead=1.0)
burn_one(0.05)
child = os.fork()
if child == 0:
    {textwrap.indent(textwrap.dedent(BUSY[work]), "    ").strip()}
    print(time.process_time())
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
rprof.stop()
"""
    )
    profiles = [rprof.load(path) for path in programs.profiles("out")]
    names = [{row.name: row for row in profile.top(1000, by="cpu")} for profile in profiles]
    child = [found for found in names if "burning.burn_two" in found]
    assert len(child) == 1
    assert "burning.burn_one" not in child[0]
    cpu = child[0]["burning.burn_two"].total_value
    profile = profiles[names.index(child[0])]
    # Nothing is claimed of the time before it went on, and most of the time is after that.
    assert profile.totals["wall"] <= profile.duration_ns * 2.1
    # The rest is spent before, and by rprof's threads, which cost a program that wakes often more.
    assert cpu >= (0.3 if work == "waits" else 0.6) * 1e9 * float(spent)


def test_what_asks_in_a_child_has_it_go_on_at_once(programs):
    programs.check(
        CHILDREN
        + """
rprof.start("out/", rate=1000)
rprof.dump_on_signal(10)
CALLS = {
    "status": lambda: rprof.status().running,
    "is_running": rprof.is_running,
    "stop": rprof.stop,
    "flush": rprof.flush,
    "recent": lambda: (sum(range(1_000_000)), rprof.recent()),
    "dump": lambda: (rprof.dump(), None)[1],
    "labels": lambda: rprof.labels(a="b").__enter__(),
    "request": lambda: rprof.request("a").__enter__(),
    "block": lambda: rprof.profile().__enter__(),
    "serve": lambda: rprof.serve("127.0.0.1:0"),
}
def check(call):
    before = threads()
    call()
    # After stop() one is left, for dumps.
    return 0 if before == 1 and threads() > 1 else 1
for name, call in CALLS.items():
    assert run_in_child(lambda: check(call)) == 0, name
def start():
    assert threads() == 1
    try: rprof.start("other/")
    except rprof.RprofStateError: pass
    else: return 1
    assert rprof.status().running
assert run_in_child(start) == 0
rprof.stop()
"""
    )


def test_a_child_that_cannot_be_profiled_works_and_says_so(programs):
    programs.check(
        CHILDREN
        + """
import logging
said = []
class Handler(logging.Handler):
    def emit(self, record): said.append(record.getMessage())
logging.getLogger("rprof").addHandler(Handler())
os.mkdir("out")
rprof.start("out/one.pb.gz", rate=1000)
os.rename("out", "gone")
with open("out", "w"): pass
def work():
    end = time.monotonic() + 0.2
    while time.monotonic() < end: sum(range(100))
    if said or rprof.is_running() or threads() != 1:
        return 1
    return 0 if len(said) == 1 and "profiling" in said[0] else 2
assert run_in_child(work) == 0
os.unlink("out")
os.rename("gone", "out")
rprof.stop()
"""
    )


def test_a_signal_handler_that_raises_meets_a_child_that_goes_on(programs):
    """Its exception reaches the program, and what was begun stays."""
    programs.check(
        CHILDREN
        + """
import signal
class Timeout(Exception): pass
def give_up(*_): raise Timeout
signal.signal(signal.SIGALRM, give_up)
rprof.start("out/", rate=1000)
def compute():
    # In a function of its own: CPython 3.13 leaves a jump back out of the `try` around it.
    end = time.monotonic() + 0.05
    while time.monotonic() < end: sum(range(100))
def work():
    hits = 0
    try:
        signal.setitimer(signal.ITIMER_REAL, delay)
        compute()
    except Timeout:
        hits += 1
    if not hits or not rprof.is_running():
        return 1
    rprof.stop()
    rprof.dump_on_signal(None)
    deadline = time.monotonic() + 10
    while threads() > 1 and time.monotonic() < deadline: time.sleep(0.001)
    return 0 if threads() == 1 else 2
for number in range(60):
    delay = 0.0001 + number * 0.0001
    assert run_in_child(work) == 0, number
rprof.stop()
"""
    )


@pytest.mark.parametrize("engine", ["direct", "gil"])
def test_children_of_multiprocessing(programs, engine):
    programs.check(
        f"""
        import multiprocessing, os, rprof
        from burning import burn_two
        def work(number):
            burn_two(0.1)
            return len(os.listdir("/proc/self/task"))
        rprof.start("out/", rate=1000, engine={engine!r})
        context = multiprocessing.get_context("fork")
        with context.Pool(2) as pool:
            assert all(count > 1 for count in pool.map(work, range(4), chunksize=2))
            pool.close()
            pool.join()
        rprof.stop()
        """
    )
    names = [
        {row.name for row in rprof.load(path).top(1000, by="cpu")}
        for path in programs.profiles("out")
    ]
    assert sum("burning.burn_two" in found for found in names) in (1, 2)
    assert os.listdir(programs.directory / "out")
