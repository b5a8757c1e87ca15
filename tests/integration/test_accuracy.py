"""What a profile says against what the program measured of itself."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections import deque

import pytest
import rprof
from support import ENGINE, eventually

GO = shutil.which("go")
needs_go = pytest.mark.skipif(
    GO is None, reason="go, whose pprof reads the files, is not installed"
)


def pprof(*arguments):
    done = subprocess.run(
        [GO, "tool", "pprof", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_cpu_time_is_what_the_threads_clocks_say(programs):
    measured = json.loads(
        programs.check(
            """
            import json, threading, time, rprof
            from burning import burn
            used, lived = {}, {}
            gate = threading.Barrier(5)
            def work(name):
                gate.wait()
                start = time.perf_counter_ns()
                used[name] = burn(0.6)
                lived[name] = time.perf_counter_ns() - start
                gate.wait()
            threads = [threading.Thread(target=work, args=(f"w{n}",), name=f"w{n}")
                       for n in range(4)]
            for thread in threads: thread.start()
            with rprof.profile("x.pb.gz", rate=200):
                start = time.perf_counter_ns()
                gate.wait(); gate.wait()
                lived["MainThread"] = time.perf_counter_ns() - start
            for thread in threads: thread.join()
            print(json.dumps([used, lived]))
            """
        )
    )
    used, lived = measured
    threads = {t.name: t.totals for t in rprof.load(programs.directory / "x.pb.gz").threads}
    cpu = sum(threads[name]["cpu"] for name in used)
    assert cpu == pytest.approx(sum(used.values()) * 1e9, rel=0.02)
    for name in used:
        assert threads[name]["cpu"] == pytest.approx(used[name] * 1e9, rel=0.05, abs=20e6)
        assert threads[name]["wall"] == pytest.approx(lived["MainThread"], rel=0.05, abs=30e6)


def test_shares_are_those_of_the_program(programs):
    used = json.loads(
        programs.check(
            """
            import json, rprof
            from burning import burn_shares
            with rprof.profile("x.pb.gz", rate=1000, max_overhead=1.0):
                used = burn_shares(80, 0.008)
            print(json.dumps(used))
            """
        )
    )
    rows = rprof.load(programs.directory / "x.pb.gz").top(50, by="cpu")
    whole = sum(used.values())
    for name, seconds in used.items():
        share = sum(row.total_fraction for row in rows if row.name == f"burning.{name}")
        # About 380 samples at the switch interval of 5 ms: a standard error of 2.6 points for a
        # share of one half, and four of them.
        assert share == pytest.approx(seconds / whole, abs=0.11), name


def test_a_sleeping_thread_has_wall_time_only(programs):
    programs.check(
        """
        import threading, rprof
        from burning import burn
        done = threading.Event()
        sleeper = threading.Thread(target=done.wait, name="sleeper")
        sleeper.start()
        with rprof.profile("x.pb.gz", rate=200):
            burn(0.4)
        done.set(); sleeper.join()
        """
    )
    threads = {t.name: t.totals for t in rprof.load(programs.directory / "x.pb.gz").threads}
    assert threads["sleeper"]["cpu"] < 0.01 * threads["MainThread"]["cpu"]
    assert threads["sleeper"]["wall"] == pytest.approx(threads["MainThread"]["wall"], rel=0.02)


@needs_go
@pytest.mark.parametrize("way", ["start", "block", "single"])
def test_pprof_shows_what_costs_the_time(programs, way):
    begin, end = {
        "start": ("rprof.start('out/')", "rprof.stop()"),
        "block": ("block = rprof.profile('out/x.pb.gz'); block.__enter__()", "block.__exit__()"),
        "single": ("rprof.start('out/x.pb.gz')", "rprof.stop()"),
    }[way]
    end = end.replace("__exit__()", "__exit__(None, None, None)")
    programs.directory.joinpath("out").mkdir()
    programs.check(
        f"""
        import threading, time, rprof
        from burning import burn_three, burn_one
        {begin}
        threads = [threading.Thread(target=burn_three, args=(0.1,), name="heavy"),
                   threading.Thread(target=burn_one, args=(0.1,), name="light")]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        {end}
        """
    )
    (file,) = programs.profiles("out")
    text = pprof("-top", "-cum", "-sample_index=cpu", file)
    assert "burning.burn_three" in text
    assert f"engine: {ENGINE}" in text
    assert text.index("burning.burn_three") < text.index("burning.burn_one")
    focused = pprof("-top", "-cum", "-sample_index=cpu", "-tagfocus=thread name=light", file)
    assert "burning.burn_one" in focused
    assert "burn_three" not in focused
    assert "Type: wall" in pprof("-top", file)
    raw = pprof("-raw", file)
    assert "samples/count wall/nanoseconds[dflt] cpu/nanoseconds" in raw
    # Lambdas and modules keep their angle brackets.
    assert ".<module>" in raw


@needs_go
def test_pprof_adds_up_what_we_add_up(programs):
    programs.check(
        """
        import rprof
        from burning import burn_shares
        with rprof.profile("x.pb.gz", rate=500):
            burn_shares(5, 0.01)
        """
    )
    file = programs.directory / "x.pb.gz"
    totals = rprof.load(file).totals
    lines = pprof("-raw", file).splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith("samples/count"))
    sums = [0] * len(totals)
    for line in lines[begin + 1 :]:
        numbers = line.partition(":")[0].split()
        if line.startswith("Locations"):
            break
        if len(numbers) == len(totals) and all(number.isdigit() for number in numbers):
            sums = [left + int(right) for left, right in zip(sums, numbers, strict=True)]
    assert sums == list(totals.values())


def wait_until_idle(pid):
    """Wait until the main thread sleeps in its system call and holds no GIL."""
    states = deque("R" * 10, maxlen=10)

    def has_slept() -> bool:
        with open(f"/proc/{pid}/stat") as file:
            states.append(file.read().rpartition(")")[2].split()[0])
        return set(states) == {"S"}

    eventually(has_slept, "the main thread sleeps")


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_stopped_process_credits_nobody(programs):
    process = programs.start(
        """
        import json, os, signal, sys, rprof
        with rprof.profile("x.pb.gz", rate=100):
            print("ready", flush=True)
            sys.stdin.readline()
            rprof.status()
        print(json.dumps(rprof.status()._asdict()))
        """
    )
    assert process.stdout.readline() == "ready\n"
    wait_until_idle(process.pid)
    process.send_signal(signal.SIGSTOP)
    stopped_at = time.monotonic()
    while time.monotonic() < stopped_at + 3:
        # The pause is what is tested: nothing in the stopped process can tell its end.
        time.sleep(0.1)
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate("\n", timeout=60)
    assert (process.returncode, err) == (0, "")
    status = json.loads(out)
    assert status["gaps"] == 1
    profile = rprof.load(programs.directory / "x.pb.gz")
    assert profile.totals["wall"] < 2e9
    assert profile.duration_ns < 2e9
    assert profile.facts["stood_still_seconds"] > 0
