"""What the heap says of threads, labels and requests."""

from __future__ import annotations

import json

import pytest

HEAD = """
import asyncio, json, logging, math, os, sys, threading, zlib
import rprof

RATE = 8_192
kept = []

def hold(count):
    for _ in range(count):
        kept.append(bytearray(2_000))

def near(found, count):
    true = count * 2_001
    # Five standard deviations, and what else is allocated there.
    assert abs(found - true) <= 5 * math.sqrt(RATE * true) + 0.1 * true + 50_000, (found, true)

def held_by(profile, key, value, by="inuse_space"):
    rows = profile.only_labels({key: value}).top(10_000, by=by)
    return sum(row.self_value for row in rows if row.name.endswith("hold"))
"""


@pytest.fixture
def run_heap(programs):
    def run(code):
        done = programs.run(HEAD + code)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert done.stdout.splitlines()[-1] == "ok"
        return done.stdout

    return run


def test_samples_have_labels_routes_and_threads(run_heap):
    run_heap("""
rprof.start(None, memory=RATE)
is_held, is_known = threading.Event(), threading.Event()
def work():
    with rprof.request("job", route="/job"):
        hold(1_000)
    is_held.set()
    is_known.wait(60)
thread = threading.Thread(target=work, name="worker-7")
thread.start()
with rprof.labels(tenant="acme"):
    hold(2_000)
    with rprof.labels(tenant="other", step="inner"):
        hold(500)
async def serve(number):
    with rprof.request("page", route=f"/page{number}"):
        await asyncio.sleep(0)
        hold(1_000)
        await asyncio.sleep(0)
async def main():
    await asyncio.gather(serve(1), serve(2))
asyncio.run(main())
assert is_held.wait(60)
heap = rprof.heap()
is_known.set()
thread.join()
near(held_by(heap, "tenant", "acme"), 2_000)
near(held_by(heap, "tenant", "other"), 500)
near(held_by(heap, "step", "inner"), 500)
near(held_by(heap, "route", "/job"), 1_000)
near(held_by(heap, "route", "/page1"), 1_000)
near(held_by(heap, "route", "/page2"), 1_000)
assert {row.name for row in heap.threads} >= {"worker-7", "MainThread"}, heap.threads
near(sum(row.totals["inuse_space"] for row in heap.threads if row.name == "worker-7"), 1_000)
print("ok")
""")


def test_labels_are_known_without_the_gil(run_heap):
    run_heap("""
rprof.start(None, memory=RATE)
data = os.urandom(20_000)
def compress(count):
    for _ in range(count):
        zlib.compress(data)
compress(5)
with rprof.labels(step="compressing"):
    before = rprof.heap().only_labels(step="compressing").totals["alloc_space"]
    compress(100)
heap = rprof.heap()
found = heap.only_labels(step="compressing").totals["alloc_space"] - before
# The buffers of zlib, which it takes while it has let go of the GIL, are more than the results.
assert found > 100 * 100_000, found
print("ok")
""")


def test_of_too_many_labels_the_values_are_other_ones(run_heap):
    run_heap("""
rprof.start(None, memory=1_024)
for number in range(3_000):
    with rprof.labels(route="/a", user=str(number)):
        hold(2)
heap = rprof.heap()
near(held_by(heap, "route", "/a") + held_by(heap, "route", "<other>"), 6_000)
assert held_by(heap, "user", "<other>") > 3_000_000
# Of one alone there may be no sample.
assert sum(held_by(heap, "user", str(number)) for number in range(20)) > 0
assert any("<other> for labels" in comment for comment in heap.comments), heap.comments
print("ok")
""")


def test_a_capture_tells_what_its_requests_allocated(run_heap):
    run_heap("""
without = rprof.profile_next(1)
with rprof.request("page", route="/page"):
    pass
try:
    without.heap
except rprof.RprofStateError as error:
    assert "memory=True" in str(error)
else:
    raise AssertionError
rprof.start(None, memory=RATE)
capture = rprof.profile_next(3, route="/page")
def serve(route):
    with rprof.request("page", route=route):
        hold(1_000)
serve("/other")
for _ in range(4):
    serve("/page")
assert capture.count == 3
heap = capture.heap
near(held_by(heap, "route", "/page", "alloc_space"), 3_000)
near(held_by(heap, "route", "/page"), 3_000)
assert held_by(heap, "route", "/other", "alloc_space") == 0
# What is asked for by others does not keep requests apart.
labels = rprof.heap().labels()
assert "route" in labels and "request number" not in labels, labels
print("ok")
""")


def test_a_slow_request_tells_what_it_allocated(run_heap):
    lines = run_heap("""
class Lines(logging.Handler):
    def emit(self, record):
        sys.stdout.write(json.dumps({"text": record.getMessage(), **record.rprof}, default=str))
        sys.stdout.write("\\n")
        if "cpu_seconds" in record.rprof:
            is_told.set()
is_told = threading.Event()
logging.getLogger("rprof").addHandler(Lines())
rprof.start(None, memory=RATE)
hold(500)
with rprof.request("page", route="/page", slow_after=0.0, repeat=60):
    hold(2_000)
    threading.Event().wait(0.2)
assert is_told.wait(60)
print("ok")
""").splitlines()
    records = [json.loads(line) for line in lines if line.startswith("{")]
    (end,) = [record for record in records if "cpu_seconds" in record]
    true = 2_000 * 2_001
    assert 0.5 * true < end["allocated"] < 1.5 * true
    assert "allocated about" in end["text"]
    assert ".hold (" in end["text"]
    assert end["heap"].endswith(".heap.pb.gz")
