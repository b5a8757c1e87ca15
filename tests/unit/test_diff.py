"""What changed between two profiles."""

from __future__ import annotations

import json
import math

import pytest
import rprof
from pprof_writer import pprof, stack
from rprof._loading import native

_native = native()

SECOND = 10**9


def profile(stacks, *, seconds=1, file="/src/app.py", **more):
    rows = [
        (stack(names, file), (1, "t"), (1, wall * SECOND, wall * SECOND))
        for names, wall in stacks.items()
    ]
    data = pprof(rows, duration_ns=round(seconds * SECOND), **more)
    return rprof.Profile(_native.Profile.decode(data, "x"))


def by_name(diff):
    return {row.name: row for row in diff.rows}


def test_equal_profiles_do_not_differ():
    one = profile({"main;f": 3, "main": 1})
    diff = one.diff(one)
    assert diff.regression == 0.0
    assert diff.largest_regression is None
    assert diff.growth == 0.0
    assert all(row.self_change == row.total_change == 0 for row in diff.rows)
    assert "nothing changed" in str(diff)


def test_values_are_as_though_both_had_lasted_as_long_as_the_newer():
    old = profile({"main;f": 6, "main;g": 2}, seconds=8)
    new = profile({"main;f": 6, "main;g": 6}, seconds=12)
    diff = old.diff(new, by="cpu")
    rows = by_name(diff)
    assert diff.factor == 1.5
    assert rows["f"][3:7] == (9 * SECOND, 9 * SECOND, 6 * SECOND, 6 * SECOND)
    assert rows["main"][3:7] == (0, 12 * SECOND, 0, 12 * SECOND)
    assert diff.growth == 0.0
    assert diff.before_total == diff.after_total == 12 * SECOND
    assert "as though both had lasted 12.00 s (the older: 8.00 s)" in str(diff)
    # g: from a quarter to a half.
    assert diff.regression == pytest.approx(25.0)
    assert diff.largest_regression == rows["g"]
    assert rows["f"].self_points == rows["f"].total_points == pytest.approx(-25.0)
    assert [row.name for row in diff.rows] == ["f", "g", "main"]


def test_values_may_be_compared_as_recorded():
    old = profile({"main;f": 4}, seconds=4)
    new = profile({"main;f": 6}, seconds=6)
    assert old.diff(new).growth == 0.0
    diff = old.diff(new, scale="none")
    assert diff.growth == pytest.approx(50.0)
    assert diff.regression == 0.0
    assert by_name(diff)["f"].self_change == 2 * SECOND
    assert "as recorded in 4.00 s and 6.00 s" in str(diff)
    assert "wall: 4.00 s -> 6.00 s (+50.0 %)" in str(diff)


def test_a_length_that_is_unknown_scales_nothing():
    old = profile({"f": 4}, seconds=0)
    new = profile({"f": 6}, seconds=6)
    assert old.diff(new).factor == new.diff(old).factor == 1.0


def test_the_gate_looks_at_totals():
    # What f did itself is now done by what it calls: f is no slower, helper is new.
    old = profile({"main;f": 50, "main;g": 50})
    new = profile({"main;f;helper": 50, "main;g": 50})
    diff = old.diff(new)
    assert by_name(diff)["f"].total_points == 0.0
    assert by_name(diff)["f"].self_points == pytest.approx(-50.0)
    assert diff.largest_regression.name == "helper"
    # A cost that is spread over many callees shows in their caller.
    spread = {f"main;f;leaf{number}": 5 for number in range(10)}
    diff = profile({"main;f": 10, "main;g": 90}).diff(profile({**spread, "main;g": 50}))
    assert diff.largest_regression.name == "f"
    assert diff.regression == pytest.approx(40.0)


def test_a_checkout_elsewhere_is_the_same_code():
    old = profile({"main;f": 1}, file="/build/1/app.py")
    new = profile({"main;f": 2}, file="/build/2/app.py")
    diff = old.diff(new)
    assert {row.file for row in diff.rows} == {"/build/2/app.py"}
    assert diff.regression == 0.0
    assert len(old.diff(profile({"main;f": 2}, file="/build/2/other.py")).rows) == 4


def test_lines_may_be_compared():
    frames = [[("f", "a.py", 1, line)] for line in (2, 3)]
    rows = [(frame, (1, "t"), (1, SECOND, 0)) for frame in frames]
    old, new = (
        rprof.Profile(_native.Profile.decode(pprof(part), "x")) for part in (rows[:1], rows)
    )
    assert len(old.diff(new).rows) == 1
    lines = {row.line: row for row in old.diff(new, lines=True).rows}
    assert set(lines) == {2, 3}
    assert lines[3].before_self == 0
    assert lines[3].self_points == pytest.approx(50.0)
    assert lines[2].self_points == pytest.approx(-50.0)


def test_from_nothing_and_to_nothing():
    something, nothing = profile({"f": 1}), profile({})
    diff = nothing.diff(something)
    assert diff.growth == math.inf
    assert diff.regression == pytest.approx(100.0)
    assert json.loads(json.dumps(diff.to_dict()))["growth_percent"] is None
    assert "%)" not in str(diff).splitlines()[0]
    assert something.diff(nothing).growth == pytest.approx(-100.0)
    assert something.diff(nothing).regression == 0.0
    assert nothing.diff(nothing).growth == 0.0


def test_it_goes_through_json():
    diff = profile({"main;f": 3}).diff(profile({"main;f": 3, "main;g": 1}))
    found = json.loads(json.dumps(diff.to_dict(), allow_nan=False))
    assert found["regression_points"] == diff.regression == pytest.approx(25.0)
    assert found["largest_regression"]["name"] == "g"
    assert found["growth_percent"] == pytest.approx(100 / 3)
    assert len(found["rows"]) == 3
    assert found["rows"][0]["self_change"] == diff.rows[0].self_change


def test_the_table_is_cut_and_says_so():
    diff = profile({}).diff(profile({f"f{number}": number for number in range(1, 30)}))
    assert diff.table(4).count("\n") == 1 + 1 + 4 + 1
    assert "... 25 more" in diff.table(4)
    assert "largest regression: f29, 0.0% -> 6.7% of wall (+6.7 points)" in str(diff)
    assert "29 rows" in repr(diff)


def test_what_is_asked_wrongly_is_said():
    one = profile({"f": 1})
    other = profile({"f": 1}, types=(("a", "count"), ("wall", "ticks"), ("b", "count")))
    with pytest.raises(rprof.RprofTypeError, match="load"):
        one.diff("old.pb.gz")
    with pytest.raises(rprof.RprofValueError, match="scale='share'"):
        one.diff(one, scale="share")
    with pytest.raises(rprof.RprofValueError, match="'cpu'"):
        one.diff(other, by="cpu")
    with pytest.raises(rprof.RprofValueError, match="in nanoseconds before and in ticks after"):
        one.diff(other, by="wall")
