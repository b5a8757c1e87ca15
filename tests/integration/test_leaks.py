"""Leaks: told from caches, pools and turnover, now, from files, over HTTP, by the command."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import rprof

# A service of a few seconds: what it keeps for ever, and what it does not.
SERVICE = """
import os, sys, time
import rprof

class Row:
    __slots__ = ("text",)

kept, cache, pool, recent = [], {}, [], []

def leak(number):
    row = Row()
    row.text = bytes(700 + number % 7)
    kept.append(row)

def fill(number):
    cache[number] = bytes(1_500)

def warm_up():
    for number in range(200):
        pool.append(bytearray(5_000))

def turn_over():
    recent.append(bytes(4_000))
    if len(recent) > 50:
        del recent[:10]

def serve(seconds):
    warm_up()
    begin = time.monotonic()
    number = 0
    while (passed := time.monotonic() - begin) < seconds:
        number += 1
        leak(number)
        turn_over()
        if passed < seconds * 0.3:
            fill(number)
        # So that it takes its time: ages are what is looked at.
        time.sleep(0.002)
"""


@pytest.fixture
def run_service(programs):
    def run(code, **variables):
        done = programs.run(SERVICE + code, **variables)
        assert done.returncode == 0, done.stderr
        return done

    return run


def test_a_leak_is_first_now_and_in_files_and_over_http(run_service, programs):
    run_service("""
rprof.start("rprof/", memory=4_096, window=3600)
serve(4)
found = rprof.leaks()
# From here on nothing leaks, and the more time passes the flatter it looks.
rprof.flush()
first = found[0]
assert first.name.endswith("leak"), found
assert first.file.endswith(".py") and first.line > 0
assert first.bytes > 0 and first.blocks > 0 and first.samples > 5
assert 3.9 < first.horizon < 60
assert [stack.frames[-1].name for stack in first.stacks[:1]] == [first.name]
assert first.stacks[0].frames[-2].name.endswith("serve")
assert first.score > 0
# Neither the cache that was filled nor the pool nor what turns over.
for row in found[1:]:
    if row.name.endswith(("fill", "warm_up", "turn_over")):
        assert not row.verdict.startswith("grows"), row
        assert row.growth == 0
text = str(found)
assert text.splitlines()[2].split()[2].endswith(".leak"), text
assert "called by program.serve (" in text, text
assert "and 1 more places" in found.text(len(found) - 1)
endpoint = rprof.serve("127.0.0.1:0")
import subprocess
command = [sys.executable, "-m", "rprof", "leaks"]
def ask(*words):
    done = subprocess.run([*command, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
assert ".leak (" in ask("http://" + endpoint.address, "-n", "20")
assert ".leak (" in ask(str(os.getpid())).splitlines()[2]
endpoint.stop()
rprof.stop()
""")
    heaps = sorted((programs.directory / "rprof").glob("*.heap.pb.gz"))
    assert len(heaps) == 2
    words = [sys.executable, "-m", "rprof", "leaks", "--json", "-n", "2"]
    for target in (programs.directory / "rprof", heaps[0]):
        done = subprocess.run([*words, target], capture_output=True, text=True, check=True)
        told = json.loads(done.stdout)
        assert len(told["rows"]) == 2
        if target == heaps[0]:
            assert told["rows"][0]["name"].endswith("leak")
            assert told["rows"][0]["stacks"][0]["frames"][-1]["name"].endswith("leak")
    # As in the process, up to what happened since.
    found = rprof.leaks(rprof.load(heaps[0]))
    assert found[0].name.endswith("leak")


def test_files_tell_ages(run_service, programs):
    run_service("""
rprof.start("out/", memory=4_096, window=3600)
warm_up()
time.sleep(1.5)
leak(1)
for number in range(2_000):
    leak(number)
rprof.stop()
""")
    (heap,) = (programs.directory / "out").glob("*.heap.pb.gz")
    profile = rprof.load(heap)
    assert profile.facts["heap_seconds"] > 1.4
    assert profile.facts["heap_bytes_per_sample"] == 4_096
    ages = {int(age) for age in profile.labels()["age"]}
    assert 0 in ages
    assert max(ages) >= 1_000
    old = profile.only_labels({"age": str(max(ages))})
    assert old.totals["inuse_space"] > 500_000
    assert any(row.name.endswith("warm_up") for row in old.top(5, by="inuse_space"))


def test_a_heap_that_is_not_sampled_and_profiles_that_are_none(programs, tmp_path):
    done = programs.run("""
import rprof
try:
    rprof.leaks()
except rprof.RprofStateError as error:
    assert "memory=True" in str(error)
else:
    raise AssertionError
""")
    assert done.returncode == 0, done.stderr
    with rprof.profile() as block:
        sum(range(100_000))
    with pytest.raises(rprof.RprofValueError, match="does not tell how old"):
        rprof.leaks(block.profile)
    with pytest.raises(rprof.RprofTypeError):
        rprof.leaks("app.heap.pb.gz")
    command = [sys.executable, "-m", "rprof", "leaks", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "RPROF_MEMORY" in done.stderr
    assert done.stderr.count("\n") == 1


def test_of_each_process_the_last_heap_counts_and_none_that_has_ended(run_service, programs):
    from rprof.cli.leaks import _profiles

    run_service("""
rprof.start("out/", memory=4_096, window=3600)
serve(0.1)
rprof.flush()
serve(1)
rprof.stop()
""")
    out = programs.directory / "out"
    heaps = sorted(out.glob("*.heap.pb.gz"))
    assert len(heaps) == 2
    profiles = [rprof.load(heap) for heap in heaps]
    assert [found.time_ns for found in _profiles(str(out))] == [profiles[1].time_ns]
    # Another process that has just written, and one that ended long before.
    for pid, heap in ((1, heaps[1]), (2, heaps[0])):
        (out / f"app-{pid}-20261121T012345Z-000001.heap.pb.gz").write_bytes(heap.read_bytes())
    times = sorted(found.time_ns for found in _profiles(str(out)))
    before, after = (profile.time_ns + profile.duration_ns for profile in profiles)
    is_old = after - before > 3 * profiles[0].duration_ns
    assert times == sorted([profiles[1].time_ns] * 2 + [profiles[0].time_ns] * (not is_old))
