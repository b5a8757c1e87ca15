"""Programs whose threads wait for locks, and for each other."""

from __future__ import annotations

PREAMBLE = """
import concurrent.futures, multiprocessing, os, queue, sys, threading, time
import rprof

def fail(*problem):
    "Ends at once: there are threads that never end."
    sys.__excepthook__(*problem)
    os._exit(1)
sys.excepthook = fail

def begin(*functions):
    "A thread for each function; returns when all are there, and stand still."
    threads = [
        threading.Thread(target=function, name=name, daemon=True) for name, function in functions
    ]
    for thread in threads:
        thread.start()
    def clocks():
        files = [f"/proc/self/task/{thread.native_id}/schedstat" for thread in threads]
        return [open(file).read().split()[0] for file in files]
    before = None
    while before != (before := clocks()):
        time.sleep(0.02)
    return threads

def recorded(**options):
    with rprof.profile(rate=200, max_overhead=0, engine="direct", **options) as block:
        time.sleep(0.3)
    return block.profile

def found(profile):
    "For each lock who waits, who is blamed, and both sums."
    locks = {}
    for name in profile.labels().get("lock", []):
        part = profile.only_labels(lock=name)
        waiters = sorted(thread.name for thread in part.threads if thread.totals["lock_wait"])
        blamed = {}
        if part.totals["lock_blame"]:
            blamed = {row.name: row.self_value for row in part.top(9, by="lock_blame")}
        blamed = {name for name, value in blamed.items() if value}
        locks[name] = (waiters, blamed, part.totals["lock_wait"], part.totals["lock_blame"])
    return locks
"""

PROGRAM = """
class Pool:
    def __init__(self):
        self._lock = threading.Lock()
        self._reentrant = threading.RLock()
        self._condition = threading.Condition(threading.Lock())
    def hold(self):
        with self._lock:
            pause()
    def use(self):
        with self._lock:
            pass
    def hold_reentrant(self):
        self._reentrant.acquire()
        pause()
    def use_reentrant(self):
        self._reentrant.acquire(timeout=600)
    def hold_condition(self):
        with self._condition:
            pause()
    def use_condition(self):
        with self._condition:
            pass

def pause():
    time.sleep(600)

pool = Pool()
BARE = threading.Lock()
# One of another kind would be told as leaked by who watches over them.
SHARED = multiprocessing.get_context("fork").Lock()
executor = concurrent.futures.ThreadPoolExecutor(1)
future = executor.submit(pause)
jobs, simple, event = queue.Queue(), queue.SimpleQueue(), threading.Event()
semaphore = threading.Semaphore(0)

def hold_bare():
    BARE.acquire()
    pause()
def use_bare():
    BARE.acquire()
def hold_shared():
    with SHARED:
        pause()
def use_shared():
    with SHARED:
        pass
def join():
    holder.join()

holder, *_ = begin(
    ("hold", pool.hold),
    ("hold_reentrant", pool.hold_reentrant),
    ("hold_condition", pool.hold_condition),
    ("hold_bare", hold_bare),
    ("hold_shared", hold_shared),
)
begin(
    ("use", pool.use),
    ("use too", pool.use),
    ("use_reentrant", pool.use_reentrant),
    ("use_condition", pool.use_condition),
    ("use_bare", use_bare),
    ("use_shared", use_shared),
    ("join", join),
    ("result", lambda: future.result()),
    ("get", lambda: jobs.get()),
    ("get simply", lambda: simple.get(timeout=600)),
    ("event", lambda: event.wait()),
    ("semaphore", lambda: semaphore.acquire()),
)
"""
