"""Profiles that did not measure the same, files of before, and threads as readers know them."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
import rprof
from pprof_writer import WALL_AND_CPU, pprof, stack
from rprof._loading import native
from rprof.cli import main

_native = native()

GIL = (*WALL_AND_CPU, ("gil", "nanoseconds"), ("gil_wait", "nanoseconds"))
OLD = (*WALL_AND_CPU, ("gil", "nanoseconds"), ("gil-wait", "nanoseconds"))
HEAP = (("inuse_objects", "count"), ("inuse_space", "bytes"))
OURS = ("rprof 0.1.0",)
GO = shutil.which("go")


def read(types, values, *, seconds=1, thread=(1, "t"), comments=OURS):
    rows = [(stack("main;f"), thread, values)]
    data = pprof(rows, types=types, duration_ns=seconds * 10**9, comments=comments)
    return rprof.Profile(_native.Profile.decode(data, "x"))


def names(profile):
    return [kind.type for kind in profile.sample_types]


def test_what_one_did_not_measure_is_told_in_every_report():
    direct, gil = read(GIL, (1, 10, 5, 7, 2), seconds=4), read(WALL_AND_CPU, (2, 20, 9), seconds=2)
    both = direct.merge(gil)
    assert both.totals == {"samples": 3, "wall": 30, "cpu": 14, "gil": 7, "gil_wait": 2}
    sentence = (
        "gil was not measured in 1 of 2 merged profiles, 2.0 s of 6.0 s: "
        "its values are those of the others"
    )
    assert both.doubts("gil") == [sentence]
    assert sentence in str(both.top(by="gil"))
    assert "gil: not measured in 1 of 2 profiles, 2.000 s of 6.000 s" in both.tree(by="gil")
    assert sentence in both.to_markdown(by="gil")
    assert both.diff(direct, by="gil").doubts == [f"before: {sentence}"]
    assert f"(before: {sentence})" in str(both.diff(direct, by="gil"))
    for by in ("wall", "cpu", "samples"):
        assert both.doubts(by) == []
        assert "not measured" not in str(both.top(by=by)) + both.tree(by=by)
    # It stays with what is left of the profile.
    assert both.only_stacks(focus="f").doubts("gil") == [sentence]


def test_profiles_of_nothing_in_common_merge():
    wall, heap = read(WALL_AND_CPU, (1, 10, 5)), read(HEAP, (3, 4096))
    assert names(wall.merge(heap)) == names(heap.merge(wall))
    assert names(wall.merge(heap)) == ["samples", "wall", "cpu", "inuse_objects", "inuse_space"]
    assert wall.merge(heap).totals == {**wall.totals, **heap.totals}


def test_a_diff_of_what_only_one_measured_is_refused_with_the_rest():
    direct, gil = read(GIL, (1, 10, 5, 7, 2)), read(WALL_AND_CPU, (2, 20, 9))
    assert direct.diff(gil, by="cpu").after_total == 9
    with pytest.raises(
        rprof.RprofValueError,
        match="'gil' is not in the newer profile; both have samples, wall, cpu",
    ):
        direct.diff(gil, by="gil")
    with pytest.raises(rprof.RprofValueError, match="'gil' is not in this profile"):
        gil.diff(direct, by="gil")


def test_a_name_of_two_units_is_refused():
    other = (("samples", "count"), ("wall", "microseconds"), ("cpu", "nanoseconds"))
    with pytest.raises(rprof.RprofValueError, match="wall is in nanoseconds and in microseconds"):
        read(WALL_AND_CPU, (1, 10, 5)).merge(read(other, (1, 10, 5)))


def test_files_of_before_have_the_names_of_now():
    old, new = read(OLD, (1, 10, 5, 7, 2)), read(GIL, (1, 20, 5, 7, 3))
    assert names(old) == names(new) == names(old.merge(new))
    assert old.merge(new).totals["gil_wait"] == 5
    assert not old.merge(new).doubts("gil_wait")
    assert new.top(by="gil-wait").total == old.top(by="gil_wait").total + 1
    # A file that is not of rprof says what it says.
    assert "gil-wait" in names(read(OLD, (1, 10, 5, 7, 2), comments=()))


@pytest.mark.skipif(GO is None, reason="go, whose pprof opens the file, is not installed")
def test_go_tool_pprof_opens_what_was_merged(tmp_path):
    path = tmp_path / "both.pb.gz"
    read(WALL_AND_CPU, (2, 20, 9)).merge(read(GIL, (1, 10, 5, 7, 2))).write(path)
    done = subprocess.run(
        [GO, "tool", "pprof", "-raw", str(path)],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "samples/count wall/nanoseconds" in done.stdout
    assert "gil/nanoseconds gil_wait/nanoseconds" in done.stdout
    assert "3         30         14          7          2" in done.stdout
    assert "gil: not measured in 1 of 2 profiles, 1.000 s of 2.000 s" in done.stdout


def test_the_main_thread_is_known_by_its_number():
    comments = (*OURS, "main thread: 12")
    child = read(WALL_AND_CPU, (1, 10, 5), thread=(12, "Thread-2"), comments=comments)
    other = read(WALL_AND_CPU, (1, 40, 5), thread=(13, "MainThread"))
    both = child.merge(other)
    assert both.main_threads == {12}
    assert [t.name for t in both.only_threads(lambda t: t.main).threads] == ["Thread-2"]
    assert "Thread-2 (12, the main thread)" in both.to_markdown()
    assert "MainThread (13)" in both.to_markdown()


def test_the_command_takes_the_main_thread(tmp_path, capsys):
    path, silent = tmp_path / "a.pb.gz", tmp_path / "b.pb.gz"
    comments = (*OURS, "main thread: 12")
    read(WALL_AND_CPU, (1, 10, 5), thread=(12, "x"), comments=comments).merge(
        read(WALL_AND_CPU, (1, 40, 5), thread=(13, "MainThread"))
    ).write(path)
    assert main(["top", str(path), "--main-thread", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total"] == 10
    read(WALL_AND_CPU, (1, 40, 5), thread=(13, "MainThread")).write(silent)
    assert main(["top", str(silent), "--main-thread"]) == 2
    assert "does not tell which thread is the main one" in capsys.readouterr().err


def test_a_thread_without_a_name_has_its_number():
    profile = read(WALL_AND_CPU, (1, 10, 5), thread=(4711, ""))
    assert [thread.name for thread in profile.threads] == ["thread 4711"]
    assert "thread 4711;main;f 10" in profile.to_collapsed()
    assert '"thread 4711: wall"' in profile.to_speedscope()
    assert profile.only_threads(lambda t: t.name == "thread 4711").totals["wall"] == 10


def test_lines_under_a_jit_are_told():
    said = "jit: on; lines of hot loops may be wrong, functions are right"
    profile = read(WALL_AND_CPU, (1, 10, 5), comments=(*OURS, said))
    doubt = "the interpreter's JIT was on: lines of hot loops may be wrong, functions are right"
    assert profile.top(lines=True).doubts == [doubt]
    assert profile.top().doubts == []
    plain = read(WALL_AND_CPU, (1, 10, 5))
    assert plain.diff(profile, lines=True).doubts == [f"after: {doubt}"]
    assert plain.merge(profile).doubts(lines=True) == [doubt]
