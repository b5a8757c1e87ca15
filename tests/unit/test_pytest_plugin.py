"""The pytest plugin, in test sessions of its own."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import rprof

BURN = """
import time
def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(500))
"""


def run(pytester, *arguments):
    """Run pytest in a process of its own, as a user does."""
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", *arguments)


def test_the_fixture_records_its_test(pytester):
    pytester.makepyfile(
        BURN
        + """
import pytest

@pytest.fixture
def afterwards(rprof):
    yield
    assert rprof.profile.top(1, by="cpu")[0].name.endswith("burn")
    print("SEEN AFTERWARDS")

def test_it(rprof, afterwards):
    burn(0.1)

def test_in_the_middle(rprof):
    import rprof as package
    with pytest.raises(package.RprofStateError):
        rprof.profile
    burn(0.05)
    assert rprof.stop().totals["cpu"] > 30_000_000
    assert rprof.profile.totals["cpu"] > 30_000_000
"""
    )
    result = run(pytester, "-s")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*SEEN AFTERWARDS*"])
    assert not (pytester.path / ".rprof").exists()


def test_every_test_gets_a_file_and_all_together_one(pytester):
    pytester.makepyfile(
        BURN
        + """
import asyncio, threading, pytest

@pytest.mark.parametrize("name", ["../x", "a/b c", "é"])
def test_names(name):
    burn(0.02)

def test_threads():
    thread = threading.Thread(target=burn, args=(0.1,))
    thread.start()
    thread.join()

def test_asyncio():
    async def main():
        await asyncio.to_thread(burn, 0.05)
    asyncio.run(main())

def test_fails():
    burn(0.02)
    assert False
"""
    )
    result = run(pytester, "--rprof-top", "3", "--rprof-dir", "profiles")
    result.assert_outcomes(passed=5, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*profiles of 6 tests in *profiles",
            "*go tool pprof -top *combined.pb.gz",
            "*heaviest functions by cpu*",
            "*burn*",
            "*heaviest functions by wall*",
            "*heaviest tests by cpu*",
            "*ms cpu*test_threads",
        ]
    )
    files = sorted((pytester.path / "profiles").iterdir())
    assert len(files) == 7
    assert all(path.name.isascii() for path in files)
    totals = [rprof.load(path).totals["cpu"] for path in files if path.name != "combined.pb.gz"]
    combined = rprof.load(pytester.path / "profiles" / "combined.pb.gz")
    assert combined.totals["cpu"] == sum(totals)
    assert combined.top(1, by="cpu")[0].name.endswith("burn")


def test_a_budget_of_memory(pytester):
    pytester.makepyfile(
        test_memory="""
import pytest
import rprof as package

kept = []

def allocate(count):
    for _ in range(count):
        bytearray(10_000)

def keep(count):
    for _ in range(count):
        kept.append(bytearray(10_000))

def make_cycles(count):
    for _ in range(count):
        cycle = [bytearray(10_000)]
        cycle.append(cycle)

@pytest.mark.rprof(max_alloc="1MiB")
def test_allocates_too_much():
    allocate(500)

@pytest.mark.rprof(max_alloc="10MiB", max_growth="100KiB")
def test_within():
    allocate(500)
    make_cycles(100)

@pytest.mark.rprof(max_growth=1_000_000)
def test_keeps_too_much():
    keep(500)

@pytest.mark.rprof(max_growth="1 MB")
def test_knows_what_there_was_before():
    package.start(None, memory=4096)
    keep(500)

@pytest.mark.rprof(max_growth="1 MB")
def test_and_after():
    assert package.status().memory is not None
    kept.clear()

@pytest.mark.rprof(memory=True)
def test_figures(rprof):
    keep(500)
    with pytest.raises(package.RprofStateError):
        rprof.heap
    rprof.stop()
    totals = rprof.heap.totals
    assert 4_000_000 < totals["alloc_space"] < 6_000_000
    assert 4_000_000 < totals["inuse_space"] < 6_000_000

def test_none(rprof):
    rprof.stop()
    with pytest.raises(package.RprofStateError, match="memory=True"):
        rprof.heap
"""
    )
    result = run(pytester)
    result.assert_outcomes(passed=4, failed=3)
    result.stdout.fnmatch_lines(
        [
            "*memory allocated: * MiB, more than max_alloc = 1.00 MiB",
            "*test_memory.allocate*",
            "*memory that is still in use at the end: * MiB, more than max_growth = 0.95 MiB",
            "*test_memory.keep*",
        ]
    )


@pytest.mark.parametrize("value", ["-1", "'5 MiBs'", "True", "[1]"])
def test_an_amount_that_is_none_is_refused(pytester, value):
    pytester.makepyfile(
        f"import pytest\n@pytest.mark.rprof(max_alloc={value})\ndef test_it(): pass\n"
    )
    result = run(pytester)
    assert "no amount of memory" in result.stdout.str() + result.stderr.str()
    assert result.ret != 0


def test_a_budget_fails_the_test_with_the_offending_tree(pytester):
    pytester.makepyfile(
        test_budget=BURN
        + """
import pytest

@pytest.mark.rprof(max_cpu="50ms")
def test_cpu():
    burn(0.2)

@pytest.mark.rprof(max_wall=0.05)
def test_wall():
    burn(0.2)

@pytest.mark.rprof(max_share={"test_budget.burn": 0.3})
def test_share():
    burn(0.2)

@pytest.mark.rprof(max_cpu="10s", max_wall="1min", max_share={"burn": 1.0, "other.func": 0})
def test_within():
    burn(0.05)
"""
    )
    result = run(pytester)
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines(
        [
            "*CPU time of all threads: * ms, more than max_cpu = 50.0 ms",
            "*burn*",
            "*wall time: * ms, more than max_wall = 50.0 ms",
            "*test_budget.burn and what it calls: *% of the CPU time, more than max_share = 30.0%",
        ]
    )


@pytest.mark.parametrize(
    ("marker", "words"),
    [
        ("max_cpu='soon'", "*max_cpu='soon' is no duration*"),
        ("max_cpus=1", "*does not take max_cpus*max_cpu=*"),
        ("max_share={'f': 3}", "*max_share=*fractions from 0 to 1*"),
    ],
)
def test_a_wrong_marker_is_explained(pytester, marker, words):
    pytester.makepyfile(f"import pytest\n@pytest.mark.rprof({marker})\ndef test_it(): pass\n")
    result = run(pytester)
    assert result.ret != 0
    result.stdout.fnmatch_lines([words])


def test_ini_settings_mirror_the_options(pytester):
    pytester.makeini("[pytest]\nrprof = true\nrprof_dir = kept\nrprof_rate = 500\nrprof_top = 1\n")
    pytester.makepyfile(BURN + "def test_it(): burn(0.05)\n")
    result = run(pytester)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*heaviest tests by cpu*"])
    profile = rprof.load(pytester.path / "kept" / "combined.pb.gz")
    assert profile.period_ns == 2_000_000


@pytest.mark.parametrize("rate", ["0", "99999"])
def test_a_wrong_rate_is_refused(pytester, rate):
    result = run(pytester, "--rprof", "--rprof-rate", rate)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*--rprof-rate {rate} is out of range*"])


def test_nothing_native_is_loaded_unless_used():
    code = (
        "import sys, pytest\n"
        "class Look:\n"
        "    def pytest_sessionfinish(self):\n"
        "        print('NATIVE', 'rprof._native' in sys.modules)\n"
        "pytest.main(['-q', '--co', '-p', 'no:cacheprovider', '/dev/null'], plugins=[Look()])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert "NATIVE False" in done.stdout


@pytest.mark.skipif(
    importlib.util.find_spec("xdist") is None, reason="pytest-xdist is not installed"
)
def test_it_works_under_xdist(pytester):
    pytester.makepyfile(
        BURN
        + """
import pytest
@pytest.mark.parametrize("number", range(4))
def test_it(number): burn(0.05)
"""
    )
    result = run(pytester, "-n", "2", "--rprof-top", "2")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["*profiles of 4 tests in *", "*heaviest functions by cpu*"])
    combined = rprof.load(pytester.path / ".rprof" / "combined.pb.gz")
    assert combined.totals["cpu"] > 150_000_000
