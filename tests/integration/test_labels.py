"""Labels: they follow threads, tasks and executors, and never mix."""

from __future__ import annotations

import json

import pytest
import rprof
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rprof.errors import RprofTypeError, RprofValueError
from support import ENGINE


def rows(profile):
    """Names of the frames, labels, and wall time of each stack under each set of labels."""
    sets = {tuple(labels) for labels in profile._native.label_sets()}
    for wanted in sets:
        only = profile._only_label_sets(lambda labels, wanted=dict(wanted): labels == wanted)
        for frames, value in only.stacks("wall"):
            yield [frame.name for frame in frames], dict(wanted), value


def test_they_follow_tasks_threads_and_executors(programs):
    programs.check(
        f"""
        import asyncio, contextvars, threading, time, rprof
        from concurrent.futures import ThreadPoolExecutor
        from rprof import labels
        def burn(seconds):
            end = time.thread_time() + seconds
            while time.thread_time() < end: pass
        def in_task(): burn(0.01)
        def in_thread(): burn(0.2)
        def in_executor(): burn(0.2)
        def outside(): burn(0.2)
        async def child():
            for _ in range(20):
                in_task()
                await asyncio.sleep(0)
        async def main():
            with labels(who="task"):
                await asyncio.create_task(child())
            with labels(who="to_thread"):
                await asyncio.to_thread(in_thread)
            with labels(who="executor"), ThreadPoolExecutor(1) as pool:
                context = contextvars.copy_context()
                pool.submit(context.run, in_executor).result()
            outside()
        with rprof.profile("x.pb.gz", rate=1000, max_overhead=1.0, engine={ENGINE!r}):
            asyncio.run(main())
        """
    )
    found = {}
    for frames, labels, value in rows(rprof.load(programs.directory / "x.pb.gz")):
        for name in ("in_task", "in_thread", "in_executor", "outside"):
            if f"program.{name}" in frames:
                at = name, labels.get("who")
                found[at] = found.get(at, 0) + value
    assert set(found) == {
        ("in_task", "task"),
        ("in_thread", "to_thread"),
        ("in_executor", "executor"),
        ("outside", None),
    }


def test_a_thread_that_has_not_begun_takes_no_labels_away(programs):
    # In 3.10 and 3.11 its state has the ids of the thread that begins it.
    programs.check(
        f"""
        import threading, time, rprof
        from rprof import labels
        def burn(seconds):
            end = time.thread_time() + seconds
            while time.thread_time() < end: pass
        def begin():
            burn(0.001)
            threads = [threading.Thread(target=burn, args=(0.001,)) for _ in range(4)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
        with rprof.profile("x.pb.gz", rate=2000, max_overhead=1.0, engine={ENGINE!r}):
            with labels(who="main"):
                for _ in range(150): begin()
        """
    )
    found = {
        labels.get("who")
        for frames, labels, _ in rows(rprof.load(programs.directory / "x.pb.gz"))
        if "program.begin" in frames
    }
    assert found == {"main"}


def test_inner_values_count_and_outer_ones_come_back(programs):
    text = programs.check(
        """
        import json, rprof
        seen = []
        def see(): seen.append(rprof.current_labels())
        see()
        with rprof.labels(a="1", b="2"):
            see()
            with rprof.labels(b="3", c="4") as inner:
                see()
                with inner: see()
                see()
            see()
        see()
        @rprof.labels(call="yes")
        def call(): see()
        call()
        @rprof.labels(steps="yes")
        def steps():
            see()
            yield 1
            see()
        for _ in steps(): see()
        see()
        print(json.dumps(seen))
        """
    )
    outer, inner = {"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}
    assert json.loads(text) == [
        {},
        outer,
        inner,
        inner,
        inner,
        outer,
        {},
        {"call": "yes"},
        {"steps": "yes"},
        {},
        {"steps": "yes"},
        {},
    ]


def test_entries_without_an_end_are_bounded(programs):
    programs.check(
        """
        import rprof
        one, two = rprof.labels(a="1"), rprof.labels(b="2")
        def recurse(n):
            with one, two:
                assert rprof.current_labels() == {"a": "1", "b": "2"}
                if n: recurse(n - 1)
        recurse(90)
        assert rprof.current_labels() == {}
        for _ in range(1_000_000): one.__enter__()
        for _ in range(1_000_000): one.__exit__()
        assert rprof.current_labels() == {}
        # Nobody leaves these: no memory may be used for it, and none of the stack when they end.
        for number in range(300_000):
            rprof.labels(number=number).__enter__()
            one.__enter__()
        """
    )


def test_an_end_in_another_context_harms_nobody(programs):
    programs.check(
        """
        import contextvars, rprof
        def steps():
            with rprof.labels(a="1"):
                yield
        generator = steps()
        contextvars.copy_context().run(next, generator)
        with rprof.labels(b="2"):
            generator.close()
            assert rprof.current_labels() == {"b": "2"}
        assert rprof.current_labels() == {}
        """
    )


def test_labels_within_a_request_do_not_outlive_it(programs):
    programs.check(
        """
        import asyncio, rprof
        # Renamed below other labels, which end first.
        with rprof.request("a") as request:
            with rprof.labels(tenant="t"):
                request.set_route("/x")
                assert rprof.current_labels() == {"route": "/x", "tenant": "t"}
            assert rprof.current_labels() == {"route": "/x"}
        assert rprof.current_labels() == {}
        # Renamed in a task of its own.
        async def inner(request):
            request.set_route("/y")
            assert rprof.current_labels() == {"route": "/y"}
        async def outer():
            with rprof.request("a") as request:
                await asyncio.create_task(inner(request))
            assert rprof.current_labels() == {}
        asyncio.run(outer())
        # Within a generator that keeps its own labels between its steps.
        def steps():
            with rprof.labels(step="s"):
                yield 1
        request = rprof.request("a")
        request.__enter__()
        generator = steps()
        next(generator)
        request.pause()
        assert rprof.current_labels() == {"step": "s"}
        request.resume()
        assert next(generator, None) is None
        request.pause()
        assert rprof.current_labels() == {}
        request.__exit__(None, None, None)
        assert [row.under_way for row in rprof.routes()] == [0, 0, 0]
        """
    )


@pytest.mark.parametrize(
    ("labels", "error"),
    [
        ({}, RprofTypeError),
        ({"a": None}, RprofTypeError),
        ({"a": ["x"]}, RprofTypeError),
        ({"thread id": "7"}, RprofValueError),
        ({"a" * 101: "7"}, RprofValueError),
        ({f"a{number}": 1 for number in range(33)}, RprofValueError),
    ],
    ids=str,
)
def test_bad_labels_are_refused(labels, error):
    with pytest.raises(error):
        rprof.labels(**labels)


def test_long_values_are_cut_and_numbers_are_text():
    with rprof.labels(long="ä" * 1_000, number=7, part=0.5, flag=True):
        labels = rprof.current_labels()
    assert labels == {"long": "ä" * 200, "number": "7", "part": "0.5", "flag": "True"}


def test_their_number_is_bounded(programs):
    programs.check(
        f"""
        import time, rprof
        def burn():
            end = time.thread_time() + 0.001
            while time.thread_time() < end: pass
        with rprof.profile("x.pb.gz", rate=2000, max_overhead=1.0, engine={ENGINE!r}):
            for number in range(3_000):
                with rprof.labels(number=number): burn()
        """
    )
    values = {labels.get("number") for _, labels, _ in rows_of(programs)}
    assert len(values - {None, "<other>"}) <= 1_000
    if len(values) > 1_001:
        assert "<other>" in values


def rows_of(programs):
    return rows(rprof.load(programs.directory / "x.pb.gz"))


def test_dumps_show_them(programs):
    text = programs.check(
        """
        import rprof
        with rprof.labels(route="/checkout", tenant="acme"):
            print(rprof.dump())
        """
    )
    assert "[route=/checkout, tenant=acme]" in text


MIXING = """
import asyncio, json, sys, threading, time, rprof
from rprof import labels
def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end: pass
def alpha(seconds): burn(seconds)
def beta(seconds): burn(seconds)
def gamma(seconds): burn(seconds)
FUNCTIONS = {"alpha": alpha, "beta": beta, "gamma": gamma}
async def task(name, steps):
    for nested, micros in steps:
        with labels(who=name):
            if nested:
                with labels(inner="x"):
                    FUNCTIONS[name](micros / 1e6)
                await asyncio.sleep(0)
            FUNCTIONS[name](micros / 1e6)
        await asyncio.sleep(0)
async def run(tasks):
    await asyncio.gather(*(task(name, steps) for name, steps in tasks))
for line in sys.stdin:
    case = json.loads(line)
    with rprof.profile("x.pb.gz", rate=5000, max_overhead=1.0, engine=case["engine"]):
        threads = [
            threading.Thread(target=lambda t=tasks: asyncio.run(run(t)))
            for tasks in case["threads"]
        ]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
    print("done", flush=True)
"""

steps = st.lists(st.tuples(st.booleans(), st.integers(50, 3_000)), min_size=1, max_size=8)
tasks = st.lists(
    st.tuples(st.sampled_from(["alpha", "beta", "gamma"]), steps), min_size=1, max_size=4
)


def test_tasks_and_threads_never_mix(programs):
    process = programs.start(MIXING)

    @settings(
        max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(st.lists(tasks, min_size=1, max_size=3))
    def check(threads):
        process.stdin.write(json.dumps({"engine": ENGINE, "threads": threads}) + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"
        for frames, labels, value in rows_of(programs):
            for name in ("alpha", "beta", "gamma"):
                if f"program.{name}" in frames:
                    who = labels.get("who")
                    # A sampler that gets no CPU in the middle of a look gives the labels up.
                    assert who in (name, None), (frames, labels)
                    seen[who is not None] += value

    seen = [0, 0]
    check()
    assert seen[False] <= sum(seen) / 10
    process.stdin.close()
    assert process.wait(60) == 0
