"""Tasks of asyncio, as they are seen without the GIL, against what the program knows of them."""

from __future__ import annotations

import json
import sys

import pytest
from support import ENGINE

pytestmark = pytest.mark.skipif(ENGINE != "direct", reason="tasks are read by the direct engine")

LOOK = """
import asyncio, json, os, sys, threading, urllib.request, rprof
endpoint = rprof.serve("127.0.0.1:0")
def fetch(form="format=json"):
    url = f"http://{endpoint.address}/debug/pprof/threads?{form}"
    with urllib.request.urlopen(url) as answer: return answer.read().decode()
def look():
    data = json.loads(fetch())
    return data["tasks"]
def tell(tasks): print(json.dumps(tasks))
async def seen(): return await asyncio.get_running_loop().run_in_executor(None, look)
async def settle():
    # Every task has got as far as it gets.
    for _ in range(20): await asyncio.sleep(0)
"""


def by_name(tasks):
    """Return the tasks that somebody named, with the names of those who wait for them."""
    for task in tasks:
        task["awaited_by"] = {tasks[waiter]["name"] for waiter in task["awaited_by"]}
    return {task["name"]: task for task in tasks if task["name"]}


def functions(task):
    """Return the functions of the program that a task is in, innermost first."""
    names = [frame["function"] for frame in task["frames"]]
    return [name.rpartition(".")[2] for name in names if not name.startswith("asyncio.")]


WAYS = """
import types
async def leaf(): await asyncio.Event().wait()
def child(name): return asyncio.create_task(leaf(), name="child of " + name)
async def awaited(): await child("awaited")
async def gathered(): await asyncio.gather(child("gathered"), leaf())
async def shielded(): await asyncio.shield(child("shielded"))
async def twice(): await asyncio.shield(asyncio.gather(child("twice")))
async def waited(): await asyncio.wait([child("waited")])
async def timed(): await asyncio.wait_for(child("timed"), 100)
async def completed():
    for one in asyncio.as_completed([child("completed")]): await one
async def grouped():
    async with asyncio.TaskGroup() as group:
        group.create_task(leaf(), name="child of grouped")
async def limited():
    async with asyncio.timeout(100): await child("limited")
async def stream():
    await leaf()
    yield
async def streaming():
    async for _ in stream(): pass
async def sending(): await stream().asend(None)
async def defaulting(): await anext(stream(), None)
class Steps:
    def __await__(self): return (yield from leaf().__await__())
async def stepping(): await Steps()
@types.coroutine
def old(): yield from leaf().__await__()
async def olden(): await old()
async def inside(): await awaited_inside()
async def awaited_inside(): await leaf()
ways = [awaited, gathered, shielded, twice, waited, timed, completed, streaming, sending]
ways += [defaulting, stepping, olden, inside]
if sys.version_info >= (3, 11): ways += [grouped, limited]
async def main():
    tasks = [asyncio.create_task(way(), name=way.__name__) for way in ways]
    await settle()
    tell(await seen())
    sys.stdout.flush()
    # What waits for ever is not to be cleared up.
    os._exit(0)
"""
RUNNERS = {
    "asyncio": "asyncio.run(main())",
    "uvloop": "import uvloop\nloop = uvloop.new_event_loop()\nloop.run_until_complete(main())",
    "thread": """
thread = threading.Thread(target=asyncio.run, args=(main(),))
thread.start(); thread.join()
""",
}


@pytest.mark.parametrize("runner", RUNNERS)
def test_each_way_to_wait_leads_to_who_waits(programs, runner):
    if runner == "uvloop":
        pytest.importorskip("uvloop", reason="it is not installed")
    found = by_name(json.loads(programs.check(LOOK + WAYS + RUNNERS[runner])))
    children = {name: task for name, task in found.items() if name.startswith("child of ")}
    ways = {"awaited", "gathered", "shielded", "twice", "waited", "timed", "completed"}
    if sys.version_info >= (3, 11):
        ways |= {"grouped", "limited"}
    assert {name.removeprefix("child of ") for name in children} == ways
    for name, task in children.items():
        assert task["awaited_by"] == {name.removeprefix("child of ")}
        assert functions(task) == ["leaf"]
    expected = {
        "streaming": ["leaf", "stream", "streaming"],
        "sending": ["leaf", "stream", "sending"],
        "defaulting": ["leaf", "stream", "defaulting"],
        "stepping": ["leaf", "__await__", "stepping"],
        "olden": ["leaf", "old", "olden"],
        "inside": ["leaf", "awaited_inside", "inside"],
    } | {way: [way] for way in ways}
    stacks = {name: functions(found[name]) for name in expected}
    assert stacks == expected
    assert {task["state"] for task in found.values()} == {"waiting"}


def test_lines_are_those_that_the_program_knows(programs):
    told, tasks = map(
        json.loads,
        programs.check(
            LOOK
            + """
async def leaf(event):
    before = 1
    await event.wait()
async def middle(event):
    if event:
        await leaf(
            event,
        )
async def root(event):
    async with asyncio.Lock():
        await middle(event)
def lines(step):
    found = []
    while step is not None:
        frame = getattr(step, "cr_frame", None)
        if frame is not None: found.append(frame.f_lineno)
        step = getattr(step, "cr_await", None)
    return found[::-1]
async def main():
    event = asyncio.Event()
    task = asyncio.create_task(root(event), name="root")
    new = asyncio.create_task(root(event), name="never begun")
    await settle()
    tasks = await seen()
    tell(lines(task.get_coro()))
    tell(tasks)
    event.set()
    await task
    await new
asyncio.run(main())
"""
        ).splitlines(),
    )
    root = by_name(tasks)["root"]
    assert [frame["line"] for frame in root["frames"]] == told
    assert len(told) == 4


def test_tasks_that_are_being_cancelled_that_have_ended_and_that_have_not_begun(programs):
    tasks = programs.check(
        LOOK
        + """
async def cleaning():
    try: await asyncio.Event().wait()
    except asyncio.CancelledError: await clean()
async def clean(): await asyncio.Event().wait()
async def short(): pass
async def later(): pass
async def main():
    task = asyncio.create_task(cleaning(), name="cleaning")
    ended = asyncio.create_task(short(), name="ended")
    gone = asyncio.create_task(asyncio.Event().wait(), name="gone")
    await settle()
    task.cancel(); gone.cancel()
    await settle()
    new = asyncio.create_task(later(), name="new")
    # Nothing else runs before this has looked.
    tell(look())
    task.cancel()
    await asyncio.wait([task, new, ended, gone])
main_task = main()
asyncio.run(main_task)
"""
    )
    found = by_name(json.loads(tasks))
    assert set(found) == {"cleaning", "new"}
    assert functions(found["cleaning"]) == ["clean", "cleaning"]
    assert (found["new"]["state"], functions(found["new"])) == ("not begun", ["later"])


def test_two_that_wait_for_each_other_are_told_once_each(programs):
    text = programs.check(
        LOOK
        + """
async def wait_for(name): await tasks[name]
tasks = {}
async def main():
    tasks["a"] = asyncio.create_task(wait_for("b"), name="a")
    tasks["b"] = asyncio.create_task(wait_for("a"), name="b")
    await settle()
    print(await asyncio.get_running_loop().run_in_executor(None, fetch, "debug=2"))
try: asyncio.run(asyncio.wait_for(main(), 30))
finally: sys.stdout.flush(); os._exit(0)
"""
    )
    assert text.count('Task "a", waiting') == text.count('Task "b", waiting') == 1
    assert text.count(", shown above") == 1


def test_of_very_many_tasks_some_are_shown_and_the_others_counted(programs):
    text = programs.check(
        LOOK
        + """
async def leaf(): await event.wait()
async def main():
    global event
    event = asyncio.Event()
    tasks = [asyncio.create_task(leaf()) for _ in range(30_000)]
    await settle()
    print(await asyncio.get_running_loop().run_in_executor(None, fetch, "debug=1"))
    event.set()
    await asyncio.gather(*tasks)
asyncio.run(main())
"""
    )
    # This test's own task may be among those shown, or among the others.
    (shown,) = [int(line.split()[0]) for line in text.splitlines() if " times: Task" in line]
    (omitted,) = [int(line.split()[1]) for line in text.splitlines() if line.startswith("and ")]
    assert 999 <= shown <= 1_000
    assert shown + omitted in {30_000, 30_001}


def test_tasks_are_told_while_c_code_keeps_the_gil(programs):
    text = programs.check(
        """
import asyncio, os, signal, threading, time, rprof
rprof.dump_on_signal(signal.SIGUSR2, "dump.txt")
# A process of its own sends the signal: no thread here can, while the GIL is stuck.
def keep():
    if os.fork() == 0:
        time.sleep(0.3)
        os.kill(os.getppid(), signal.SIGUSR2)
        os._exit(0)
    while not os.path.exists("dump.txt"):
        before = time.perf_counter()
        sum(range(size))
async def leaf(): await asyncio.Event().wait()
async def handler(): await asyncio.gather(leaf(), leaf())
async def main():
    task = asyncio.create_task(handler(), name="handler")
    for _ in range(10): await asyncio.sleep(0)
    keep()
    task.cancel()
size = 20_000_000
asyncio.run(main())
print(open("dump.txt").read())
""",
        "-Wignore",
    )
    assert "holds the GIL" in text
    assert 'Task "handler", waiting' in text
    assert "2 times: Task, waiting" in text


def test_a_slow_request_shows_where_all_its_tasks_wait(programs):
    """It is known for which request a task works by its context, however it was made."""
    look, end = map(
        json.loads,
        programs.check(
            """
import asyncio, json, logging, sys, rprof
class Lines(logging.Handler):
    def emit(self, record): print(json.dumps(record.rprof), flush=True)
logging.getLogger("rprof.slow").addHandler(Lines())
async def query(): await asyncio.sleep(0.6)
async def fetch(): await query()
async def handler(): await asyncio.gather(fetch(), asyncio.wait_for(fetch(), 10), loading())
async def loading(): await asyncio.create_task(load())
async def load(): await asyncio.sleep(0.6)
async def other(): await asyncio.sleep(0.6)
async def serve():
    with rprof.request("shop", slow_after=0.2, repeat=0): await asyncio.create_task(handler())
async def main(): await asyncio.gather(serve(), other())
asyncio.run(main())
"""
        ).splitlines(),
    )
    stack = look["stack"]
    assert [stack.count(f"in program.{name}\n") for name in ("serve", "handler", "loading")] == [
        1
    ] * 3
    assert stack.count("in program.load\n") == 1
    # Those two are one entry where nothing tells them apart.
    assert 1 <= stack.count("in program.query\n") <= 2
    assert "program.other" not in stack
    assert "program.query" in end["waits_in"]
    assert "program.load " in end["waits_in"]
    assert end["where"].endswith(end["waits_in"])


def test_asyncio_may_be_imported_after_rprof_was_started(programs):
    text = programs.check(
        """
import rprof, sys
rprof.start("out/")
assert "asyncio" not in sys.modules
import asyncio
async def leaf(): await asyncio.Event().wait()
async def main():
    task = asyncio.create_task(leaf(), name="late")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    print(rprof.dump())
    task.cancel()
asyncio.run(main())
assert rprof.status().last_error is None, rprof.status().last_error
"""
    )
    assert 'Task "late", waiting' in text
    assert "specimen" not in text


def test_learning_where_tasks_are_leaves_nothing_behind(programs):
    programs.check(
        """
import asyncio, gc, warnings, rprof
warnings.simplefilter("error")
async def main():
    # In its mode for development asyncio warns of what takes long.
    asyncio.get_running_loop().slow_callback_duration = 100
    before = asyncio.all_tasks()
    rprof.dump()
    assert asyncio.all_tasks() == before
asyncio.run(main())
gc.collect()
assert not [one for one in gc.get_objects() if type(one).__module__ == "rprof._tasks"]
""",
        "-Werror",
        "-Xdev",
    )


def test_what_is_not_known_of_asyncio_is_said(programs):
    programs.check("""
import _asyncio, asyncio, rprof
# Another kind of task, which has everything elsewhere.
_asyncio.Task = asyncio.tasks._PyTask
async def wait(): await asyncio.sleep(0.2)
async def main():
    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    with rprof.profile() as block:
        told = rprof.dump()
        await task
    assert "waits" not in told, told
    assert "loop_blame" not in block.profile.totals, block.profile.totals
    assert "task" not in block.profile.labels()
asyncio.run(main())
error = rprof.status().last_error
assert error.startswith("the tasks of asyncio cannot be seen: "), error
""")
