"""What the direct engine sees that no engine with the GIL can, and what must not disturb it."""

from __future__ import annotations

import platform
import signal
import sys
import time
from pathlib import Path

import pytest
import rprof
from support import LONG

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the direct engine needs Linux")

WORKLOADS = Path(__file__).parent.parent / "workloads"

HOG = """
import ctypes, time
library = ctypes.PyDLL(None)  # PyDLL keeps the GIL during the call

def hog(seconds):
    library.usleep(int(seconds * 1e6))  # line of the call

def hog_for_ever():
    return sum(range(10**15))  # one C function, which no signal interrupts
"""


@pytest.fixture
def hog(programs):
    (programs.directory / "hog.py").write_text(HOG, encoding="utf-8")
    return next(n for n, line in enumerate(HOG.splitlines(), 1) if "line of the call" in line)


def test_a_call_that_keeps_the_gil_is_seen_at_full_rate(programs, hog):
    programs.check(
        """
        import threading, rprof
        from burning import burn
        from hog import hog
        with rprof.profile("x.pb.gz", rate=200, engine="direct", max_overhead=1.0):
            other = threading.Thread(target=burn, args=(0.05,), name="other")
            other.start()
            hog(1.5)
            other.join()
        """
    )
    profile = rprof.load(programs.directory / "x.pb.gz")
    of_call = [
        (frames, value) for frames, value in profile.stacks("gil") if frames[-1].name == "hog.hog"
    ]
    assert {frames[-1].line for frames, _ in of_call} == {hog}
    assert sum(value for _, value in of_call) > 1.3e9
    assert profile.facts["achieved_hz"] > 150, profile.comments


def test_whoever_holds_the_gil_is_blamed_for_those_who_wait(programs, hog):
    programs.check(
        """
        import threading, rprof
        from burning import burn
        from hog import hog
        with rprof.profile("x.pb.gz", rate=200, engine="direct", max_overhead=1.0):
            others = [threading.Thread(target=burn, args=(0.05,)) for _ in range(2)]
            for other in others:
                other.start()
            hog(1.0)
            for other in others:
                other.join()
        """
    )
    profile = rprof.load(programs.directory / "x.pb.gz")
    assert profile.totals["gil_blame"] == profile.totals["gil_wait"] > 1.5e9
    first = profile.top(1, by="gil_blame")[0]
    assert first.name == "hog.hog"
    assert first.self_fraction > 0.8, first


def test_dumps_while_the_gil_is_stuck(programs, hog):
    process = programs.start(
        """
        import signal, threading, rprof
        from hog import hog_for_ever
        rprof.dump_on_signal(signal.SIGUSR2, "dump.txt")
        print("ready", flush=True)
        hog_for_ever()
        """
    )
    try:
        assert process.stdout.readline() == "ready\n"
        dump = programs.directory / "dump.txt"
        deadline = time.monotonic() + 60
        # Until the call has begun, dumps show the line before it.
        while not (dump.exists() and "in hog.hog_for_ever" in dump.read_text()):
            assert time.monotonic() < deadline
            process.send_signal(signal.SIGUSR2)
            time.sleep(0.05)
        assert process.poll() is None
    finally:
        process.kill()
        out, err = process.communicate()
    assert (out, err) == ("", "")
    text = dump.read_text()
    assert f'hog.py", line {hog + 3}, in hog.hog_for_ever' in text
    assert '"MainThread", holds the GIL' in text
    assert dump.stat().st_mode & 0o777 == 0o600


def test_dumps_survive_forks_and_end(programs):
    out = programs.check(
        """
        import os, signal, sys, rprof
        from pathlib import Path
        seen = []
        signal.signal(signal.SIGUSR2, lambda *_: seen.append(1))
        rprof.dump_on_signal(signal.SIGUSR2, "{}.txt".format("dump"))
        child = os.fork()
        if child == 0:
            rprof.dump_on_signal(signal.SIGUSR2, "child.txt")
        name = "dump.txt" if child else "child.txt"
        os.kill(os.getpid(), signal.SIGUSR2)
        while not (os.path.exists(name) and Path(name).read_text().endswith("\\n\\n")):
            pass
        if child == 0:
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        rprof.dump_on_signal(None)
        os.kill(os.getpid(), signal.SIGUSR2)
        assert seen == [1]
        print(len(os.listdir("/proc/self/task")))
        """,
        "-W",
        "error",
    )
    assert out == "1\n"


def test_a_wrong_signal_is_named():
    with pytest.raises(rprof.RprofTypeError, match="'USR2'"):
        rprof.dump_on_signal("USR2")
    with pytest.raises(rprof.RprofValueError, match="signal=9"):
        rprof.dump_on_signal(signal.SIGKILL)


def test_cpu_time_is_not_charged_to_sleep(programs):
    programs.check(
        """
        import time, rprof
        from burning import burn
        def rest(): time.sleep(0.003)
        with rprof.profile("x.pb.gz", rate=1000, engine="direct", max_overhead=1.0):
            for _ in range(100):
                burn(0.003)
                rest()
        """
    )
    profile = rprof.load(programs.directory / "x.pb.gz")
    cpu = {row.name: row.self_value for row in profile.top(100, by="cpu")}
    wall = {row.name: row.self_value for row in profile.top(100, by="wall")}
    assert cpu["burning.burn"] > 0.9 * profile.totals["cpu"]
    assert wall["program.rest"] > 0.25e9
    assert cpu.get("program.rest", 0) < 0.03 * profile.totals["cpu"]


def test_c_code_that_computes_after_a_long_wait_is_seen(programs):
    """A thread that waited long in C is not looked at for a while; nothing of it may be lost."""
    out = programs.check(
        """
        import os, subprocess, sys, threading, time, rprof
        from burning import burn
        reads = "import os, sys; sys.stdin.readline()"
        reads += "\\nwhile os.read(int(sys.argv[1]), 1 << 20): pass"
        theirs, ours = os.pipe()
        child = subprocess.Popen(
            [sys.executable, "-c", reads, str(theirs)], stdin=subprocess.PIPE, pass_fds=[theirs]
        )
        os.close(theirs)
        blob = bytes(200 << 20)
        used = []
        def send(blob):
            # Waits until somebody reads, and then computes in the kernel, without the GIL.
            assert os.write(ours, blob) == len(blob)
        is_done, may_end = threading.Event(), threading.Event()
        def work():
            before = time.thread_time()
            send(blob)
            used.append(time.thread_time() - before)
            burn(0.05)
            is_done.set()
            # What a thread uses after the last look at it is lost.
            may_end.wait()
        with rprof.profile("x.pb.gz", rate=500, engine="direct", max_overhead=1.0):
            thread = threading.Thread(target=work, name="sender")
            thread.start()
            # Another thread has the GIL last, again and again.
            end = time.monotonic() + 1
            while time.monotonic() < end:
                time.sleep(0.001)
            child.stdin.write(b"\\n")
            child.stdin.flush()
            while not is_done.wait(0.001):
                pass
            end = time.monotonic() + 0.1
            while time.monotonic() < end:
                time.sleep(0.001)
            may_end.set()
            thread.join()
        os.close(ours)
        assert child.wait() == 0
        print(used[0])
        """
    )
    used = float(out) * 1e9
    profile = rprof.load(programs.directory / "x.pb.gz")
    wall = {row.name: row.self_value for row in profile.top(100, by="wall")}
    assert wall["program.send"] > 1e9
    # Where it was spent is another matter: the kernel has it wait for the reader now and then, and
    # what it was not seen spending goes to where it is seen computing next.
    (sender,) = (thread for thread in profile.threads if thread.name == "sender")
    assert abs(sender.totals["cpu"] - used - 0.05e9) < 0.1 * used


def test_a_recording_that_begins_and_ends_in_a_rest_has_what_was_spent_in_between(programs):
    """Neither the CPU time before it, which is found late, nor less than there was."""
    out = programs.check(
        """
        import os, subprocess, sys, threading, time, rprof
        reads = (
            "import os, sys\\n"
            "for line in sys.stdin:\\n"
            "    left = int(line)\\n"
            "    while left:\\n"
            "        left -= len(os.read(int(sys.argv[1]), min(left, 1 << 20)))\\n"
        )
        theirs, ours = os.pipe()
        child = subprocess.Popen(
            [sys.executable, "-c", reads, str(theirs)], stdin=subprocess.PIPE, pass_fds=[theirs]
        )
        os.close(theirs)
        blob = bytes(1 << 30)
        begun = []
        def send():
            begun.append(time.thread_time_ns())
            # Waits until somebody reads, and then computes in the kernel, without the GIL.
            os.write(ours, blob)
        options = {"rate": 500, "engine": "direct", "max_overhead": 1.0}
        with rprof.profile("whole.pb.gz", **options):
            thread = threading.Thread(target=send, name="sender")
            thread.start()
            clock = time.pthread_getcpuclockid(thread.ident)
            def used():
                return time.clock_gettime_ns(clock)
            def wait_until_used(nanoseconds):
                while used() < nanoseconds:
                    time.sleep(0.001)
            for part in range(4):
                end = time.monotonic() + 0.5
                while time.monotonic() < end:
                    time.sleep(0.001)
                marks = [used()]
                child.stdin.write(b"200000000\\n")
                child.stdin.flush()
                wait_until_used(marks[0] + 10_000_000)
                marks[0] = used()
                with rprof.profile(f"part{part}.pb.gz", **options):
                    marks.append(used())
                    wait_until_used(marks[-1] + 10_000_000)
                    marks.append(used())
                marks.append(used())
                print(f"part{part}", marks[2] - marks[1], marks[3] - marks[0], 0)
            last = used()
        print("whole", last, used(), begun[0], flush=True)
        assert thread.is_alive()
        child.kill()
        # Not the end of the write, which nobody reads any more.
        os._exit(0)
        """
    )
    lines = [line.split() for line in out.splitlines()]
    assert len(lines) == 5
    for name, least, most, before in lines:
        profile = rprof.load(programs.directory / f"{name}.pb.gz")
        sender = profile.only_threads(lambda thread: thread.name == "sender")
        assert int(least) <= sender.totals["cpu"] <= int(most), name
        cpu = {row.name: row.self_value for row in sender.top(100, by="cpu")}
        # A look may find the thread on its way to what it does.
        assert sender.totals["cpu"] - int(before) <= cpu["program.send"], name


def test_who_takes_the_gil_after_a_long_wait_is_seen_at_once(programs):
    out = programs.check(
        """
        import hashlib, threading, time, rprof
        blob = bytes(8 << 20)
        used = []
        turn, done = threading.Semaphore(0), threading.Semaphore(0)
        def wait():
            turn.acquire()
        def digest():
            # Without the GIL, which the main thread has again at once.
            before = time.thread_time()
            hashlib.sha3_256(blob).digest()
            used.append(time.thread_time() - before)
        def work():
            for _ in range(6):
                wait()
                digest()
                done.release()
            # What a thread uses after the last look at it is lost.
            wait()
        with rprof.profile("x.pb.gz", rate=100, engine="direct"):
            thread = threading.Thread(target=work)
            thread.start()
            for _ in range(6):
                end = time.monotonic() + 0.4
                while time.monotonic() < end:
                    time.sleep(0.001)
                turn.release()
                while not done.acquire(timeout=0.001):
                    pass
            sum(range(5_000_000))
            turn.release()
            thread.join()
        print(sum(used))
        """
    )
    used = float(out) * 1e9
    profile = rprof.load(programs.directory / "x.pb.gz")
    cpu = {row.name: row.self_value for row in profile.top(100, by="cpu")}
    # A tick is a fifteenth of it all, and on a busy machine some find the thread in its wait, just
    # woken. Were it left alone for longer, less than half would be there.
    assert cpu["program.digest"] > 0.6 * used


def test_an_idle_program_is_shown_whole_and_what_it_does_next_as_well(programs):
    out = programs.check(
        """
        import threading, time, rprof
        from burning import burn
        def wait(event):
            event.wait()
        done = threading.Event()
        with rprof.profile("x.pb.gz", rate=200, engine="direct", max_overhead=1.0):
            entered = time.monotonic()
            thread = threading.Thread(target=wait, args=(done,), name="waiter")
            thread.start()
            began = time.monotonic()
            time.sleep(1.5)
            ended, before = time.monotonic(), time.thread_time()
            burn(0.5)
            burned, last = time.thread_time() - before, time.monotonic()
            done.set()
            thread.join()
            print(ended - began, burned, ended - entered + time.monotonic() - last)
        """
    )
    slept, burned, besides = (float(number) * 1e9 for number in out.split())
    profile = rprof.load(programs.directory / "x.pb.gz")
    # Three of four, once half a second has passed.
    idle_ticks = profile.facts["idle_ticks"]
    assert 30 < idle_ticks <= 0.75 * 200 * slept / 1e9, profile.comments
    totals = {thread.name: thread.totals for thread in profile.threads}
    assert totals["waiter"]["wall"] >= slept + 0.9 * burned
    # The main thread moved at the end of it, and is known at all ticks but the last three.
    for name in ("MainThread", "waiter"):
        assert totals[name]["samples"] >= idle_ticks
    cpu = {row.name: row.total_value for row in profile.top(100, by="cpu")}
    assert cpu["burning.burn"] > 0.9 * burned
    main = profile.only_threads(lambda thread: thread.name == "MainThread")
    wall = {row.name: row.total_value for row in main.top(100, by="wall")}
    # On a busy machine a thread takes its time to start and to end.
    assert 0.8 * slept < wall["program.<module>"] - wall["burning.burn"] < besides + 0.1 * burned


def test_the_garbage_collector_has_a_frame(programs):
    programs.check(
        """
        import gc, time, rprof
        garbage = [[] for _ in range(300_000)]
        gc.disable()
        with rprof.profile("x.pb.gz", rate=500, engine="direct", max_overhead=1.0):
            end = time.thread_time() + 0.5
            while time.thread_time() < end:
                gc.collect()
        """
    )
    profile = rprof.load(programs.directory / "x.pb.gz")
    cpu = {row.name: row.self_value for row in profile.top(100, by="cpu")}
    assert cpu["<gc>"] > profile.totals["cpu"] / 2


FILTERS = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"),
    reason="the numbers of the calls are those of Linux on x86-64",
)
FORBID = "from forbidding import ACTIONS, ALLOW, NUMBERS, forbid"


@pytest.mark.parametrize("filtered", [False, pytest.param(True, marks=FILTERS)])
def test_a_daemon_closes_all_its_files(programs, filtered):
    # Under a filter all descriptors are in the program's own table.
    programs.check(
        f"""
        {FORBID}
        import os, rprof
        if {filtered}: forbid([], ALLOW)
        from burning import burn
        rprof.start("out/", rate=1000, engine="direct", max_overhead=1.0)
        burn(0.1)
        os.closerange(3, 1000)
        # Descriptors that a careless profiler would take for its own.
        files = [open(f"mine-{{number}}", "w+b") for number in range(40)]
        burn(0.2)
        rprof.flush()
        burn(0.1)
        profile = rprof.stop()
        assert all(file.seek(0, 2) == 0 for file in files), "somebody wrote into them"
        assert profile.totals["cpu"] > 0.05e9
        for file in files: file.close()
        """,
        PYTHONPATH=f"{Path(__file__).parent}:{WORKLOADS}",
    )
    assert len(programs.profiles("out")) == 2


@FILTERS
@pytest.mark.parametrize("error", ["EPERM", "ENOSYS", "kill"])
@pytest.mark.parametrize("call", ["memfd_create", "process_vm_readv", "close_range"])
def test_under_a_filter_memory_is_read_by_a_file(programs, call, error):
    out = programs.check(
        f"""
        {FORBID}
        import rprof
        from burning import burn
        forbid([NUMBERS[{call!r}]], ACTIONS[{error!r}])
        rprof.start(None, rate=500, engine="direct", max_overhead=1.0)
        burn(0.1)
        print(rprof.status().engine, rprof.status().engine_reason)
        assert rprof.stop().totals["cpu"] > 0.05e9
        """,
        PYTHONPATH=f"{Path(__file__).parent}:{WORKLOADS}",
    )
    assert out.startswith("direct ")
    assert out.endswith("by file\n")


@FILTERS
def test_where_a_filter_leaves_no_means_the_other_engine_is_taken(programs):
    out = programs.check(
        f"""
        {FORBID}
        import rprof
        from burning import burn
        forbid([NUMBERS["pwritev"]], ACTIONS["EPERM"])
        try:
            rprof.start(None, engine="direct")
        except rprof.RprofStateError as error:
            print(error)
        rprof.start(None, engine="auto", rate=500, max_overhead=1.0)
        burn(0.1)
        print(rprof.status().engine, rprof.status().engine_reason)
        assert rprof.stop().totals["cpu"] > 0.05e9
        """,
        PYTHONPATH=f"{Path(__file__).parent}:{WORKLOADS}",
    )
    refused, taken = out.splitlines()
    assert "a filter of system calls may be in force" in refused
    assert taken.startswith("gil ")
    assert "a filter of system calls may be in force" in taken


def test_short_threads_are_not_lost_and_names_are_not_mixed(programs):
    programs.check(
        f"""
        import threading, rprof
        from burning import burn
        with rprof.profile("x.pb.gz", rate=1000, engine="direct", max_overhead=1.0):
            for number in range({300 if LONG else 40}):
                thread = threading.Thread(target=burn, args=(0.02,), name=f"worker {{number}}")
                thread.start(); thread.join()
        """
    )
    profile = rprof.load(programs.directory / "x.pb.gz")
    workers = [t for t in profile.threads if t.name != "MainThread"]
    # What a thread used after the last tick that saw it is lost; on a busy machine ticks are late.
    assert sum(t.totals["cpu"] for t in workers) > (300 if LONG else 40) * 0.015e9
    named = [t for t in workers if t.name]
    assert len(named) > len(workers) / 2
    for thread in named:
        assert thread.totals["cpu"] < 0.04e9, thread


def test_one_engine_a_process(programs):
    programs.check(
        """
        import rprof
        with rprof.profile(engine="direct"):
            try:
                with rprof.profile(engine="gil"): pass
            except rprof.RprofStateError as error:
                assert "one engine" in str(error), error
            else:
                raise SystemExit("two engines")
        with rprof.profile(engine="gil") as block:
            sum(range(100_000))
        assert "engine: gil" in block.profile.comments
        """
    )
