"""What a profile says of itself beyond its numbers, and of numbers that are not all of a kind."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import rprof
from support import ENGINE

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
        assert kinds == ["samples", "wall", "cpu", "gil", "gil_wait"]
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


@pytest.mark.skipif(ENGINE != "direct", reason="the gil engine of 3.10 has other numbers")
def test_threads_that_threading_does_not_know_have_a_number(programs):
    programs.check(
        with_burn("""
        import _thread
        ended, ids = _thread.allocate_lock(), []
        ended.acquire()
        def work():
            ids.append(_thread.get_native_id())
            burn(0.3)
            ended.release()
        with rprof.profile(rate=200) as block:
            _thread.start_new_thread(work, ())
            ended.acquire()
        names = {thread.name for thread in block.profile.threads}
        assert f"thread {ids[0]}" in names, (names, ids)
        """)
    )
