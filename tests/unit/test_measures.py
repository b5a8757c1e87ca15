"""Memory and events go through every reader as time does, with units and meanings."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import rprof
from pprof_writer import pprof, stack
from rprof import _native
from rprof.cli import main

TYPES = (
    ("samples", "count"),
    ("wall", "nanoseconds"),
    ("exceptions", "count"),
    ("alloc_space", "bytes"),
    ("inuse_space", "bytes"),
)
MIB = 1 << 20
GO = shutil.which("go")
CASES = Path(__file__).resolve().parents[1] / "fixtures" / "values.tsv"


def read(rows, *, types=TYPES, begin=1_700_000_000, seconds=1):
    rows = [(stack(names), (1, "t"), values) for names, values in rows]
    times = {"time_ns": begin * 10**9, "duration_ns": seconds * 10**9}
    data = pprof(rows, types=types, comments=("rprof 0",), **times)
    return rprof.Profile(_native.Profile.decode(data, "x"))


@pytest.fixture
def profile():
    return read(
        [
            ("main;load", (1, 10**9, 12_345, 6 * MIB, 3 * MIB)),
            ("main;keep", (2, 10**9, 0, 2 * MIB, 1536)),
        ]
    )


def test_every_measure_has_a_name_that_others_take():
    measures = _native.measures()
    assert len({name for name, *_ in measures}) == len(measures) == 16
    for name, unit, is_flow, meaning in measures:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name)
        assert unit in {"count", "nanoseconds", "bytes"}
        assert meaning.endswith(".")
        assert is_flow == (not name.startswith("inuse_"))
        kind = rprof.SampleType(name, unit)
        assert (kind.meaning, kind.is_level) == (meaning, not is_flow)
    foreign = rprof.SampleType("wall", "lightyears")
    assert (foreign.meaning, foreign.is_level) == ("", False)


def test_values_as_people_read_them():
    with CASES.open(encoding="utf-8", newline="") as file:
        cases = list(csv.reader(file, delimiter="\t"))[1:]
    for value, unit, shown, _ in cases:
        assert _native.format_value(int(value), unit) == shown
    # Of a comparison there may be more than a file can hold.
    assert _native.format_value(-(10**30), "count").startswith("-1,000,000,")


def test_the_table_and_the_tree(profile):
    text = str(profile.top(by="alloc_space"))
    assert "alloc_space, 8.0 MiB in all" in text
    assert re.search(r"6\.0 MiB +75\.0% +6\.0 MiB +75\.0%  load", text)
    assert re.search(r"1\.5 KiB .* keep", str(profile.top(by="inuse_space")))
    assert re.search(r"12,345 +100\.0% .* load", str(profile.top(by="exceptions")))
    assert profile.tree(by="inuse_space").startswith("inuse_space: 3.0 MiB in 1.00 s\n")
    assert "12,345" in profile.tree(by="exceptions")


def test_markdown(profile):
    assert "## alloc space: 8.0 MiB in all" in profile.to_markdown()
    assert "t (1): wall 2.00 s, alloc_space 8.0 MiB, inuse_space 3.0 MiB" in profile.to_markdown()
    assert "## exceptions: 12,345 in all" in profile.to_markdown(by="exceptions")


def test_speedscope(profile):
    shown = json.loads(profile.to_speedscope())["profiles"]
    units = {one["name"].rpartition(" ")[2]: (one["unit"], one["endValue"]) for one in shown}
    assert units["alloc_space"] == ("bytes", 8 * MIB)
    assert units["inuse_space"] == ("bytes", 3 * MIB + 1536)
    assert units["exceptions"] == ("none", 12_345)


def test_a_heap_names_itself():
    heap = read([("main", (3, 4 * MIB))], types=TYPES[3:])
    assert "inuse_space=4.0 MiB" in repr(heap)


def test_what_is_in_use_does_not_grow_with_time(profile):
    later = read([("main;load", (1, 10**9, 5, 6 * MIB, 9 * MIB))], seconds=3)
    flow, level = profile.diff(later, by="alloc_space"), profile.diff(later, by="inuse_space")
    assert (flow.factor, flow.before_total) == (3.0, 24 * MIB)
    assert (level.factor, level.before_total) == (1.0, 3 * MIB + 1536)
    assert "inuse_space: 3.0 MiB -> 9.0 MiB" in str(level)
    assert "+6.0 MiB" in str(level)


def test_merged_flows_add_up_and_of_a_level_the_last_counts(profile):
    later = read([("main;load", (1, 10**9, 5, MIB, 9 * MIB))], begin=1_700_000_001)
    assert (
        profile.merge(later).totals
        == later.merge(profile).totals
        == {
            "samples": 4,
            "wall": 3 * 10**9,
            "exceptions": 12_350,
            "alloc_space": 9 * MIB,
            "inuse_space": 9 * MIB,
        }
    )


def test_the_command(tmp_path, capsys, profile):
    path = tmp_path / "m.pb.gz"
    profile.write(path)
    assert main(["top", str(path), "--by", "inuse_space"]) == 0
    assert "inuse_space, 3.0 MiB in all" in capsys.readouterr().out
    assert main(["tree", str(path), "--by", "exceptions"]) == 0
    assert "exceptions: 12,345 in" in capsys.readouterr().out
    assert main(["top", str(path), "--by", "gil"]) == 2
    known = "it has samples, wall, exceptions, alloc_space, inuse_space"
    assert known in capsys.readouterr().err


def test_the_page_has_units_and_meanings(profile):
    page = profile.to_html()
    data = json.loads(re.search(r'id="page-data">(.*?)</script>', page, re.DOTALL)[1])
    found = {measure["name"]: measure for measure in data["measures"]}
    assert found["inuse_space"]["unit"] == "bytes"
    assert found["inuse_space"]["meaning"] == rprof.SampleType("inuse_space", "bytes").meaning


@pytest.mark.skipif(GO is None, reason="go, whose pprof opens the file, is not installed")
def test_go_tool_pprof(tmp_path, profile):
    path = tmp_path / "m.pb.gz"
    profile.write(path)
    done = subprocess.run(
        [GO, "tool", "pprof", "-sample_index=inuse_space", "-top", str(path)],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "Type: inuse_space" in done.stdout
    assert re.search(r"3MB .* load", done.stdout)
