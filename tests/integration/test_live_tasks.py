"""`rprof live --tasks`, and the keys that change what it shows."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from support import ENGINE

pytestmark = pytest.mark.skipif(ENGINE != "direct", reason="tasks are read by the direct engine")

SERVICE = """
import asyncio, os, sys, rprof
class Pool:
    def __init__(self): self._lock = asyncio.Lock()
    async def fill(self):
        async with self._lock: await forever()
    async def use(self):
        async with self._lock: pass
async def forever(): await asyncio.get_running_loop().create_future()
async def leaf(event): await event.wait()
async def worker(event): await leaf(event)
async def settle():
    for _ in range(20): await asyncio.sleep(0)
async def main(count):
    pool, event = Pool(), asyncio.Event()
    tasks = [asyncio.create_task(pool.fill(), name="filler")]
    await settle()
    tasks += [asyncio.create_task(pool.use()) for _ in range(3)]
    tasks += [asyncio.create_task(worker(event)) for _ in range(count)]
    await settle()
    print(rprof.serve("127.0.0.1:0").address, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    # What waits for ever is not to be cleared up.
    os._exit(0)
asyncio.run(main(COUNT))
"""


@pytest.fixture
def live(programs, services):
    """Gives the words of the command that watches a service with so many tasks that wait."""

    def words(count, *options):
        service = services(SERVICE.replace("COUNT", str(count)))
        address = f"http://{service.address}"
        return [sys.executable, "-m", "rprof", "live", address, "--interval", "0.1", *options]

    return words


def test_tasks_of_an_endpoint(live, programs):
    done = subprocess.run(
        live(30, "--tasks", "--once"),
        env=programs.environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    head, states, _, *lines = done.stdout.splitlines()
    assert head.endswith(": 35 tasks")
    assert states == "35 waiting"
    assert lines[0] == "30 tasks wait for asyncio.Event event"
    assert lines[1].startswith(
        '3 tasks wait for asyncio.Lock Pool._lock, held by task "filler" in program.forever ('
    )
    assert "1 task waits" not in done.stdout
    assert "     30  waiting    program.worker > program.leaf > asyncio." in done.stdout
    # CPython 3.10 does not tell the class.
    assert re.search(r" 3  waiting    program\.(Pool\.)?use > ", done.stdout)
    assert '                    named "filler"' in lines


def test_ten_thousand_tasks_fit_on_a_screen(live, programs):
    words = live(10_000, "--tasks", "--once")
    text = subprocess.run(
        words, env=programs.environment(), capture_output=True, text=True, timeout=120, check=True
    ).stdout
    assert text.count("\n") < 25
    # 10,000 that wait, the filler and the three that wait for it, the main one; asyncio's sets may
    # have one that has ended.
    assert re.search(r": 1,000 tasks looked at, and 9,00[56] more listed\n", text)


def test_a_pipe_has_one_view_after_the_other(live, programs):
    with subprocess.Popen(
        live(3, "--tasks"), env=programs.environment(), stdout=subprocess.PIPE, text=True
    ) as watching:
        heads = (line for line in watching.stdout if line.startswith("http://"))
        assert [next(heads).endswith(": 8 tasks\n") for _ in range(3)] == [True] * 3
        # Whoever has seen enough goes away.
        watching.stdout.close()
        assert watching.wait(60) == 0


LEAD = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@contextmanager
def on_a_terminal(words, environment):
    """Run a command on a terminal of its own, of which this end is given."""
    master, slave = pty.openpty()
    command = [sys.executable, "-c", LEAD, *words]
    ends = {"stdin": slave, "stdout": slave, "stderr": slave}
    try:
        with subprocess.Popen(
            command, env={**environment, "TERM": "xterm"}, start_new_session=True, **ends
        ) as watching:
            os.close(slave)
            try:
                yield watching, master
            finally:
                watching.kill()
    finally:
        os.close(master)


def until(master, words):
    """Read what is drawn until it has these words."""
    deadline = time.monotonic() + 60
    seen = b""
    while words.encode() not in seen:
        assert time.monotonic() < deadline, seen.decode(errors="replace")
        if select.select([master], [], [], 1)[0]:
            seen += os.read(master, 65536)


def test_keys_go_from_threads_to_tasks_and_back(live, programs):
    with on_a_terminal(live(3), programs.environment()) as (watching, keys):
        until(keys, "t: tasks, q: end")
        until(keys, "% cpu")
        os.write(keys, b"t")
        until(keys, "t: threads, q: end")
        until(keys, "8 tasks")
        os.write(keys, b"xt")
        until(keys, "t: tasks, q: end")
        os.write(keys, b"q")
        assert watching.wait(60) == 0


def test_a_view_that_a_key_asked_for_may_fail(live, programs):
    with on_a_terminal(live(3), programs.environment()) as (watching, keys):
        until(keys, "% cpu")
        os.write(keys, b"t")
        until(keys, "8 tasks")
        programs.end()
        until(keys, "does not answer")
        os.write(keys, b"q")
        assert watching.wait(60) == 0


def test_an_endpoint_that_has_no_tasks_says_so(programs, services):
    service = services(
        """
import sys, rprof
print(rprof.serve("127.0.0.1:0").address, flush=True)
sys.stdin.read()
"""
    )
    words = ["-m", "rprof", "live", f"http://{service.address}", "--tasks", "--once"]
    done = subprocess.run(
        [sys.executable, *words],
        env=programs.environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.rstrip().endswith(": no tasks")
