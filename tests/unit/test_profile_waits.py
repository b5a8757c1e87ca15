"""What was waited for, who made others wait, and who waited: of a profile made by hand."""

from __future__ import annotations

import json

import pytest
import rprof
from pprof_files import Call, Row, encode
from rprof.cli import main

TYPES = (
    ("wall", "nanoseconds"),
    ("gil_wait", "nanoseconds"),
    ("gil_blame", "nanoseconds"),
    ("lock_wait", "nanoseconds"),
    ("lock_blame", "nanoseconds"),
)
POOL = {"lock": "Lock Pool._lock"}


def stack(*names: str) -> list[Call]:
    """Return a stack of functions of the program, innermost first; those in lib are a library's."""
    files = {name: "/usr/lib/python3.13/queue.py" for name in names if name.startswith("lib")}
    return [Call(name, files.get(name, "/srv/app.py"), 7) for name in names]


@pytest.fixture
def path(tmp_path):
    rows = [
        Row(stack("sort", "main"), [50, 0, 30, 0, 0]),
        Row(stack("io", "main"), [30, 30, 0, 0, 0], {"off": "gil"}),
        Row(stack("lib.get", "use", "main"), [60, 0, 0, 60, 0], {**POOL, "off": "lock"}),
        Row(stack("lib.sleep", "hold", "main"), [0, 0, 0, 0, 60], POOL),
        Row(stack("read", "main"), [200, 0, 0, 0, 0], {"off": "network"}),
    ]
    path = tmp_path / "p.pb.gz"
    path.write_bytes(encode(rows, TYPES, default="wall"))
    return path


def test_culprits_come_first(path):
    waits = rprof.load(path).waits()
    told = [(wait.reason, wait.lock, wait.measure, wait.waited_ns) for wait in waits]
    assert told == [
        ("lock", "Lock Pool._lock", "lock_wait", 60),
        ("gil", "", "gil_wait", 30),
        ("network", "", "wall", 200),
    ]
    assert waits[0].culprits == [rprof.WaitParty("hold", "/srv/app.py", 7, 60)]
    assert waits[0].waiters == [rprof.WaitParty("use", "/srv/app.py", 7, 60)]
    assert waits[2].culprits == []
    lines = str(waits).splitlines()
    assert lines[:3] == [
        "lock Lock Pool._lock: 60 ns (lock_wait)",
        "  caused by",
        "       60 ns 100.0%  hold  app.py:7",
    ]


def test_the_command(path, capsys):
    assert main(["tree", str(path), "--waits"]) == 0
    assert "gil: 30 ns (gil_wait)\n  caused by\n" in capsys.readouterr().out
    assert main(["tree", str(path), "--waits", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["reason"] for row in rows] == ["lock", "gil", "network"]
    assert rows[0]["culprits"][0]["function"] == "hold"
    assert main(["tree", str(path), "--json"]) != 0
    assert "--waits" in capsys.readouterr().err


def test_a_label_at_the_root(path, capsys):
    profile = rprof.load(path)
    rooted = profile.rooted("lock")
    assert rooted.totals == profile.totals
    outermost = {frames[0].name for frames, _ in rooted.stacks("wall")}
    assert outermost == {"main", "Lock Pool._lock"}
    assert main(["top", str(path), "--root", "lock", "--by", "lock_wait", "--sort", "total"]) == 0
    assert "Lock Pool._lock" in capsys.readouterr().out
    assert main(["tree", str(path), "--root", "tenant"]) != 0
    assert "no sample has a label tenant; there are lock, off" in capsys.readouterr().err


def test_a_difference_has_no_waits(tmp_path):
    path = tmp_path / "p.pb.gz"
    path.write_bytes(encode([Row(stack("f"), [-5], {"off": "sleep"})], TYPES[:1]))
    with pytest.raises(rprof.RprofValueError, match="a list of waits"):
        rprof.load(path).waits()


def test_old_files_tell_nothing(tmp_path):
    path = tmp_path / "p.pb.gz"
    path.write_bytes(encode([Row(stack("f"), [5])], TYPES[:1]))
    waits = rprof.load(path).waits()
    assert waits == []
    assert str(waits).startswith("no waits")
