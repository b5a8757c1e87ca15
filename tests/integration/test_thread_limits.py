"""Processes at their limit of processes and threads: the program goes on, and rprof when it can.

The kernel counts by user, so each program becomes a user of its own: programs that run at the same
time are not in each other's way.
"""

from __future__ import annotations

import os
import sys

import pytest

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="threads count as processes on Linux"),
    pytest.mark.skipif(
        not hasattr(os, "geteuid") or os.geteuid() != 0,
        reason="only root can become another user, whose threads are counted apart",
    ),
]

# Whoever waits for a thread that is not there waits for longer.
TIMEOUT = 25

PREAMBLE = """
import logging, os, pathlib, resource, signal, sys, tempfile, threading, time, urllib.request
import rprof, rprof.middleware.asgi, rprof.middleware.wsgi
from burning import burn

USER = 20_000 + os.getpid() % 10_000
MOST = 1_000
told = []
class Told(logging.Handler):
    def emit(self, record): told.append(record.getMessage())
logging.getLogger("rprof").addHandler(Told())

def become_limited():
    "Becomes a user of its own that may have two threads: this one, and a child's."
    os.setgroups([]); os.setgid(65534)
    resource.setrlimit(resource.RLIMIT_NPROC, (2, MOST))
    os.setresuid(USER, USER, USER)

def limit(threads):
    resource.setrlimit(resource.RLIMIT_NPROC, (threads, MOST))

# Before the hooks of rprof: a child takes its own place and no thread's.
os.register_at_fork(after_in_child=lambda: limit(1))

place, held = os.pipe()
def fork():
    "A child that takes the last place until this process has ended, or lets it go."
    pid = os.fork()
    if pid == 0:
        os.close(held)
        os.read(place, 1)
        os._exit(0)
    return pid

def end_children(*pids):
    os.write(held, b"." * len(pids))
    for pid in pids: os.waitpid(pid, 0)

def until(is_so, what="it does not come to that"):
    end = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < end, what
        time.sleep(0.01)

def refusals():
    return [text for text in told if "cannot start the thread" in text]

# What is needed later is loaded while it can be read.
with rprof.profile() as block: pass
block.profile.totals, block.profile.top(), rprof.status(), rprof.dump(), rprof.request("x")
import rprof._watch
"""

ENGINES = ["direct", "gil"]


def _check(programs, code, engine="auto"):
    return programs.check(PREAMBLE + code, timeout=TIMEOUT, WANTED=engine)


ENDS = {
    "stop": "print(rprof.stop().totals['samples'] > 0)",
    "flush": "print(rprof.flush())",
    "dump": "print('in fork' not in rprof.dump())",
    "end": "pass",
    "exit": "sys.exit(3)",
    "exception": "raise ValueError('of the program')",
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("end", ENDS)
def test_whoever_asks_after_a_fork_at_the_limit_is_answered(programs, end, engine):
    done = programs.run(
        PREAMBLE
        + f"""
rprof.start(None, rate=1000, max_overhead=0, engine={engine!r})
burn(0.1)
become_limited()
child = fork()
assert rprof.is_running() and rprof.status().running
{ENDS[end]}
""",
        timeout=TIMEOUT,
    )
    assert done.returncode == {"exit": 3, "exception": 1}.get(end, 0), done
    assert "rprof" not in done.stderr, done
    assert done.stderr.endswith("ValueError: of the program\n") == (end == "exception"), done
    assert (end == "exception") or done.stderr == "", done
    assert done.stdout == {"stop": "True\n", "flush": "None\n", "dump": "True\n"}.get(end, "")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_block_over_such_a_fork_ends_with_what_it_has_seen(programs, engine):
    _check(
        programs,
        f"""
with rprof.profile(rate=1000, max_overhead=0, engine={engine!r}) as block:
    burn(0.1)
    become_limited()
    child = fork()
    burn(0.05)
assert block.profile.totals["samples"] > 0
assert block.profile.facts["unattended_seconds"] > 0
# To begin another one is refused, in one sentence.
try:
    rprof.start(None)
except rprof.RprofError as error:
    assert "cannot start the thread" in str(error) and "\\n" not in str(error), error
else:
    raise AssertionError("a recording has begun without a thread")
assert not rprof.is_running()
limit(MOST)
rprof.start(None)
burn(0.1)
assert rprof.stop().totals["samples"] > 0
""",
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_it_goes_on_when_it_can_and_says_how_long_it_did_not(programs, engine):
    _check(
        programs,
        f"""
def before(): burn(0.2)
def unseen(): burn(0.3)
def after(): burn(0.2)
began = time.monotonic()
rprof.start(None, rate=1000, max_overhead=0, engine={engine!r}, recent=0)
before()
become_limited()
child = fork()
unseen()
assert rprof.status().refused_threads > 0
limit(MOST)
until(lambda: rprof.status().unattended_seconds > 0)
after()
unattended = rprof.status().unattended_seconds
profile = rprof.stop()
elapsed = time.monotonic() - began
assert unattended > 0.3, unattended
names = {{row.name for row in profile.top(1000)}}
assert not any("unseen" in name for name in names), names
assert any("before" in name for name in names) and any("after" in name for name in names), names
for kind in ("wall", "cpu"):
    (main,) = [thread for thread in profile.threads if thread.name == "MainThread"]
    assert 0 < main.totals[kind] / 1e9 <= elapsed - unattended, (kind, main, elapsed, unattended)
assert abs(profile.facts["unattended_seconds"] - unattended) < 0.001, (profile.facts, unattended)
# Told once, however often it was refused.
assert len(refusals()) == 1, told
""",
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_forks_in_a_row(programs, engine):
    _check(
        programs,
        f"""
rprof.start(None, rate=1000, max_overhead=0, engine={engine!r})
burn(0.1)
become_limited()
children = []
for turn in range(5):
    limit(2 + turn)
    children.append(fork())
    with rprof.labels(turn=str(turn)): pass
    if turn == 2: assert rprof.flush() is None
limit(MOST)
end_children(*children)
# The next fork starts what is missing.
end_children(fork())
until(lambda: rprof.status().unattended_seconds > 0)
burn(0.1)
assert rprof.stop().totals["samples"] > 0
assert len(refusals()) == 1, told
""",
    )


def test_a_label_or_a_request_has_it_tried_again(programs):
    _check(
        programs,
        """
def use_labels():
    with rprof.labels(a="b"): pass
def use_request():
    with rprof.request("r"): pass
rprof.start(None, rate=1000, max_overhead=0)
become_limited()
for use in (use_labels, use_request):
    limit(2)
    child = fork()
    assert len(os.listdir("/proc/self/task")) == 1
    for _ in range(1000): use()
    limit(MOST)
    def comes_again():
        use()
        return len(os.listdir("/proc/self/task")) > 1
    until(comes_again)
    end_children(child)
rprof.stop()
""",
    )


def test_windows_are_written_without_a_writer(programs):
    _check(
        programs,
        """
directory = tempfile.mkdtemp()
rprof.start(directory, rate=1000, max_overhead=0)
burn(0.1)
os.chown(directory, USER, 65534)
become_limited()
child = fork()
path = rprof.flush()
assert path is not None and path.is_file(), rprof.status()
rprof.stop()
files = sorted(os.listdir(directory))
assert len(files) == 2 and rprof.status().windows == 2, files
for name in files: os.unlink(os.path.join(directory, name))
os.rmdir(directory)
""",
    )


def test_one_thread_brings_the_other_back(programs):
    """The sampler has the writer's started, or the writer the sampler's, without any call."""
    _check(
        programs,
        """
directory = tempfile.mkdtemp()
# The other engine has one thread more.
rprof.start(directory, rate=1000, max_overhead=0, window=0.05, engine="gil", recent=0)
os.chown(directory, USER, 65534)
become_limited()
until(lambda: len(os.listdir(directory)) > 0)
limit(3)
child = fork()
# The kernel may still count those that have ended.
until(lambda: rprof.status() and len(os.listdir("/proc/self/task")) == 2)
before = len(os.listdir(directory))
limit(MOST)
until(lambda: len(os.listdir(directory)) > before)
until(lambda: len(os.listdir("/proc/self/task")) == 3)
rprof.stop()
for name in os.listdir(directory): os.unlink(os.path.join(directory, name))
os.rmdir(directory)
""",
    )


SERVING = """
def wsgi_app(environ, start_response):
    start_response("200 OK", [])
    return [b"fine"]
async def asgi_app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"fine"})
wsgi = rprof.middleware.wsgi.WSGIMiddleware(wsgi_app, slow_after=SLOW)
asgi = rprof.middleware.asgi.ASGIMiddleware(asgi_app, slow_after=SLOW)
def ask_wsgi():
    answers = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/a", "SCRIPT_NAME": "", "QUERY_STRING": ""}
    body = wsgi(environ, lambda status, headers, *_: answers.append(status))
    assert (answers, b"".join(body)) == (["200 OK"], b"fine")
    getattr(body, "close", int)()
def ask_asgi():
    sent = []
    async def send(message): sent.append(message)
    async def receive(): return {"type": "http.disconnect"}
    scope = {"type": "http", "method": "GET", "path": "/b", "headers": [], "query_string": b""}
    running = asgi(scope, receive, send)
    try:
        while True: running.send(None)
    except StopIteration: pass
    assert sent[0]["status"] == 200 and sent[1]["body"] == b"fine", sent
def ask_request():
    with rprof.request("job", slow_after=SLOW): pass
ASK = (ask_wsgi, ask_asgi, ask_request)
"""


@pytest.mark.parametrize("is_known", [False, True], ids=["first", "after-a-fork"])
def test_requests_are_served_and_watched_once_they_can_be(programs, is_known):
    _check(
        programs,
        "SLOW = 3600.0\n"
        + SERVING
        + f"""
slow = []
class Slow(logging.Handler):
    def emit(self, record): slow.append(record.getMessage())
logging.getLogger("rprof.slow").addHandler(Slow())
if {is_known}:
    for ask in ASK: ask()
    rprof._watch.ensure()
else:
    # What the first request would load.
    rprof.start(None)
    rprof._watch.begin_flight(rprof._watch.resolve({{}}, "watching"))
    rprof.stop()
become_limited()
child = fork()
for _ in range(50):
    for ask in ASK: ask()
assert not slow
assert rprof.status().refused_threads > 0
# Told once, however often it is tried again.
rprof._watch._tried_at = float("-inf")
for ask in ASK: ask()
assert len(refusals()) == 1, told
limit(MOST)
def is_told():
    with rprof.request("slow one", slow_after=0.01):
        time.sleep(0.05)
    return any("slow one" in text for text in slow)
until(is_told)
for ask in ASK: ask()
""",
    )


def test_an_endpoint_answers_without_workers(programs):
    _check(
        programs,
        """
endpoint = rprof.serve()
base = f"http://{endpoint.address}/debug/pprof/"
def get(path):
    try:
        with urllib.request.urlopen(base + path, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
import urllib.error
assert get("status")[0] == 200
become_limited()
until(lambda: len(os.listdir("/proc/self/task")) <= 3)
limit(1)
for path in ("status", "threads?debug=2", "threads?format=json", "metrics"):
    status, body = get(path)
    assert status == 200 and body, (path, status, body)
# A recording needs the sampler's thread.
status, body = get("profile?seconds=0.1")
assert status == 503 and b"cannot start the thread" in body, (status, body)
limit(MOST)
status, body = get("profile?seconds=0.1")
assert status == 200, (status, body)
endpoint.stop()
""",
    )


def test_an_endpoint_and_dumps_come_back_after_a_fork_at_the_limit(programs):
    _check(
        programs,
        """
directory = tempfile.mkdtemp()
os.chown(directory, USER, 65534)
dumps = os.path.join(directory, "dumps")
rprof.dump_on_signal(signal.SIGUSR2, dumps)
endpoint = rprof.serve()
def answers():
    try:
        with urllib.request.urlopen(f"http://{endpoint.address}/debug/pprof/status", timeout=5):
            return True
    except OSError:
        return False
assert answers()
become_limited()
child = fork()
assert len(os.listdir("/proc/self/task")) == 1
assert not answers()
# It is remembered, and answered when there is somebody to.
os.kill(os.getpid(), signal.SIGUSR2)
assert not os.path.exists(dumps)
limit(MOST)
def is_back():
    rprof.status()
    return answers() and os.path.exists(dumps) and "MainThread" in open(dumps).read()
until(is_back)
endpoint.stop()
rprof.dump_on_signal(None)
os.unlink(dumps)
os.rmdir(directory)
""",
    )
