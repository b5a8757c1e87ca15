"""What a finished profile answers."""

from __future__ import annotations

import threading
import time

import pytest
import rprof


def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(500))


@pytest.fixture(scope="module")
def profile():
    with rprof.profile(rate=1000) as block:
        worker = threading.Thread(target=burn, args=(0.2,), name="worker")
        worker.start()
        worker.join()
    return block.profile


def test_the_table(profile):
    table = profile.top(3, by="cpu")
    assert len(table) <= 3
    heaviest = table[0]
    assert heaviest.name.endswith("test_profile.burn")
    assert heaviest.file == __file__
    assert heaviest.self_fraction == heaviest.self_value / table.total
    assert heaviest.self_fraction > 0.8
    assert "burn" in str(table)
    assert str(table).startswith("cpu, ")
    assert profile.top(0) == []


def test_the_tree(profile):
    text = profile.tree(by="cpu")
    assert "burn" in text
    assert text.startswith("cpu: ")
    assert len(profile.tree(by="cpu", min_fraction=1.0)) <= len(text)
    # The worker's frames of the threading module are one line.
    assert "._bootstrap " in text
    assert "_bootstrap_inner" not in text
    assert "_bootstrap_inner" in profile.tree(by="cpu", library=True)
    assert "burn" not in profile.tree(by="cpu", library=True, max_depth=1)
    assert "\x1b[1;31m" in profile.tree(by="cpu", color=True)


def test_the_threads(profile):
    by_name = {thread.name: thread for thread in profile.threads}
    assert by_name["worker"].totals["cpu"] > 10 * by_name["MainThread"].totals["cpu"]
    kinds = profile.totals
    assert {kind: sum(t.totals[kind] for t in profile.threads) for kind in kinds} == kinds
    only = profile.only_threads(lambda thread: thread.name == "worker")
    assert [thread.name for thread in only.threads] == ["worker"]


def test_the_collapsed_form(profile):
    lines = profile.to_collapsed("cpu").splitlines()
    assert sum(int(line.rsplit(" ", 1)[1]) for line in lines) == profile.totals["cpu"]
    assert any(line.startswith("worker;") and ".burn " in line for line in lines)


def test_what_is_asked_wrongly_is_said(profile):
    with pytest.raises(rprof.RprofValueError, match="samples, wall, cpu"):
        profile.top(by="gpu")
    with pytest.raises(rprof.RprofTypeError, match="by"):
        profile.tree(by=3)
    with pytest.raises(rprof.RprofValueError, match="negative"):
        profile.top(-1)
    with pytest.raises(rprof.RprofTypeError, match="n must"):
        profile.top("5")
    with pytest.raises(rprof.RprofValueError, match="min_fraction"):
        profile.tree(min_fraction=7)
    with pytest.raises(rprof.RprofValueError, match="max_depth=0"):
        profile.tree(max_depth=0)
    with pytest.raises(rprof.RprofTypeError, match="max_depth"):
        profile.tree(max_depth="1")


def test_it_describes_itself(profile):
    assert "cpu=" in repr(profile)
    assert [kind.type for kind in profile.sample_types][:3] == ["samples", "wall", "cpu"]
    assert profile.duration_ns > 0
    assert profile.period_ns == 1_000_000
    assert abs(profile.time_ns - time.time_ns()) < 600e9


def test_writing_where_nothing_is_says_so(profile, tmp_path):
    with pytest.raises(rprof.RprofOSError, match="nowhere"):
        profile.write(tmp_path / "nowhere" / "x.pb.gz")


def test_a_dump_shows_every_thread():
    ready, done = threading.Event(), threading.Event()

    def waits_for_the_end():
        ready.set()
        done.wait()

    thread = threading.Thread(target=waits_for_the_end, name="the waiter")
    thread.start()
    ready.wait()
    text = rprof.dump()
    done.set()
    thread.join()
    assert '"the waiter"' in text
    assert "waits_for_the_end" in text
    assert '"MainThread", current' in text
    assert f'File "{__file__}"' in text
    assert "rprof/_dumps.py" not in text


def test_stacks_have_lines_and_add_up():
    with rprof.profile(rate=500, engine="direct") as block:
        burn(0.1)
    kinds = [kind.type for kind in block.profile.sample_types]
    assert kinds[:6] == ["samples", "wall", "cpu", "gil", "gil_wait", "gil_blame"]
    # The first where the kernel counts waits for a CPU, the second with greenlets.
    others = [kind for kind in kinds[6:] if kind not in ("cpu_wait", "task_wall", "loop_blame")]
    assert others == ["lock_wait", "lock_blame"]
    stacks = block.profile.stacks("cpu")
    total = block.profile.totals["cpu"]
    assert sum(value for _, value in stacks) == total
    leaves = [(frames[-1], value) for frames, value in stacks if frames]
    burning = [(leaf, value) for leaf, value in leaves if leaf.name.endswith("test_profile.burn")]
    assert sum(value for _, value in burning) > total / 2
    first = burn.__code__.co_firstlineno
    for leaf, _ in burning:
        assert leaf.file == burn.__code__.co_filename
        assert first < leaf.line <= first + 6
