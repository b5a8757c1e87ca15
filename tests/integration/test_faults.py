"""What programs do to a profiler, and what a profiler must not do to them."""

from __future__ import annotations

import sys

import pytest
import rprof
from support import ENGINE, LONG


@pytest.mark.parametrize("options", [[], ["-X", "tracemalloc"]])
@pytest.mark.parametrize("imported", ["before", "after"])
@pytest.mark.parametrize("looper", ["main", "thread"])
def test_tracemalloc_starts_and_stops(programs, options, imported, looper):
    early, late = ("import tracemalloc", "") if imported == "before" else ("", "import tracemalloc")
    run = "loop()" if looper == "main" else "t = threading.Thread(target=loop); t.start(); t.join()"
    programs.check(
        f"""
        import threading, time, rprof
        {early}
        rprof.start(None, rate=2000, max_overhead=1.0)
        {late}
        def spin():
            while not done:
                [object() for _ in range(100)]
        done = []
        spinners = [threading.Thread(target=spin) for _ in range(2)]
        for thread in spinners: thread.start()
        def loop():
            end = time.thread_time() + {3 if LONG else 0.4}
            while time.thread_time() < end:
                tracemalloc.start()
                [bytes(100) for _ in range(10)]
                tracemalloc.stop()
        {run}
        done.append(True)
        for thread in spinners: thread.join()
        assert rprof.stop().totals["samples"] > 0
        """,
        *options,
    )


@pytest.mark.parametrize("engine", ["direct", "gil"])
@pytest.mark.parametrize("options", [[], ["-X", "tracemalloc"]])
@pytest.mark.parametrize("allocator", ["debug", "malloc_debug"])
def test_an_allocator_that_checks_who_has_the_gil(programs, engine, options, allocator):
    # It aborts the process where a thread allocates that CPython does not take for the GIL's.
    programs.check(
        f"""
        import rprof, time
        rprof.start(None, rate=1000, max_overhead=1.0, engine={engine!r})
        end = time.thread_time() + 0.2
        while time.thread_time() < end:
            [object() for _ in range(100)]
        assert rprof.stop().totals["samples"] > 0
        """,
        *options,
        PYTHONMALLOC=allocator,
    )


def test_an_idle_program_is_dumped_without_our_thread(programs):
    out = programs.check(
        """
        import faulthandler, tempfile, threading, rprof
        rprof.start(None, rate=100)
        done = threading.Event()
        waiter = threading.Thread(target=done.wait)
        waiter.start()
        listed = []
        with tempfile.TemporaryFile("w+") as file:
            for _ in range(50):
                done.wait(0.003)
                file.seek(0); file.truncate()
                faulthandler.dump_traceback(file, all_threads=True)
                file.seek(0)
                listed.append(file.read().count("hread 0x"))
        done.set(); waiter.join()
        print(sorted(listed)[len(listed) // 2])
        """
    )
    assert out == "2\n"


SUBINTERPRETERS = """
    try:
        import _interpreters as interpreters
        run = interpreters.exec
    except ImportError:
        import _xxsubinterpreters as interpreters
        run = getattr(interpreters, "run_string", None) or interpreters.exec
    """


@pytest.mark.skipif(
    sys.version_info < (3, 12), reason="before 3.12 sub-interpreters share one GIL and one heap"
)
def test_subinterpreters_come_and_go(programs):
    programs.check(
        SUBINTERPRETERS
        + f"""
    import threading, rprof
    from burning import burn
    rprof.start(None, rate=2000, max_overhead=1.0)
    def churn():
        for _ in range({300 if LONG else 40}):
            interpreter = interpreters.create()
            run(interpreter, "x = []\\nfor k in range(5000): x.append(k)")
            interpreters.destroy(interpreter)
    threads = [threading.Thread(target=churn) for _ in range(2)]
    for thread in threads: thread.start()
    burn(0.2)
    for thread in threads: thread.join()
    profile, status = rprof.stop(), rprof.status()
    assert profile.totals["samples"] > 20, (profile.totals, profile.comments, status)
    """
    )


def test_a_subinterpreter_is_refused_and_auto_is_silent(programs):
    out = programs.check(
        SUBINTERPRETERS
        + """
    import rprof
    rprof.start(None)
    interpreter = interpreters.create()
    run(interpreter, '''if True:
        import rprof
        try: rprof.start(None)
        except rprof.RprofStateError as error: print("refused:", error, flush=True)
        import rprof.auto
        print("auto is silent", flush=True)
    ''')
    interpreters.destroy(interpreter)
    rprof.stop()
    """
    )
    assert "refused: " in out
    assert "main interpreter" in out
    assert "auto is silent" in out


def test_no_finalizer_runs_on_our_threads(programs):
    programs.check(
        f"""
        import gc, threading, weakref, rprof
        gc.set_threshold(50, 5, 5)
        mine = {{threading.get_native_id()}}
        elsewhere = []
        def note(*_):
            if threading.get_native_id() not in mine:
                elsewhere.append(threading.get_native_id())
        class Cyclic:
            def __init__(self): self.me = self
            def __del__(self): note()
        def work(depth):
            things = [Cyclic() for _ in range(5)]
            reference = weakref.ref(things[0], note)
            if depth: work(depth - 1)
            return reference
        rprof.start(None, rate=5000, max_overhead=1.0)
        for _ in range({20000 if LONG else 2000}):
            reference = work(5)
            gc.collect(0)
        gc.collect()
        assert reference() is None
        rprof.stop()
        assert not elsewhere, elsewhere[:5]
        """
    )


def test_threads_come_and_go(programs):
    programs.check(
        f"""
        import threading, rprof
        from rprof import _native
        rprof.start(None, rate=5000, max_overhead=1.0)
        for _ in range({1000 if LONG else 150}):
            threads = [threading.Thread(target=sum, args=(range(500),)) for _ in range(10)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
        profile = rprof.stop()
        assert profile.totals["samples"] > 100
        """
    )


def test_many_threads(programs):
    out = programs.check(
        f"""
        import threading, rprof
        from burning import burn
        done = threading.Event()
        threading.stack_size(64 << 10)
        idle = [threading.Thread(target=done.wait) for _ in range({2000 if LONG else 400})]
        for thread in idle: thread.start()
        busy = threading.Thread(target=burn, args=(0.5,), name="busy")
        with rprof.profile(rate=100) as block:
            busy.start(); busy.join()
        print(rprof.status().hold_max_seconds, len(block.profile.threads))
        by_name = {{thread.name: thread.totals for thread in block.profile.threads}}
        assert by_name["busy"]["cpu"] > 0.4e9
        done.set()
        for thread in idle: thread.join()
        """
    )
    assert int(out.split()[1]) >= (2000 if LONG else 400)


@pytest.mark.parametrize("depth", [100, 3_000, 100_000])
def test_deep_recursion(programs, depth):
    if depth > 50_000 and sys.version_info < (3, 11):
        depth = 20_000  # Before 3.11 each Python call takes native stack.
    out = programs.check(
        f"""
        import sys, threading, rprof
        from burning import burn
        sys.setrecursionlimit(1_000_000)
        threading.stack_size(512 << 20)
        def recurse(depth):
            if depth: return recurse(depth - 1)
            burn(0.3)
        with rprof.profile(rate=200) as block:
            thread = threading.Thread(target=recurse, args=({depth},), name="deep")
            thread.start(); thread.join()
        print(block.profile.to_collapsed("cpu"))
        """
    )
    (line, *_) = (text for text in out.splitlines() if "burning.burn " in text)
    assert line.count(";") <= 520
    assert ("frames omitted>" in line) == (depth > 500)
    # Before 3.11 each frame is an object of its own, and fewer can be copied in one go.
    limit = 960 if sys.version_info < (3, 11) and ENGINE == "direct" else 4096
    assert ("<incomplete>" in line) == (depth > limit)
    assert line.rpartition(" ")[0].endswith("burning.burn")


def test_generated_code_and_names_do_not_grow_it(programs):
    out = programs.check(
        f"""
        import threading, rprof
        from burning import burn
        def resident():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * 4096
        rprof.start(None, rate=2000, max_overhead=1.0, max_nodes=5000)
        burn(0.1)
        before = resident()
        for number in range({1_000_000 if LONG else 6_000}):
            space = {{}}
            exec(compile(f"def f{{number}}(n):\\n for _ in range(n): pass\\n", "generated", "exec"),
                 space)
            space[f"f{{number}}"](3000)
            threading.current_thread().name = f"name {{number}}"
        growth = resident() - before
        assert growth <= 20 << 20, growth
        status = rprof.status()
        assert status.own_bytes <= 20 << 20, status
        profile = rprof.stop()
        print(len(profile.threads), status.overflow)
        """,
        timeout=1800,
    )
    assert int(out.split()[0]) <= 10_001


def test_a_reused_code_address_is_never_misnamed(programs):
    out = programs.check(
        f"""
        import rprof
        names = 0
        def judge(profile):
            global names
            for row in profile.top(1_000_000):
                if row.name.startswith("only_"):
                    number = int(row.name.removeprefix("only_"))
                    assert (row.file, row.line) == (f"file_{{number}}", number % 400 + 1), row
                    names += 1
        rprof.start(None, rate=10_000, max_overhead=1.0)
        for number in range({1_000_000 if LONG else 6_000}):
            space = {{}}
            source = "\\n" * (number % 400) + (
                f"def only_{{number}}():\\n for _ in range(3000): pass\\n")
            exec(compile(source, f"file_{{number}}", "exec"), space)
            space[f"only_{{number}}"]()
            space.clear()
            if number % 10_000 == 9_999:
                judge(rprof.stop())
                rprof.start(None, rate=10_000, max_overhead=1.0)
        judge(rprof.stop())
        print(names)
        """,
        timeout=1800,
    )
    # Who needs the GIL sees a thread that computes once in a switch interval, 5 ms.
    assert int(out) > (100 if ENGINE == "direct" else 10)


@pytest.mark.skipif(sys.platform != "linux", reason="affinities are Linux's")
def test_a_starved_process_loses_no_time(programs):
    hogs = 4
    out = programs.check(
        f"""
        import os, subprocess, sys, threading, time, rprof
        from burning import burn
        cpus = sorted(os.sched_getaffinity(0))[:2]
        os.sched_setaffinity(0, cpus)
        hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range({hogs})]
        try:
            with rprof.profile(rate=1000, max_overhead=0) as block:
                begin = time.monotonic()
                before = rprof.status()
                burn({3 if LONG else 1})
                after = rprof.status()
                seconds = time.monotonic() - begin
        finally:
            for hog in hogs: hog.kill()
            for hog in hogs: hog.wait()
        (main,) = [thread for thread in block.profile.threads if thread.name == "MainThread"]
        print(main.totals["wall"] / 1e9 / seconds)
        print(block.profile.facts)
        print((block.profile.totals["samples"] + after.late - before.late) / 1000 / seconds)
        """
    )
    wall, _, counted = out.splitlines()
    assert 0.9 < float(wall) < 1.1, out
    assert 0.9 < float(counted) < 1.1, out


TRACERS = {
    "settrace": ("sys.settrace(tracer)", "sys.settrace(None)"),
    "setprofile": ("sys.setprofile(tracer)", "sys.setprofile(None)"),
}


@pytest.mark.parametrize("tracer", TRACERS)
def test_tracers_see_the_same(programs, tracer):
    begin, end = TRACERS[tracer]
    code = """
        import sys
        events = []
        def tracer(frame, event, argument):
            if frame.f_code.co_filename == __file__:
                events.append((frame.f_code.co_name, event, frame.f_lineno))
            return tracer
        def work(n):
            return work(n - 1) + 1 if n else 0
        def generate():
            for n in range(50):
                yield work(n)
        if {profiled}:
            import rprof
            rprof.start(None, rate=5000, max_overhead=1.0)
        {begin}
        sum(generate())
        {end}
        print(events)
        """
    plain, profiled = (
        programs.check(code.format(profiled=profiled, begin=begin, end=end))
        for profiled in (False, True)
    )
    assert plain == profiled


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring is new in 3.12")
def test_no_monitoring_id_is_taken(programs):
    programs.check(
        """
        import sys, rprof
        rprof.start(None, rate=1000)
        for number in range(6):
            sys.monitoring.use_tool_id(number, "mine")
        rprof.stop()
        """
    )


def test_cprofile_counts_the_same(programs):
    code = """
        import cProfile, pstats
        if {profiled}:
            import rprof
            rprof.start(None, rate=5000, max_overhead=1.0)
        def work(n):
            return work(n - 1) + 1 if n else 0
        profiler = cProfile.Profile()
        profiler.runcall(lambda: [work(n) for n in range(200)])
        print(sorted((key[2], value[:2]) for key, value in pstats.Stats(profiler).stats.items()))
        """
    plain, profiled = (programs.check(code.format(profiled=answer)) for answer in (False, True))
    assert plain == profiled


def test_a_forced_rate_is_lowered_to_the_budget(programs):
    programs.check(
        """
        import threading, rprof
        from burning import burn
        def deep(n):
            if n: return deep(n - 1)
            burn(1.0)
        with rprof.profile(rate=10_000, max_overhead=0.01) as block:
            threads = [threading.Thread(target=deep, args=(200,)) for _ in range(2)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
        seconds = block.profile.duration_ns / 1e9
        status = rprof.status()
        # The first ticks, with cold caches, teach it what a tick costs.
        assert status.own_cpu_seconds < 0.01 * seconds + 0.05, (status, seconds)
        assert block.profile.facts["asked_hz"] == 10_000
        """
    )


def test_a_renamed_thread_is_shown_under_both_names(programs):
    programs.check(
        """
        import threading, rprof
        from burning import burn
        with rprof.profile("x.pb.gz", rate=1000, max_overhead=1.0):
            burn(0.2)
            threading.current_thread().name = "renamed"
            burn(2.5)
        """
    )
    names = {thread.name for thread in rprof.load(programs.directory / "x.pb.gz").threads}
    assert {"MainThread", "renamed"} <= names
