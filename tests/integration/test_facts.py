"""What a profile says of itself beyond its numbers, and of numbers that are not all of a kind."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import rprof

BURN = """
import sys, threading, time
import rprof
def burn(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        sum(range(500))
"""


def with_burn(code):
    return BURN + textwrap.dedent(code)


def test_files_of_both_engines_are_one_directory(programs):
    for engine in ("gil", "direct"):
        programs.check(
            with_burn(f"""
            with rprof.profile("{engine}.pb.gz", rate=200, engine="{engine}", max_overhead=0):
                burn(0.3)
            """)
        )
    files = sorted(programs.directory.glob("*.pb.gz"))
    both, swapped = rprof.merge(files), rprof.merge(files[::-1])
    for merged in (both, swapped):
        kinds = [kind.type for kind in merged.sample_types]
        assert kinds[:6] == ["samples", "wall", "cpu", "gil", "gil_wait", "gil_blame"]
        assert [kind for kind in kinds[6:] if kind != "cpu_wait"] == ["lock_wait", "lock_blame"]
        table = merged.top(5, by="gil")
        assert any("not measured in 1 of 2" in doubt for doubt in table.doubts), table.doubts
        assert table.doubts[0] in str(table)
        assert not merged.top(5, by="wall").doubts
    assert both.totals == swapped.totals
    command = [sys.executable, "-m", "rprof", "top", "--by", "gil", str(programs.directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "not measured in 1 of 2" in done.stdout
    # What was merged once says so when it is merged again.
    path = programs.directory / "both.pprof"
    both.write(path)
    again = rprof.merge([path, *files])
    assert any("2 of 4" in doubt for doubt in again.top(5, by="gil_wait").doubts)


@pytest.mark.parametrize("jit", ["0", "1"])
def test_a_profile_says_whether_the_jit_was_on(programs, jit):
    programs.check(
        with_burn("""
        has_jit = hasattr(sys, "_jit") and sys._jit.is_enabled()
        with rprof.profile(rate=200) as block:
            burn(0.1)
        said = [comment for comment in block.profile.comments if comment.startswith("jit:")]
        assert bool(said) == has_jit, (said, has_jit)
        assert bool(block.profile.top(3, by="cpu", lines=True).doubts) == has_jit
        assert not block.profile.top(3, by="cpu").doubts
        assert ("jit" in rprof.status().engine_reason) == has_jit, rprof.status()
        """),
        PYTHON_JIT=jit,
    )


def test_the_main_thread_is_who_it_is_not_who_is_called_so(programs):
    programs.check(
        with_burn("""
        threading.current_thread().name = "renamed"
        other = threading.Thread(target=burn, args=(0.3,), name="MainThread")
        with rprof.profile(rate=200, threads="main") as block:
            other.start()
            burn(0.3)
            other.join()
        assert [thread.name for thread in block.profile.threads] == ["renamed"]
        """)
    )


def test_the_main_thread_of_a_forked_child_is_the_one_that_forked(programs):
    programs.check(
        with_burn("""
        import os
        def fork():
            pid = os.fork()
            if pid == 0:
                with rprof.profile(rate=200, threads="main") as block:
                    burn(0.2)
                seen = [(thread.id, thread.name) for thread in block.profile.threads]
                is_told = block.profile.main_threads == {os.getpid()}
                os._exit(0 if is_told and seen == [(os.getpid(), "forker")] else 1)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        codes = []
        with rprof.profile(rate=200) as block:
            forker = threading.Thread(target=fork, name="forker")
            forker.start()
            forker.join()
        assert codes == [0], codes
        assert block.profile.main_threads == {os.getpid()}
        """),
        "-Wignore::DeprecationWarning",
    )


def test_dumps_say_who_is_the_main_thread(programs):
    programs.check(
        with_burn("""
        threading.current_thread().name = "renamed"
        ended = threading.Event()
        other = threading.Thread(target=ended.wait, name="MainThread")
        other.start()
        headings = [line for line in rprof.dump().splitlines() if line.startswith("Thread ")]
        ended.set()
        assert any('"renamed" (the main thread), current' in line for line in headings), headings
        assert any('"MainThread"' in line and "(the main" not in line for line in headings)
        """)
    )


# Begin a thread that calls `work` and is none of `threading`'s.
STRANGERS = {
    "python": "import _thread; _thread.start_new_thread(work, ())",
    "c": """
import ctypes
kind = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
entry, handle = kind(lambda _: work()), ctypes.c_ulong()
assert ctypes.CDLL(None).pthread_create(ctypes.byref(handle), None, entry, None) == 0
""",
}


@pytest.mark.parametrize("engine", ["direct", "gil"])
@pytest.mark.parametrize("begin", STRANGERS.values(), ids=STRANGERS)
def test_threads_that_threading_does_not_know_have_a_number(programs, engine, begin):
    programs.check(
        with_burn("""
        import _thread, os
        options = {"rate": 200, "engine": os.environ["WITH"], "max_overhead": 0}
        ended, ids = _thread.allocate_lock(), []
        ended.acquire()
        def work():
            # With the gil engine CPython 3.10 tells the second one only.
            ids.extend([_thread.get_native_id(), _thread.get_ident()])
            dumps.append(rprof.dump())
            burn(0.3)
            ended.release()
        dumps = []
        with rprof.profile(**options) as block:
            exec(os.environ["BEGIN"])
            ended.acquire()
        names = {f"thread {number}" for number in ids}
        (number,) = names & {thread.name for thread in block.profile.threads}
        of_name = block.profile.only_labels({"thread name": "thread *"})
        assert 0 < of_name.totals["wall"] < block.profile.totals["wall"]
        assert any(f'"{name}", current' in dumps[0] for name in names), dumps
        with rprof.profile(threads=["thread *"], **options) as b:
            exec(os.environ["BEGIN"])
            ended.acquire()
        assert b.profile.totals["samples"] > 0, (b.profile.threads, b.profile.comments)
        assert all(thread.name.startswith("thread ") for thread in b.profile.threads)
        """),
        WITH=engine,
        BEGIN=begin,
    )
