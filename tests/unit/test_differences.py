"""Differences of two profiles, as `go tool pprof -base` writes them: values below 0."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
import rprof
from pprof_writer import pprof, stack
from rprof._loading import native
from rprof.cli import main

_native = native()

SECOND = 10**9
GO = shutil.which("go")
needs_go = pytest.mark.skipif(
    GO is None, reason="go, whose pprof makes such files, is not installed"
)
# What became less is most of what changed, and comes last by value.
CHANGES = {
    "main;serve;less": -50,
    "main;serve;more": 20,
    "main;moved;there": 15,
    "main;moved;here": -15,
    "main;little": 1,
}
MAGNITUDE = 101


def file(stacks, **more):
    rows = [
        (stack(names), (1, "t"), (seconds, seconds * SECOND, seconds * SECOND))
        for names, seconds in stacks.items()
    ]
    return pprof(rows, **more)


def difference():
    return rprof.Profile(_native.Profile.decode(file(CHANGES), "x"))


def test_what_became_less_is_as_heavy_as_what_became_more():
    table = difference().top(3, by="wall")
    assert [row.name for row in table] == ["less", "more", "here"]
    assert table[0].self_fraction == pytest.approx(-50 / MAGNITUDE)
    assert (table.total, table.magnitude) == (-29 * SECOND, MAGNITUDE * SECOND)
    assert "-29.00 s in all; a difference, shares are of 101.00 s" in str(table)
    totals = difference().top(10, by="wall", sort="total")
    assert [row.name for row in totals][:4] == ["less", "serve", "main", "more"]
    assert all(abs(row.total_fraction) <= 1 for row in totals)


def test_a_profile_without_such_values_is_as_before():
    plain = rprof.Profile(_native.Profile.decode(file({"main;f": 3, "main": 1}), "x"))
    table = plain.top()
    assert table.total == table.magnitude == 4 * SECOND
    assert "difference" not in str(table) + plain.tree()


def test_formats_without_values_below_0_refuse_them(tmp_path):
    profile = difference()
    for export in (
        profile.to_speedscope,
        lambda: profile.to_pstats(tmp_path / "x.pstats"),
        profile.divide,
    ):
        with pytest.raises(rprof.RprofValueError, match=r"below 0.*export the two profiles"):
            export()
    assert not list(tmp_path.iterdir())


def test_formats_of_text_keep_them():
    profile = difference()
    assert f"t;main;serve;less {-50 * SECOND}\n" in profile.to_collapsed()
    assert sum(value for _, value in profile.stacks()) == -29 * SECOND
    text = profile.to_markdown()
    assert text.index("less (src/app.py") < text.index("more (src/app.py")
    assert "-49.5 %" in text


def test_shares_of_a_difference_that_is_compared():
    profile = difference()
    rows = {row.name: row for row in profile.diff(profile, scale="none").rows}
    assert rows["less"].before_self_fraction == pytest.approx(-50 / MAGNITUDE)
    assert rows["less"].after_self_fraction == pytest.approx(-50 / MAGNITUDE)


def test_the_command_says_it(tmp_path, capsys):
    path = tmp_path / "d.pb.gz"
    path.write_bytes(file(CHANGES))
    for extension in ("json", "pstats"):
        target = tmp_path / f"d.{extension}"
        assert main(["export", str(path), "-o", str(target)]) == 2
        assert "is a difference" in capsys.readouterr().err
        assert not target.exists()
    assert main(["export", str(path), "-o", str(tmp_path / "d.folded")]) == 0
    assert "values below 0, which flamegraph.pl leaves out" in capsys.readouterr().err
    assert main(["top", str(path), "-n", "1"]) == 0
    assert "less" in capsys.readouterr().out.splitlines()[2]


@needs_go
@pytest.mark.parametrize("option", ["-base", "-diff_base"])
def test_shares_and_order_are_those_of_go_tool_pprof(tmp_path, option):
    old, new, made = (tmp_path / name for name in ("old.pb.gz", "new.pb.gz", "made.pb.gz"))
    old.write_bytes(file({"main;a": 70, "main;b": 10, "main;c": 20, "main": 5}))
    new.write_bytes(file({"main;a": 10, "main;b": 13, "main;c": 29, "main;d": 4, "main": 5}))
    pprof_tool = [GO, "tool", "pprof", "-sample_index=wall"]
    subprocess.run(
        [*pprof_tool, "-proto", f"-output={made}", f"{option}={old}", str(new)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    done = subprocess.run(
        [*pprof_tool, "-top", "-nodefraction=0", "-unit=s", str(made)],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    theirs = re.findall(r"^ *(-?[\d.]+)s? +(-?[\d.]+)% .* (\w+)$", done.stdout, re.MULTILINE)
    ours = [
        (row.self_value / SECOND, row.self_fraction, row.name)
        for row in rprof.load(made).top(by="wall")
    ]
    assert [name for _, _, name in theirs] == [name for _, _, name in ours]
    for (value, share, _), (our_value, our_share, _) in zip(theirs, ours, strict=True):
        assert float(value) == pytest.approx(our_value)
        # They leave the sign to the value.
        assert float(share) == pytest.approx(100 * abs(our_share), abs=0.01)
