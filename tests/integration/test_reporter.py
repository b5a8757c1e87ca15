"""The thread that tells what was seen: the program neither notices it nor waits for it."""

from __future__ import annotations

import sys

import pytest
from support import ENGINE

pytestmark = pytest.mark.skipif(ENGINE != "direct", reason="the watcher looks without the GIL")

# `slow()` makes one report be told at least, and waits for it.
REPORT = """
import logging, os, signal, sys, threading, time
import rprof
told = threading.Event()
class Told(logging.Handler):
    def emit(self, record):
        self.look(record)
        if "took" in record.getMessage(): told.set()
    def look(self, record): pass
def slow(handler=Told):
    told.clear()
    logger = logging.getLogger("rprof.slow")
    logger.handlers[:] = [handler()]
    # On a busy machine a request may end before anybody has looked at it.
    give_up = time.monotonic() + 60
    while not told.is_set():
        assert time.monotonic() < give_up, rprof.status().last_error
        with rprof.request("x", route="/x", slow_after=0.02):
            end = time.monotonic() + 0.1
            while time.monotonic() < end: pass
        told.wait(10)
"""
BEGIN = {
    "watch": "rprof.watch(cpu=1000)",
    "a slow request": "slow()",
    "everything": (
        "rprof.start(None); rprof.watch(deadlock=1000); rprof.serve('127.0.0.1:0')\n"
        "rprof.dump_on_signal(signal.SIGUSR2, os.devnull); slow()"
    ),
}


@pytest.mark.parametrize("what", BEGIN)
def test_signals_that_are_blocked_later_are_the_program_s(programs, what):
    programs.check(
        REPORT
        + BEGIN[what]
        + """
wanted = {signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM, signal.SIGHUP}
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
for number in wanted:
    os.kill(os.getpid(), number)
    got = signal.sigtimedwait(wanted, 30)
    assert got and got.si_signo == number, (number, got)
# The kernel's own word: SigBlk of each thread of ours has every bit that can be set.
for thread in os.listdir("/proc/self/task"):
    with open(f"/proc/self/task/{thread}/status") as file:
        status = dict(line.rstrip().split(":", 1) for line in file)
    if status["Name"].strip().startswith("rprof"):
        assert int(status["SigBlk"], 16) & 0x7ffb_feff == 0x7ffb_feff, status
"""
    )


# A handler may ask who it runs on, and a record does.
ASKING = """
class Asking(Told):
    def look(self, record):
        assert record.threadName == "rprof-reporter", record.threadName
        assert record.thread == threading.get_ident()
        assert record.process == os.getpid() and record.name == "rprof.slow"
        assert abs(record.created - time.time()) < 60
        text = logging.Formatter(
            "%(asctime)s %(msecs)d %(relativeCreated)d %(levelname)s %(pathname)s:%(lineno)d "
            "%(funcName)s %(module)s %(threadName)s %(thread)d %(processName)s %(message)s"
            + (" %(taskName)s" if sys.version_info >= (3, 12) else "")
        ).format(record)
        assert "MainProcess" in text and "request x" in text, text
        threading.current_thread()
"""


@pytest.mark.parametrize("handler", ["Told", "Asking"])
@pytest.mark.parametrize("way", ["join", "count"])
def test_a_program_that_waits_for_all_threads_ends(programs, handler, way):
    programs.check(
        REPORT
        + ASKING
        + f"""
slow({handler})
rprof.watch(deadlock=1000, rss=1 << 40)
worker = threading.Thread(target=time.sleep, args=(0.1,))
worker.start()
# While a handler asks for its thread it is listed, and a moment later no more.
slow({handler})
def others(): return [t for t in threading.enumerate() if t is not threading.current_thread()]
end = time.monotonic() + 30
while any(isinstance(thread, threading._DummyThread) for thread in others()):
    assert time.monotonic() < end, others()
    time.sleep(0.01)
if {way!r} == "join":
    for thread in others(): thread.join()
else:
    while threading.active_count() > 1: time.sleep(0.01)
assert threading.enumerate() == [threading.current_thread()]
"""
    )


def test_no_report_is_ever_seen_in_the_list_of_threads(programs):
    """Not even while it is being told, unless a handler asks."""
    programs.check(
        REPORT
        + """
class Looking(Told):
    def look(self, record):
        names = [thread.name for thread in threading.enumerate()]
        if names != ["MainThread"]: print(names, flush=True)
for _ in range(5): slow(Looking)
"""
    )


MAKERS = {
    "a factory": """
made = logging.getLogRecordFactory()
def make(*args, **named):
    record = made(*args, **named)
    record.mine = "yes"
    return record
logging.setLogRecordFactory(make)
""",
    "a method": """
made = logging.Logger.makeRecord
def make(self, *args, **named):
    record = made(self, *args, **named)
    record.mine = "yes"
    return record
logging.Logger.makeRecord = make
""",
    "a class": """
class Logger(logging.Logger):
    def makeRecord(self, *args, **named):
        record = super().makeRecord(*args, **named)
        record.mine = "yes"
        return record
logging.setLoggerClass(Logger)
""",
}


@pytest.mark.parametrize("what", MAKERS)
def test_an_application_makes_its_own_records(programs, what):
    programs.check(
        "import logging\n"
        + MAKERS[what]
        + REPORT
        + """
class Mine(Told):
    def look(self, record):
        assert record.mine == "yes" and record.threadName == "rprof-reporter"
        assert record.rprof["request"] == "x"
slow(Mine)
end = time.monotonic() + 30
while threading.active_count() > 1:
    assert time.monotonic() < end, threading.enumerate()
    time.sleep(0.01)
"""
    )


@pytest.mark.parametrize("error", ["ValueError", "SystemExit", "KeyboardInterrupt"])
def test_a_handler_that_raises_spoils_no_other_report(programs, error):
    programs.check(
        REPORT
        + f"""
class Raising(Told):
    def emit(self, record):
        super().emit(record)
        raise {error}("no log today")
slow(Raising)
end = time.monotonic() + 30
while "no log today" not in (rprof.status().last_error or ""):
    assert time.monotonic() < end, rprof.status()
    time.sleep(0.01)
slow()
"""
    )


# What waits for the GIL when the interpreter is gone is ended by it up to CPython 3.13.
STUCK = {
    "a pipe": "os.read(os.pipe()[0], 1)",
    "a lock": "threading.Lock().acquire() and lock.acquire()",
    "a loop": "[time.sleep(0.001) for _ in range(10**9)]",
}


@pytest.mark.parametrize("what", STUCK)
def test_a_handler_that_is_stuck_does_not_keep_the_process(programs, what):
    programs.check(
        REPORT
        + f"""
lock = threading.Lock()
lock.acquire()
class Stuck(Told):
    def look(self, record):
        told.set()
        {STUCK[what]}
slow(Stuck)
print("the program has ended", flush=True)
""",
        timeout=60,
    )


def test_a_handler_that_is_stuck_does_not_keep_a_fork(programs):
    programs.check(
        REPORT
        + """
free = threading.Event()
class Stuck(Told):
    def look(self, record):
        told.set()
        free.wait()
slow(Stuck)
child = os.fork()
if child == 0:
    logging.getLogger("rprof.slow").handlers.clear()
    slow()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
free.set()
slow()
""",
        *(["-W", "ignore"] if sys.version_info >= (3, 12) else []),
    )


def test_forks_and_reports_at_once(programs):
    programs.check(
        REPORT
        + """
seen = threading.Event()
class Seen(Told):
    def look(self, record): seen.set()
rprof.start(None)
logging.getLogger("rprof.slow").handlers[:] = [Seen()]
for _ in range(20):
    told.clear(); seen.clear()
    with rprof.request("x", route="/x", slow_after=0.001): assert seen.wait(30)
    # The end of the request is about to be told.
    child = os.fork()
    if child == 0: os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert told.wait(30), rprof.status().last_error
""",
        timeout=120,
    )


def test_tracing_may_start_and_stop_meanwhile(programs):
    programs.check(
        REPORT
        + """
import tracemalloc
quit = False
def trace():
    while not quit:
        tracemalloc.start(); tracemalloc.stop()
slow()
worker = threading.Thread(target=trace)
worker.start()
for _ in range(20): slow()
quit = True
worker.join()
tracemalloc.start()
slow()
""",
        timeout=120,
    )


def test_tracing_from_the_start(programs):
    programs.check(REPORT + "slow(); slow()", "-X", "tracemalloc")


def test_under_gevent(programs):
    pytest.importorskip("gevent")
    programs.check(
        "import gevent.monkey; gevent.monkey.patch_all()\n"
        + REPORT
        + """
import gevent
before = len(os.listdir("/proc/self/fd"))
for _ in range(3): slow()
assert [thread.name for thread in threading.enumerate()] == ["MainThread"], threading.enumerate()
after = len(os.listdir("/proc/self/fd"))
for _ in range(10): slow()
assert len(os.listdir("/proc/self/fd")) <= after, (before, after)
child = os.fork()
if child == 0:
    slow()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
slow()
""",
        timeout=120,
    )


def test_a_queue_handler_hands_reports_on(programs):
    programs.check(
        REPORT
        + """
import logging.handlers, queue
records = queue.SimpleQueue()
logger = logging.getLogger("rprof.slow")
logger.handlers[:] = [logging.handlers.QueueHandler(records)]
with rprof.request("x", route="/x", slow_after=0.02): time.sleep(0.1)
found = []
while not any("took" in record.getMessage() for record in found):
    found.append(records.get(timeout=30))
assert {record.threadName for record in found} == {"rprof-reporter"}
"""
    )


def test_its_time_is_the_profiler_s(programs):
    """A profile shows the thread by its name, so that its samples count as rprof's own."""
    programs.check(
        REPORT
        + """
from burning import burn
class Burning(Told):
    def look(self, record): burn(0.2)
rprof.start(None, rate=500, max_overhead=1.0)
slow(Burning)
profile = rprof.stop()
names = {thread.name for thread in profile.threads}
assert "rprof-reporter" in names and "" not in names, names
"""
    )


NO_THREADS = """
import ctypes, resource
def cut_off():
    os.setresuid(65534, 65534, 65534)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1000))
def lift():
    resource.setrlimit(resource.RLIMIT_NPROC, (1000, 1000))
def begins():
    thread = threading.Thread(target=int)
    try: thread.start()
    except RuntimeError: return False
    thread.join()
    return True
"""


def test_a_request_goes_on_where_no_thread_can_be_had(programs):
    done = programs.run(
        REPORT
        + NO_THREADS
        + """
import rprof._watch
# Loaded while it can be read: another user may not look into this environment.
rprof.request, rprof.status
os.chdir("/")
if os.getuid() != 0: raise SystemExit(77)
cut_off()
assert not begins()
for _ in range(3):
    with rprof.request("x", route="/x", slow_after=0.001): time.sleep(0.005)
lift()
assert begins()
end = time.monotonic() + 60
logging.getLogger("rprof.slow").handlers[:] = [Told()]
# It is tried again now and then.
while not told.is_set():
    assert time.monotonic() < end, rprof.status().last_error
    with rprof.request("x", route="/x", slow_after=0.001): time.sleep(0.05)
"""
    )
    if done.returncode == 77:
        pytest.skip("only root can become a user that has no thread left")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_look_that_is_told_late_still_says_whose_it_was(programs):
    """The request has ended by then; the handler of the first report keeps the second waiting."""
    programs.check(
        REPORT
        + """
looks, free = [], threading.Event()
class Slow(Told):
    def look(self, record):
        if "so far" in record.getMessage():
            looks.append(record.rprof)
            free.wait()
logging.getLogger("rprof.slow").handlers[:] = [Slow()]
with rprof.request("x", route="/x", slow_after=0.02, repeat=0.02, user="ada"):
    end = time.monotonic() + 30
    while len(looks) < 1: assert time.monotonic() < end
    time.sleep(0.2)
free.set()
assert told.wait(30)
assert len(looks) >= 2 and all(look["info"] == {"user": "ada"} for look in looks), looks
"""
    )
