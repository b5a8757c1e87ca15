"""The heap over HTTP: collections of garbage, differences, and what Go's tool says of it."""

from __future__ import annotations

import shutil
import subprocess

import pytest

HEAD = """
import gc, json, math, os, sys, threading, time, urllib.error, urllib.request
import rprof

RATE = 4_096
kept = []

def keep(count):
    for _ in range(count):
        kept.append(bytearray(10_000))

def make_cycles(count):
    for _ in range(count):
        cycle = [bytearray(10_000)]
        cycle.append(cycle)

def near(found, count):
    true = count * 10_001
    assert abs(found - true) <= 5 * math.sqrt(RATE * abs(true)) + 20_000, (found, true)

def inuse(profile, function):
    rows = profile.top(10_000, by="inuse_space")
    return sum(row.self_value for row in rows if row.name.endswith(function))

endpoint = rprof.serve("127.0.0.1:0")

def ask(path):
    with urllib.request.urlopen(f"http://{endpoint.address}/debug/pprof/{path}") as answer:
        with open("asked.pb.gz", "wb") as file:
            file.write(answer.read())
    return rprof.load("asked.pb.gz")

def aside(*asked):
    # What is asked for while the main thread goes on.
    answers = []
    def work():
        for path in asked:
            try:
                answers.append(ask(path))
            except urllib.error.HTTPError as error:
                answers.append((error.code, error.read().decode()))
    thread = threading.Thread(target=work)
    thread.start()
    return thread, answers

def go_on_until_end(thread):
    while thread.is_alive():
        time.sleep(0.001)
"""


@pytest.fixture
def run_heap(programs):
    def run(code):
        done = programs.run(HEAD + code)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert done.stdout.splitlines()[-1] == "ok"

    return run


@pytest.mark.parametrize("is_on", [True, False])
def test_garbage_is_collected_where_that_is_asked_for(run_heap, is_on):
    run_heap(f"""
gc.disable()
rprof.start(None, memory=RATE)
keep(100)
make_cycles(300)
if {is_on}:
    # On, and never by itself.
    gc.set_threshold(1_000_000_000)
    gc.enable()
thread, answers = aside("heap", "heap?gc=0", "heap?gc=1")
go_on_until_end(thread)
before, without, after = answers
assert gc.isenabled() == {is_on}
near(inuse(without, "make_cycles"), 300)
assert inuse(after, "make_cycles") == 0
near(inuse(after, "keep"), 100)
print("ok")
""")


def test_a_main_thread_that_does_not_come_to_it_is_named(run_heap):
    run_heap("""
rprof.start(None, memory=RATE)
thread, answers = aside("heap?gc=1")
# In C, with the GIL let go.
thread.join()
(code, text), = answers
assert code == 503 and "main thread" in text, answers
# It is not asked twice, and comes to it now.
thread, answers = aside("heap?gc=1")
go_on_until_end(thread)
assert answers[0].totals["alloc_space"] > 0
print("ok")
""")


def test_seconds_tell_the_difference(run_heap):
    run_heap("""
rprof.start(None, memory=RATE)
keep(500)
collections = []
def change(phase, info):
    # Garbage is collected before each look: the second one is at the end.
    if phase == "start":
        collections.append(info)
        if len(collections) == 2:
            del kept[300:]
            make_cycles(50)
gc.disable()
gc.callbacks.append(change)
thread, answers = aside("heap?seconds=0.1&gc=1")
go_on_until_end(thread)
difference, = answers
near(inuse(difference, "keep"), -200)
assert inuse(difference, "make_cycles") == 0
rows = difference.top(10_000, by="alloc_space")
near(sum(row.self_value for row in rows if row.name.endswith("make_cycles")), 50)
assert not any(row.name.endswith("keep") and row.self_value for row in rows)
assert len(collections) == 2
assert any("more than at the begin" in comment for comment in difference.comments)
print("ok")
""")


@pytest.mark.skipif(not shutil.which("go"), reason="no go here")
def test_go_tool_pprof_reads_it(programs):
    done = programs.run(
        HEAD
        + """
rprof.start(None, memory=RATE)
keep(500)
thread, answers = aside("heap?gc=1")
go_on_until_end(thread)
print(os.path.abspath("asked.pb.gz"))
"""
    )
    assert done.returncode == 0, done.stderr
    path = done.stdout.strip()
    for arguments in (["-sample_index=inuse_space"], ["-sample_index=alloc_space"], []):
        told = subprocess.run(
            ["go", "tool", "pprof", "-top", *arguments, path],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        lines = told.splitlines()
        first = next(line for line in lines if "keep" in line)
        assert first == lines[lines.index(next(line for line in lines if "flat%" in line)) + 1]
        assert "Type: " in told
