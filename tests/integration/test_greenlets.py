"""Suspended greenlets, as they are seen without the GIL, against what the program knows of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support import ENGINE

pytest.importorskip("gevent", reason="gevent has no wheel for this Python")
pytestmark = pytest.mark.skipif(
    ENGINE != "direct", reason="greenlets are read by the direct engine"
)

# `tell` prints what a test is to know.
PRELUDE = """
import json, os, sys, threading, time
import gevent, gevent.event, greenlet, rprof
def tell(**facts): print(json.dumps(facts))
def collapsed(profile, by="task_wall"):
    told = {}
    for line in profile.to_collapsed(by=by).splitlines():
        stack, _, value = line.rpartition(" ")
        told[stack] = told.get(stack, 0) + float(value)
    return told
"""


@pytest.fixture
def ask(programs):
    """Run a program, and return what it tells."""

    def run(program: str, *, prelude: str = PRELUDE) -> dict[str, Any]:
        return dict(json.loads(programs.check(prelude + program).splitlines()[-1]))

    return run


def test_waiting_is_charged_to_where_greenlets_wait(ask):
    told = ask("""
def query(event): event.wait()
def handler(event): query(event)
def other(event): event.wait()
event = gevent.event.Event()
waiting = [gevent.spawn(handler, event) for _ in range(3)] + [gevent.spawn(other, event)]
gevent.sleep(0)
with rprof.profile(rate=100) as block:
    began = time.monotonic()
    while time.monotonic() < began + 1: gevent.sleep(0.01)
tell(stacks=collapsed(block.profile), wall=sum(collapsed(block.profile, "wall").values()))
""")
    stacks, wall = told["stacks"], told["wall"]

    def total(*functions: str) -> float:
        wanted = ";".join(f"program.{name}" for name in functions)
        return sum(value for stack, value in stacks.items() if f";{wanted};" in f"{stack};")

    # Each lives as long as the block, and few are read all.
    assert total("handler", "query") == pytest.approx(3 * wall, rel=0.1)
    assert total("other") == pytest.approx(wall, rel=0.1)
    # So does the one that the program begins in, but not the loop.
    rest = sum(stacks.values()) - total("handler", "query") - total("other")
    assert rest == pytest.approx(wall, rel=0.1)
    assert "Hub" not in str(stacks)


def test_a_sample_of_many_stands_for_all(ask):
    told = ask("""
def often(event): event.wait()
def seldom(event): event.wait()
event = gevent.event.Event()
waiting = [gevent.spawn(often, event) for _ in range(1500)]
waiting += [gevent.spawn(seldom, event) for _ in range(500)]
gevent.sleep(0)
with rprof.profile(rate=100) as block:
    began = time.monotonic()
    while time.monotonic() < began + 2: gevent.sleep(0.01)
tell(stacks=collapsed(block.profile), wall=sum(collapsed(block.profile, "wall").values()))
""")
    sums = {
        name: sum(value for stack, value in told["stacks"].items() if f".{name};" in f"{stack};")
        for name in ("often", "seldom")
    }
    all_of_them = sum(sums.values())
    assert all_of_them == pytest.approx(2000 * told["wall"], rel=0.05)
    # 600 were drawn: five times the error of that.
    assert sums["seldom"] / all_of_them == pytest.approx(0.25, abs=0.09)


def test_greenlets_have_names_and_labels(ask):
    told = ask("""
def wait(event):
    with rprof.labels(route="/checkout"): event.wait()
event = gevent.event.Event()
named, unnamed = gevent.spawn(wait, event), gevent.spawn(wait, event)
named.name = "pump"
gevent.sleep(0)
with rprof.profile(rate=100) as block:
    began = time.monotonic()
    while time.monotonic() < began + 0.5: gevent.sleep(0.01)
tell(**{
    name: sum(collapsed(block.profile.only_labels(task=name, route="/checkout")).values())
    for name in ("pump", "program.wait")
}, wall=sum(collapsed(block.profile, "wall").values()))
""")
    for name in ("pump", "program.wait"):
        assert told[name] == pytest.approx(told["wall"], rel=0.2)


def test_greenlets_in_functions_of_c_alone_are_not_taken_for_those_that_run(ask):
    told = ask("""
here = greenlet.getcurrent()
waiting = [greenlet.greenlet(here.switch) for _ in range(5)]
for one in waiting: one.switch()
def work(until):
    while time.monotonic() < until: pass
with rprof.profile(rate=100) as block:
    work(time.monotonic() + 0.5)
tell(stacks=collapsed(block.profile), wall=sum(collapsed(block.profile, "wall").values()))
""")
    stacks, wall = told["stacks"], told["wall"]
    without = sum(value for stack, value in stacks.items() if stack.endswith("<no Python frame>"))
    assert without == pytest.approx(5 * wall, rel=0.1)
    assert sum(stacks.values()) - without == pytest.approx(wall, rel=0.1)


def test_a_name_of_the_applications_own_is_kept(ask):
    told = ask("""
def wait(event):
    with rprof.labels(task="mine"): event.wait()
event = gevent.event.Event()
waiting = gevent.spawn(wait, event)
gevent.sleep(0)
with rprof.profile(rate=100) as block:
    began = time.monotonic()
    while time.monotonic() < began + 0.5: gevent.sleep(0.01)
stacks = collapsed(block.profile.only_labels(task="mine"))
tell(stacks=stacks, tasks=block.profile.labels()["task"])
""")
    assert any(stack.endswith("program.wait") for stack in told["stacks"]), told
    assert "program.wait" not in told["tasks"]


def test_a_loop_without_work_is_idle(ask):
    told = ask("""
with rprof.profile(rate=100) as block:
    gevent.sleep(1)
tell(stacks=collapsed(block.profile, "wall"))
""")
    stacks = told["stacks"]
    idle = sum(value for stack, value in stacks.items() if stack.endswith(";<gevent idle>"))
    assert idle > 0.8 * sum(stacks.values())
    assert not any("Hub.run" in stack for stack in stacks)


DUMPED = """
import urllib.request
def inner(event): event.wait()
def outer(event): inner(event)
class Before(greenlet.greenlet): pass
class New(greenlet.greenlet):
    def __new__(cls, *arguments): return super().__new__(cls, *arguments)
here = greenlet.getcurrent()
def raw(): here.switch()
event = gevent.event.Event()
early = [gevent.spawn(outer, event) for _ in range(2)]
first = Before(raw)
first.switch()
gevent.sleep(0)
endpoint = rprof.serve("127.0.0.1:0")
class After(greenlet.greenlet): pass
class AfterNew(New): pass
late = [After(raw), Before(raw), greenlet.greenlet(raw), New(raw), AfterNew(raw)]
while not all(late): next(one for one in late if not one).switch()
early.append(gevent.spawn(outer, event))
early[0].name = "first of all"
unstarted = gevent.spawn(outer, event)
gevent.sleep(0)
unstarted = greenlet.greenlet(raw)
def fetch():
    url = f"http://{endpoint.address}/debug/pprof/threads?format=json"
    with urllib.request.urlopen(url) as answer: return json.loads(answer.read())["tasks"]
def look():
    # In a thread, while the greenlets of this one stand.
    found = []
    thread = threading.Thread(target=lambda: found.extend(fetch()))
    thread.start()
    thread.join()
    return found
"""


def leaves(tasks: list[dict[str, Any]]) -> list[str]:
    """Return the functions of the program in which greenlets were left."""
    found = []
    for task in tasks:
        names = [frame["function"].rpartition(".")[2] for frame in task["frames"]]
        found.append(next(name for name in names if name in ("inner", "raw", "<module>")))
    return sorted(found)


def test_all_suspended_greenlets_are_in_a_dump(ask):
    told = ask(
        DUMPED
        + """
before = look()
text = rprof.dump()
late.clear()
event.set()
gevent.joinall(early)
tell(before=before, text=text, after=look())
"""
    )
    before = told["before"]
    assert leaves(before) == ["inner"] * 4 + ["raw"] * 6
    assert {task["kind"] for task in before} == {"greenlet"}
    assert {task["state"] for task in before} == {"waiting"}
    assert [task["name"] for task in before if task["name"]] == ["first of all"]
    frames = next(task["frames"] for task in before if task["name"])
    outer = [frame["function"].rpartition(".")[2] for frame in frames][-2:]
    assert outer == ["inner", "outer"]
    assert 'Greenlet "first of all", waiting (most recent call first):' in told["text"]
    assert "3 times: Greenlet, waiting" in told["text"]
    # Only that which the program still holds is left.
    assert leaves(told["after"]) == ["raw"]


def test_a_forked_child_sees_those_that_can_go_on_in_it(ask):
    told = ask(
        DUMPED
        + """
ready, leave = threading.Event(), threading.Event()
def elsewhere():
    main = greenlet.getcurrent()
    other = greenlet.greenlet(lambda: main.switch())
    other.switch()
    ready.set()
    leave.wait()
thread = threading.Thread(target=elsewhere)
thread.start()
ready.wait()
reading, writing = os.pipe()
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
child = os.fork()
if child == 0:
    event2 = gevent.event.Event()
    gevent.get_hub()
    with rprof.profile(rate=100) as block:
        began = time.monotonic()
        while time.monotonic() < began + 0.5: gevent.sleep(0.01)
    os.write(writing, json.dumps({
        "stacks": collapsed(block.profile),
        "wall": sum(collapsed(block.profile, "wall").values()),
    }).encode())
    os._exit(0)
os.close(writing)
with os.fdopen(reading) as answer: child_told = json.loads(answer.read())
os.waitpid(child, 0)
leave.set()
tell(**child_told)
"""
    )
    inner = sum(value for stack, value in told["stacks"].items() if ".inner;" in f"{stack};")
    assert inner == pytest.approx(4 * told["wall"], rel=0.2)
    assert "elsewhere" not in str(told["stacks"])


def test_greenlets_imported_late_are_seen(ask):
    told = ask(
        """
import json, threading, rprof
rprof.start(rate=100, window=3600, output=None)
import time, gevent, gevent.event
def wait(event): event.wait()
event = gevent.event.Event()
waiting = gevent.spawn(wait, event)
def is_seen(): return "Greenlet, waiting" in rprof.dump()
# Names are read when there is a new thread, and the main thread then learns.
from rprof import _imported
deadline = time.monotonic() + 30
while "greenlet" not in _imported.settled and time.monotonic() < deadline:
    thread = threading.Thread(target=time.sleep, args=(0.05,))
    thread.start()
    gevent.sleep(0.01)
settled = "greenlet" in _imported.settled
gevent.sleep(0.01)
rprof.stop()
print(json.dumps({"settled": settled, "seen": is_seen(), "error": rprof.status().last_error}))
""",
        prelude="",
    )
    assert told == {"settled": True, "seen": True, "error": None}


def test_what_is_not_known_of_greenlets_is_said(ask):
    told = ask("""
import types
from rprof import _imported
# Another kind of greenlet, which has its frames elsewhere.
real = sys.modules["greenlet"]
class Strange(real.greenlet):
    __slots__ = ()
    @property
    def __dict__(self): return {}
strange = types.ModuleType("greenlet")
strange.__dict__.update(real.__dict__)
strange.__spec__ = real.__spec__
strange.greenlet = Strange
sys.modules["greenlet"] = strange
with rprof.profile() as block: gevent.sleep(0.01)
kinds = [kind.type for kind in block.profile.sample_types]
tell(error=rprof.status().last_error, kinds=kinds, dump=rprof.dump())
""")
    assert told["error"].startswith("suspended greenlets cannot be seen: ")
    assert "task_wall" not in told["kinds"]
    assert "Greenlet" not in told["dump"]


def test_a_trace_function_is_not_called(ask):
    told = ask("""
calls = []
greenlet.settrace(lambda *arguments: calls.append(arguments))
import rprof._greenlets
rprof.dump()
kept = greenlet.gettrace() is not None
tell(calls=len(calls), kept=kept, error=rprof.status().last_error)
""")
    assert told == {"calls": 0, "kept": True, "error": None}
