"""Blocks and decorators: nested, overlapping, asynchronous, in generators, filtered."""

from __future__ import annotations

import asyncio
import threading

import pytest
import rprof
from burning import burn, burn_one, burn_two


def cpu_of(profile, name):
    return sum(row.total_value for row in profile.top(500, by="cpu") if row.name.endswith(name))


def test_blocks_nest_and_overlap():
    outer = rprof.profile(rate=500)
    inner = rprof.profile(rate=200)
    with outer:
        burn_one(0.1)
        inner.__enter__()
        burn_two(0.05)
    burn_one(0.1)
    inner.__exit__(None, None, None)
    assert cpu_of(outer.profile, ".burn_one") > 0.04e9
    assert cpu_of(outer.profile, ".burn_two") > 0.04e9
    assert outer.profile.totals["cpu"] == pytest.approx(0.2e9, rel=0.15)
    assert inner.profile.totals["cpu"] == pytest.approx(0.2e9, rel=0.15)


def test_blocks_in_many_threads_at_once():
    profiles = {}

    def work(number):
        with rprof.profile(rate=200, threads="current") as block:
            burn(0.1)
        profiles[number] = block.profile

    threads = [threading.Thread(target=work, args=(n,), name=f"worker-{n}") for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, profile in profiles.items():
        assert [thread.name for thread in profile.threads] == [f"worker-{number}"]
        assert profile.totals["cpu"] == pytest.approx(0.1e9, rel=0.15)


def test_a_short_block_is_not_empty():
    with rprof.profile(rate=100) as block:
        burn(0.002)
    assert block.profile.totals["cpu"] > 1.5e6
    assert any("test_a_short_block" in row.name for row in block.profile.top(500, by="cpu"))


def test_a_block_is_one_recording():
    block = rprof.profile()
    with pytest.raises(rprof.RprofStateError, match="not ended"):
        _ = block.profile
    with block, pytest.raises(rprof.RprofStateError, match="already"), block:
        pass
    assert block.profile
    with block:
        burn(0.01)
    assert block.profile.totals["cpu"] > 5e6


def test_an_exception_passes_through():
    with pytest.raises(KeyError), rprof.profile() as block:
        raise KeyError
    assert block.profile


@pytest.mark.parametrize("accept", [["work*"], lambda thread: thread.name == "worker"])
def test_threads_are_chosen(accept):
    worker = threading.Thread(target=burn, args=(0.1,), name="worker")
    with rprof.profile(threads=accept, rate=200) as block:
        worker.start()
        worker.join()
    assert [thread.name for thread in block.profile.threads] == ["worker"]


def test_a_function_is_decorated():
    profiler = rprof.profile(rate=500)

    @profiler
    def work(seconds):
        "Docstring."
        return burn_one(seconds)

    assert work.__doc__ == "Docstring."
    assert work(0.2) >= 0.2
    assert cpu_of(profiler.profile, ".burn_one") > 0.1e9
    first = profiler.profile
    work(0.01)
    assert profiler.profile is not first


def test_a_decorated_function_may_recurse(tmp_path):
    @rprof.profile(tmp_path / "{seq}.pb.gz")
    def work(depth):
        burn(0.005)
        return depth and work(depth - 1)

    work(2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "000001.pb.gz",
        "000002.pb.gz",
        "000003.pb.gz",
    ]


def test_a_coroutine_function_is_decorated():
    profiler = rprof.profile(rate=500)

    @profiler
    async def work():
        await asyncio.sleep(0)
        return burn_one(0.2)

    assert asyncio.run(work()) >= 0.2
    assert cpu_of(profiler.profile, ".burn_one") > 0.1e9


def test_an_asynchronous_block():
    async def work():
        async with rprof.profile(rate=500) as block:
            burn_one(0.2)
        return block.profile

    assert cpu_of(asyncio.run(work()), ".burn_one") > 0.1e9


def test_a_generator_is_recorded_while_it_runs_itself():
    profiler = rprof.profile(rate=1000, threads="current")

    @profiler
    def work():
        burn_one(0.05)
        got = yield 1
        burn_one(0.05)
        try:
            yield got
        except KeyError:
            yield "caught"
        return "done"

    steps = work()
    assert next(steps) == 1
    burn_two(0.1)
    assert steps.send("sent") == "sent"
    assert steps.throw(KeyError()) == "caught"
    with pytest.raises(StopIteration, match="done"):
        next(steps)
    assert cpu_of(profiler.profile, ".burn_one") > 0.03e9
    # The pause takes effect within moments of the yield.
    assert cpu_of(profiler.profile, ".burn_two") < 0.05e9


def test_a_generator_may_be_left():
    profiler = rprof.profile()
    left = []

    @profiler
    def work():
        try:
            yield 1
        finally:
            left.append(True)

    steps = work()
    next(steps)
    steps.close()
    assert left == [True]
    assert profiler.profile


def test_an_asynchronous_generator_is_decorated():
    profiler = rprof.profile(rate=1000, threads="current")

    @profiler
    async def work():
        for number in range(3):
            burn_one(0.06)
            yield number

    async def main():
        seen = []
        async for number in work():
            burn_two(0.05)
            seen.append(number)
        return seen

    assert asyncio.run(main()) == [0, 1, 2]
    assert cpu_of(profiler.profile, ".burn_one") > 0.03e9
    assert cpu_of(profiler.profile, ".burn_two") < 0.08e9


def test_a_block_that_cannot_write_keeps_its_profile(tmp_path, caplog):
    with rprof.profile(tmp_path / "nowhere" / "x.pb.gz") as block:
        burn(0.01)
    assert block.profile.totals["cpu"] > 5e6
    assert "nowhere" in caplog.text
