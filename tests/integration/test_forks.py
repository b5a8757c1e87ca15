"""Forks: by every road, with every hook and with none."""

from __future__ import annotations

import multiprocessing
import os
import sys

import pytest
import rprof
from support import ENGINE, LONG

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def functions(path):
    return " ".join(row.name for row in rprof.load(path).top(1000, by="wall"))


@pytest.mark.parametrize("exits", ["os._exit(0)", "sys.exit(0)"])
def test_a_storm_of_forks(programs, exits):
    forks = 1000 if LONG else 150
    out = programs.check(
        f"""
        import os, sys, rprof
        from burning import burn
        def resources():
            return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))
        before = resources()
        rprof.start("out/", rate=1000, window=0.05, max_overhead=1.0, keep_files=5)
        for number in range({forks}):
            child = os.fork()
            if child == 0:
                [bytes(100) for _ in range(1000)]
                {exits}
            sum(range(1000))
            _, status = os.waitpid(child, 0)
            assert status == 0, status
        burn(0.05)
        assert rprof.status().last_error is None, rprof.status().last_error
        rprof.stop()
        after = resources()
        assert after == before, (before, after)
        print("done")
        """,
        "-W",
        "error",
        # Each child that ends by sys.exit waits for its file to be on the disk.
        timeout=900 if LONG else 120,
    )
    assert out.endswith("done\n")
    for path in programs.profiles("out"):
        rprof.load(path)


def test_parent_and_child_keep_their_samples_apart(programs):
    out = programs.check(
        """
        import os, rprof
        from burning import burn_one, burn_two, burn_three
        rprof.start("out/", rate=500, max_overhead=1.0)
        burn_one(0.1)
        child = os.fork()
        if child == 0:
            burn_two(0.1)
            assert rprof.is_running()
            rprof.stop()
            os._exit(0)
        os.waitpid(child, 0)
        burn_three(0.05)
        rprof.stop()
        print(os.getpid(), child)
        """
    )
    parent, child = out.split()
    by_pid = {path.name.split("-")[1]: functions(path) for path in programs.profiles("out")}
    assert set(by_pid) == {parent, child}
    assert "burn_one" in by_pid[parent]
    assert "burn_three" in by_pid[parent]
    assert "burn_two" not in by_pid[parent]
    assert "burn_two" in by_pid[child]
    assert "burn_one" not in by_pid[child]


def test_a_single_file_gets_the_childs_pid(programs):
    out = programs.check(
        """
        import os, sys, rprof
        rprof.start("one.pb.gz")
        child = os.fork()
        if child == 0:
            sys.exit(0)
        os.waitpid(child, 0)
        print(child)
        """
    )
    names = {path.name for path in programs.profiles(".")}
    assert names == {"one.pb.gz", f"one-{out.strip()}.pb.gz"}


def test_a_block_that_ends_in_a_child_is_harmless(programs):
    programs.check(
        """
        import os, rprof
        with rprof.profile("x.pb.gz") as block:
            child = os.fork()
        if child == 0:
            try: block.profile
            except rprof.RprofStateError: pass
            else: os._exit(1)
            if rprof.is_running() or os.path.exists("x.pb.gz") and len(os.listdir(".")) > 2:
                os._exit(2)
            with rprof.profile() as again: sum(range(100_000))
            os._exit(0 if again.profile.totals["wall"] else 3)
        assert os.waitpid(child, 0)[1] == 0
        assert block.profile
        """
    )
    assert [path.name for path in programs.profiles(".")] == ["x.pb.gz"]


def test_a_fork_without_hooks(programs):
    out = programs.check(
        """
        import ctypes, os, rprof
        libc = ctypes.PyDLL(None)
        rprof.start("out/", rate=500)
        child = libc.fork()
        if child == 0:
            code = 0
            try:
                code |= rprof.is_running()
                rprof.start("child/", rate=500)
                sum(range(500_000))
                code |= 2 * (rprof.stop().totals["wall"] == 0)
            except BaseException as error:
                print(repr(error), flush=True)
                code |= 4
            os._exit(code)
        print(os.waitpid(child, 0)[1])
        assert rprof.is_running()
        rprof.stop()
        """
    )
    assert out == "0\n"
    assert len(programs.profiles("out")) == 1
    assert len(programs.profiles("child")) == 1


def test_a_child_forked_by_a_thread_ends_with_it(programs):
    out = programs.check(
        """
        import os, threading, warnings, rprof
        warnings.simplefilter("ignore")
        rprof.start("out/", rate=200)
        def fork():
            child = os.fork()
            if child:
                print(os.waitpid(child, 0)[1])
        for _ in range(5):
            thread = threading.Thread(target=fork)
            thread.start()
            thread.join()
            if threading.current_thread() is not threading.main_thread():
                break
        """,
        timeout=60,
    )
    assert out == "0\n" * 5


# What else is registered is a library's (joblib's, where a test has imported it).
METHODS = [
    method
    for method in ("fork", "spawn", "forkserver")
    if method in multiprocessing.get_all_start_methods()
]


@pytest.mark.parametrize("method", METHODS)
def test_multiprocessing(programs, method):
    programs.check(
        f"""
        import multiprocessing, rprof
        from burning import burn_one, burn_two
        def work():
            import rprof
            if not rprof.is_running():
                rprof.start("out/", rate=500)
            burn_two(0.1)
        if __name__ == "__main__":
            rprof.start("out/", rate=500)
            context = multiprocessing.get_context({method!r})
            children = [context.Process(target=work) for _ in range(2)]
            for child in children: child.start()
            for child in children: child.join()
            assert [child.exitcode for child in children] == [0, 0]
            burn_one(0.1)
            rprof.stop()
        """
    )
    shown = [functions(path) for path in programs.profiles("out")]
    assert sum("burn_two" in names for names in shown) == 2
    assert sum("burn_one" in names for names in shown) >= 1


def test_prefork_workers_stop_gracefully(programs):
    out = programs.check(
        """
        import os, signal, sys, rprof
        from burning import burn_one, burn_two
        rprof.start("out/", rate=500, window=0.2)
        workers = []
        for _ in range(2):
            read, write = os.pipe()
            worker = os.fork()
            if worker == 0:
                stopping = []
                signal.signal(signal.SIGTERM, lambda *_: stopping.append(1))
                burn_one(0.05)
                os.write(write, b"r")
                while not stopping:
                    burn_two(0.01)
                sys.exit(0)
            workers.append(worker)
            assert os.read(read, 1) == b"r"
        for worker in workers: os.kill(worker, signal.SIGTERM)
        print([os.waitpid(worker, 0)[1] for worker in workers])
        """
    )
    assert out == "[0, 0]\n"
    pids = {path.name.split("-")[1] for path in programs.profiles("out")}
    assert len(pids) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_subprocess_is_not_disturbed(programs):
    programs.check(
        """
        import subprocess, sys, rprof
        rprof.start("out/", rate=1000)
        for _ in range(20):
            subprocess.run([sys.executable, "-S", "-c", ""], check=True)
            subprocess.run(["true"], check=True, preexec_fn=lambda: None)
        """
    )
    assert len(programs.profiles("out")) == 1


@pytest.mark.skipif(ENGINE != "direct", reason="of the direct engine")
def test_children_go_on_with_the_engine_of_their_parent(programs):
    """Wherever a child is when it goes on, as at the begin of a function."""
    programs.check(
        """
        import os, sys, time, rprof
        def small(number):
            assert number
            return number
        rprof.start("out/", rate=1000)
        for _ in range(12):
            child = os.fork()
            if child == 0:
                end = time.thread_time() + 0.05
                while time.thread_time() < end or rprof.status().engine == "":
                    small(1), small(2), small(3)
                status = rprof.status()
                if status.engine != "direct":
                    os.write(2, status.engine_reason.encode())
                    os._exit(1)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        """
    )
