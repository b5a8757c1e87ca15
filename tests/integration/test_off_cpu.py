"""Why threads wait, as the profile says: each of these waits is known beforehand."""

from __future__ import annotations

import os
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux tells why a thread waits")

PREAMBLE = """
import fcntl, os, queue, select, socket, subprocess, sys, tempfile, threading, time
import rprof

def seconds(profile, off=None):
    "Wall seconds of each thread by its name."
    chosen = profile if off is None else profile.only_labels(off=off)
    return {thread.name: thread.totals["wall"] / 1e9 for thread in chosen.threads}

def reasons(profile):
    "For each thread, the reasons and how many seconds it waited for each."
    found = {}
    for off in profile.labels().get("off", []):
        for name, wall in seconds(profile, off).items():
            found.setdefault(name, {})[off] = wall
    return found
"""

WAITS = """
left, right = socket.socketpair()
server = socket.create_server(("127.0.0.1", 0))
tcp = socket.create_connection(server.getsockname())
peer, _ = server.accept()
epoll = select.epoll(); epoll.register(left, select.EPOLLIN)
pipe, far_end = os.pipe()
fifo = os.path.join(tempfile.mkdtemp(), "fifo"); os.mkfifo(fifo)
fifo = os.open(fifo, os.O_RDWR)
polled = select.poll(); polled.register(pipe, select.POLLIN)
asked = select.poll(); asked.register(left, select.POLLIN)
held = threading.Lock(); held.acquire()
locked = tempfile.NamedTemporaryFile(); fcntl.flock(locked, fcntl.LOCK_EX)
again = open(locked.name)
until_told = [sys.executable, "-c", "import sys; sys.stdin.read()"]
child = subprocess.Popen(until_told, stdin=subprocess.PIPE)

WAITS = {
    "acquire": ("lock", held.acquire),
    "event": ("lock", threading.Event().wait),
    "queue": ("lock", queue.SimpleQueue().get),
    "flock": ("lock", lambda: fcntl.flock(again, fcntl.LOCK_EX)),
    "sleep": ("sleep", lambda: time.sleep(600)),
    "select of nothing": ("sleep", lambda: select.select([], [], [], 600)),
    "recv": ("network", lambda: tcp.recv(1)),
    "read of a socket": ("network", lambda: os.read(tcp.fileno(), 1)),
    "accept": ("network", server.accept),
    "epoll": ("network", epoll.poll),
    "select": ("network", lambda: select.select([left], [], [])),
    "poll": ("network", asked.poll),
    "wait": ("child", child.wait),
    "pipe": ("other", lambda: os.read(pipe, 1)),
    "named pipe": ("other", lambda: os.read(fifo, 1)),
    "poll of a pipe": ("other", polled.poll),
}

def begin():
    "A thread in each of the waits; returns when all are there."
    entered = []
    def wait(name):
        entered.append(threading.get_native_id())
        WAITS[name][1]()
    for name in WAITS:
        threading.Thread(target=wait, args=(name,), name=name, daemon=True).start()
    def blocked(thread):
        with open(f"/proc/self/task/{thread}/stat") as file:
            return file.read().rsplit(")")[1].split()[0] == "S"
    def clocks():
        files = [f"/proc/self/task/{thread}/schedstat" for thread in entered]
        return [open(file).read().split()[0] for file in files]
    before = None
    # One that is on its way waits, too: for the GIL.
    while (
        len(entered) < len(WAITS)
        or not all(map(blocked, entered))
        or before != (before := clocks())
    ):
        time.sleep(0.01)

def recorded():
    with rprof.profile(rate=200, max_overhead=0, engine="direct") as block:
        time.sleep(0.3)
    return block.profile
"""


def test_each_wait_has_its_reason(programs):
    programs.check(
        PREAMBLE
        + WAITS
        + """
begin()
profile = recorded()
found = reasons(profile)
expected = {name: [off] for name, (off, _) in WAITS.items()}
assert {name: list(found[name]) for name in WAITS} == expected, found
# All of the time has its reason: the sums are the same.
wall = seconds(profile)
for name in WAITS:
    assert abs(sum(found[name].values()) - wall[name]) < 1e-6, (name, found[name], wall[name])
child.stdin.close()
os._exit(0)
"""
    )


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can change its user"
)
def test_reasons_are_told_by_a_process_that_has_changed_its_user(programs):
    programs.check(
        PREAMBLE
        + WAITS
        + """
with rprof.profile() as block: pass  # What is needed later is loaded while it can be read.
os.setgroups([]); os.setgid(65534); os.setuid(65534)
begin()
found = reasons(recorded())
for name, (off, _) in WAITS.items():
    # By the function of the kernel: which futex it is, which descriptors are polled, and whether
    # any are (CPython 3.10 sleeps so), is not told.
    told = [off]
    if name in ("acquire", "event", "queue"):
        told = [off] if name in found else []
    elif name in ("select of nothing", "select", "poll", "poll of a pipe") or (
        name == "sleep" and sys.version_info < (3, 11)
    ):
        told = ["other" if sys.version_info < (3, 11) else "network"]
    assert list(found.get(name, {})) == told, (name, found)
child.stdin.close()
os._exit(0)
"""
    )


def test_the_wait_for_the_gil_is_its_own_reason(programs):
    programs.check(
        PREAMBLE
        + """
from burning import burn
with rprof.profile(rate=500, max_overhead=0, engine="direct") as block:
    threads = [threading.Thread(target=burn, args=(0.3,)) for _ in range(3)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
profile = block.profile
waited = profile.only_labels(off="gil").totals
assert waited["wall"] == waited["gil_wait"] == profile.totals["gil_wait"] > 0, waited
# No time on a CPU is charged under a reason for being on none.
for off in profile.labels()["off"]:
    assert profile.only_labels(off=off).totals["cpu"] == 0, off
"""
    )


def test_waits_for_a_cpu_are_those_that_the_kernel_counts(programs):
    programs.check(
        PREAMBLE
        + """
import hashlib
from rprof import _native
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
BLOB = bytes(1 << 20)
counted = {}
begun, over, told = threading.Barrier(4), threading.Event(), threading.Event()

def waited():
    with open(f"/proc/self/task/{threading.get_native_id()}/schedstat") as file:
        return int(file.read().split()[1]) / 1e9

def digest():
    begun.wait()
    before = waited()
    while not over.is_set():
        hashlib.sha256(BLOB).digest()
    counted[threading.current_thread().name] = waited() - before
    told.wait()

threads = [threading.Thread(target=digest, name=f"digest-{n}", daemon=True) for n in range(3)]
for thread in threads: thread.start()
with rprof.profile(rate=100, max_overhead=0, engine="direct") as block:
    begun.wait()
    time.sleep(2)
    over.set()
    while len(counted) < len(threads):
        time.sleep(0.01)
    # The kernel tells of a wait at its end: it is found at the next tick.
    ticks = _native.counters()["ticks"]
    while _native.counters()["ticks"] < ticks + 3:
        time.sleep(0.01)
    told.set()
    for thread in threads: thread.join()
profile = block.profile
charged = {thread.name: thread.totals["cpu_wait"] / 1e9 for thread in profile.threads}
shown = seconds(profile, "cpu-queue")
for name, truth in counted.items():
    assert truth > 0.5, counted
    assert abs(charged[name] - truth) < 0.15 * truth, (name, charged, counted)
    assert abs(shown[name] - truth) < 0.3 * truth, (name, shown, counted)
"""
    )
