"""The system calls that rprof makes: which ones, and what becomes of the program without them."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from forbidding import ACTIONS, ERRORS, NUMBERS
from support import LONG

HERE = Path(__file__).parent
LIST = HERE.parent.parent / "docs" / "reference" / "system-calls.md"

pytestmark = [
    pytest.mark.skipif(
        (sys.platform, platform.machine()) != ("linux", "x86_64"),
        reason="the numbers of the calls are those of Linux on x86-64",
    ),
    pytest.mark.skipif(not LIST.is_file(), reason="no docs/ beside tests/"),
]

# What cannot sensibly be refused, and why.
NOT_REFUSED = {
    "futex": "glibc ends a process whose futexes fail (futex_fatal_error, sysdeps/nptl)",
    "rseq": "glibc ends a process in which one thread cannot register (pthread_create.c)",
    "exit": "glibc tries for ever: no thread of any program could end",
    "munmap": "CPython 3.15 ends a process whose munmap fails (_PyMem_ArenaFree)",
    "mmap": "the dynamic linker ends a process in which a thread cannot have its data "
    "(elf/dl-tls.c); test_memory has what becomes of programs without memory",
}
# What the standard library or an earlier version made, and rprof does not any more.
NOT_MADE = ("statx", "prctl", "ftruncate", "flock", "eventfd2", "kill")


def listed() -> dict[str, list[str]]:
    """Return the calls of the list, by section."""
    sections: dict[str, list[str]] = {}
    for line in LIST.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            sections[line.removeprefix("## ")] = []
        elif line.startswith("| `"):
            names = re.findall(r"`(\w+)`", line.split("|")[1])
            list(sections.values())[-1].extend(names)
    return sections


def recording_calls() -> list[str]:
    """Return the calls that a recording makes, with or without a filter."""
    return [
        name
        for section, names in listed().items()
        if section != "Calls that something asked for needs"
        for name in names
    ]


def left_out() -> list[str]:
    return listed()["Calls that are left out where a filter is in force"]


# ---------------------------------------------------------------------------------------------
# The list is true
# ---------------------------------------------------------------------------------------------

PROGRAM = """
import sys, threading, time
how, filtered = sys.argv[1], sys.argv[2] == "filtered"
if filtered:
    from forbidding import ALLOW, forbid
    forbid([], ALLOW)
import rprof
def burn(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end: sum(range(1000))
if how != "plain":
    rprof.start("out/", rate=200, engine=how, window=0.1, keep_files=2)
threads = [threading.Thread(target=burn, args=(0.3,)) for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
if how != "plain":
    rprof.stop()
"""

# A line of strace's output: the thread and the call, its begin or its end.
TRACED = re.compile(r"^(\d+)\s+(?:<\.\.\. )?(\w+)(?:\(| resumed)", re.MULTILINE)
NAMED = re.compile(r'^(\d+)\s+write\(\d+, "rprof-\w+"', re.MULTILINE)


def traced(programs, how: str, filtered: bool) -> tuple[set[str], set[str]]:
    """Return the calls of rprof's own threads, and those of the program's."""
    output = programs.directory / "trace"
    (programs.directory / "forbidding.py").write_bytes((HERE / "forbidding.py").read_bytes())
    subprocess.run(
        [
            *("strace", "-f", "-o", str(output)),
            *programs.command(PROGRAM),
            how,
            "filtered" if filtered else "free",
        ],
        cwd=programs.directory,
        env=programs.environment(),
        check=True,
        timeout=120,
    )
    text = output.read_text(encoding="utf-8", errors="replace")
    ours = set(NAMED.findall(text))
    calls: tuple[set[str], set[str]] = (set(), set())
    for thread, call in TRACED.findall(text):
        calls[thread not in ours].add(call)
    return calls


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("engine", ["direct", "gil"])
def test_the_list_names_every_call(programs, engine, filtered):
    _, plain = traced(programs, "plain", filtered)
    ours, program = traced(programs, engine, filtered)
    assert ours, "no thread was seen to name itself"
    made = ours | (program - plain)
    allowed = set(recording_calls()) - (set(left_out()) if filtered else set())
    # What the interpreter does itself when it loads and ends; strace's own.
    assert made - allowed <= {"open", "prctl", "seccomp", "restart_syscall"}, made - allowed
    assert not {"open", "prctl", "seccomp"} & ours
    if not filtered and engine == "direct":
        assert {"memfd_create", "pwritev", "clock_gettime", "renameat"} <= made


def test_the_list_names_each_call_once_and_all_are_tried():
    calls = recording_calls()
    assert len(calls) == len(set(calls))
    assert set(calls) <= set(NUMBERS)
    assert set(NOT_REFUSED) <= set(calls)


# ---------------------------------------------------------------------------------------------
# Each of them is refused
# ---------------------------------------------------------------------------------------------


def outcomes(directory: Path, how: str, when: str, cases: list[tuple[str, str]]) -> dict:
    """Run a program once for each case, with that call refused."""
    directory.mkdir()
    done = subprocess.run(
        [sys.executable, str(HERE / "refusals.py"), how, when],
        input=json.dumps(cases),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
    return {tuple(case): outcome for case, outcome in json.loads(done.stdout)}


def cases(engine: str, when: str) -> list[tuple[str, str]]:
    """Return what is refused: each call with every error, in the long run in each way."""
    errors = list(ERRORS)
    if not LONG:
        # Every call with every error, at the start with the one engine and later with the other.
        errors = errors[:2] if (engine == "direct") == (when == "start") else errors[2:]
    refused = [call for call in recording_calls() if call not in NOT_REFUSED]
    with_errors = [(call, error) for call in refused for error in errors]
    killed = [(call, "kill") for call in [*left_out(), *NOT_MADE]]
    return with_errors + killed


@pytest.mark.parametrize("when", ["start", "running"])
@pytest.mark.parametrize("engine", ["direct", "gil"])
def test_a_program_ends_as_without_rprof_whatever_is_refused(tmp_path, engine, when):
    chosen = cases(engine, when)
    assert {action for _, action in chosen} <= set(ACTIONS)
    plain = outcomes(tmp_path / "plain", "plain", when, chosen)
    profiled = outcomes(tmp_path / engine, engine, when, chosen)
    different = {
        case: (plain[case], outcome) for case, outcome in profiled.items() if outcome != plain[case]
    }
    assert not different, different
    # Most programs do not need what is refused: that they all died alike would tell nothing.
    ended = [case for case, (status, said) in plain.items() if status == 0 and "ended" in said]
    assert len(ended) > 0.8 * len(plain), set(plain) - set(ended)


REFUSED_BEFORE_THE_FIRST_WINDOW = """
import sys, time
import rprof
from forbidding import ACTIONS, NUMBERS, forbid
rprof.start("out/", rate=1000, max_overhead=0, window=0.1, engine=sys.argv[1])
forbid([NUMBERS["getrandom"]], ACTIONS["ENOSYS"], everywhere=True)
deadline = time.monotonic() + 60
while not (rprof.status().windows > 1 or rprof.status().last_error):
    assert time.monotonic() < deadline, rprof.status()
    sum(range(1000))
rprof.stop()
assert not rprof.status().last_error, rprof.status()
try:
    rprof.serve("127.0.0.1:0")
except rprof.RprofError as error:
    assert "getrandom" in str(error), error
else:
    raise AssertionError("there is an endpoint")
"""


@pytest.mark.parametrize("engine", ["direct", "gil"])
def test_windows_are_written_without_random_numbers(programs, engine):
    """No descriptor is remembered for all threads: most of them have descriptors of their own."""
    (programs.directory / "forbidding.py").write_bytes((HERE / "forbidding.py").read_bytes())
    done = subprocess.run(
        [*programs.command(REFUSED_BEFORE_THE_FIRST_WINDOW), engine],
        cwd=programs.directory,
        env=programs.environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((programs.directory / "out").glob("*.pb.gz"))) >= 2
