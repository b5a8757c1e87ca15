"""What is exported says what the profile says, and hostile names stay names."""

from __future__ import annotations

import itertools
import json
import marshal
import os
import pstats
import re
from collections import Counter

import pytest
import rprof
from hypothesis import given, settings
from hypothesis import strategies as st
from pprof_writer import pprof, stack
from rprof._loading import native

_native = native()

KINDS = ("samples", "wall", "cpu")
UNITS = {"samples": "none", "wall": "nanoseconds", "cpu": "nanoseconds"}

_frame = st.tuples(
    st.text(alphabet="fgh", min_size=1, max_size=2),
    st.sampled_from(["/a.py", "b.py"]),
    st.integers(0, 3),
    st.integers(0, 9),
)
_rows = st.lists(
    st.tuples(
        st.lists(_frame, min_size=1, max_size=6),
        st.sampled_from([(1, "main"), (2, "worker"), (3, "")]),
        st.tuples(*[st.integers(0, 2**40)] * 3),
    ),
    max_size=15,
)


def load(data):
    return rprof.Profile(_native.Profile.decode(data, "x"))


def functions(frames):
    return tuple(frame[:3] for frame in frames)


def check_speedscope(file):
    """What the published schema asks of the parts that we write."""
    assert file["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    assert set(file) <= {"$schema", "name", "exporter", "activeProfileIndex", "shared", "profiles"}
    frames = file["shared"]["frames"]
    for frame in frames:
        assert set(frame) <= {"name", "file", "line", "col"}
        assert isinstance(frame["name"], str)
        assert isinstance(frame.get("file", ""), str)
        assert isinstance(frame.get("line", 0), int)
    assert file["profiles"]
    assert 0 <= file["activeProfileIndex"] < len(file["profiles"])
    for profile in file["profiles"]:
        assert set(profile) == {
            *("type", "name", "unit", "startValue", "endValue", "samples", "weights"),
        }
        assert profile["type"] == "sampled"
        assert profile["unit"] in {
            *("none", "nanoseconds", "microseconds", "milliseconds", "seconds", "bytes"),
        }
        assert len(profile["samples"]) == len(profile["weights"])
        assert all(weight > 0 for weight in profile["weights"])
        assert profile["endValue"] - profile["startValue"] == sum(profile["weights"])
        for sample in profile["samples"]:
            assert all(0 <= frame < len(frames) for frame in sample)


@settings(max_examples=100, deadline=None)
@given(_rows)
def test_speedscope_has_every_value_of_every_thread(rows):
    file = json.loads(load(pprof(rows)).to_speedscope())
    check_speedscope(file)
    frames = [
        (frame["name"], frame.get("file", ""), frame.get("line", 0))
        for frame in file["shared"]["frames"]
    ]
    found = Counter()
    for profile in file["profiles"]:
        thread, _, kind = profile["name"].rpartition(": ")
        if profile["weights"]:
            assert profile["unit"] == UNITS[kind]
        for sample, weight in zip(profile["samples"], profile["weights"], strict=True):
            found[thread, kind, tuple(frames[index] for index in sample)] += weight
    expected = Counter()
    for row, (thread_id, name), values in rows:
        thread = f"{name} ({thread_id})" if name else f"thread {thread_id}"
        for kind, value in zip(KINDS, values, strict=True):
            expected[thread, kind, functions(row)] += value
    assert +found == +expected


def test_speedscope_opens_on_the_heaviest_thread():
    rows = [
        (stack("f"), (1, "light"), (9, 0, 1)),
        (stack("f"), (2, "heavy"), (1, 5, 5)),
    ]
    data = pprof(rows, types=(("samples", "count"), ("cpu", "ms"), ("wall", "nanoseconds")))
    file = json.loads(load(data).to_speedscope())
    assert file["profiles"][file["activeProfileIndex"]]["name"] == "heavy (2): wall"
    assert [profile["name"] for profile in file["profiles"]] == [
        *("heavy (2): samples", "heavy (2): cpu", "heavy (2): wall"),
        *("light (1): samples", "light (1): wall"),
    ]


@settings(max_examples=100, deadline=None)
@given(_rows, st.sampled_from(KINDS), st.booleans())
def test_collapsed_has_every_value(rows, kind, threads):
    found = Counter()
    for line in load(pprof(rows)).to_collapsed(kind, threads=threads).splitlines():
        names, _, value = line.rpartition(" ")
        found[names] += int(value)
    expected = Counter()
    for row, (thread_id, name), values in rows:
        names = [name or f"thread {thread_id}"] if threads else []
        names += [frame[0] for frame in row]
        expected[";".join(names)] += values[KINDS.index(kind)]
    assert found == +expected


def plain_table(rows, column):
    """By function: samples and time with each stack counted once; by caller the same."""
    table, edges = {}, {}
    for row, _, values in rows:
        names = [(file, line, name) for name, file, line in functions(row)]
        pairs = list(itertools.pairwise(names))
        for place in set(names):
            add(table, place, values[0], 0, values[column])
        for edge in set(pairs):
            add(edges, edge, values[0], 0, values[column])
        add(table, names[-1], 0, values[column], 0)
        if pairs:
            add(edges, pairs[-1], 0, values[column], 0)
    return table, edges


def add(table, key, *values):
    table[key] = tuple(map(sum, zip(table.get(key, (0, 0, 0)), values, strict=True)))


@settings(max_examples=100, deadline=None)
@given(rows=_rows, column=st.sampled_from([1, 2]))
def test_pstats_reads_what_is_exported(tmp_path_factory, rows, column):
    profile = load(pprof(rows))
    path = tmp_path_factory.mktemp("pstats") / "x.pstats"
    table, edges = plain_table(rows, column)
    table = {place: cost for place, cost in table.items() if any(cost)}
    if not table:
        with pytest.raises(rprof.RprofValueError, match="cannot open a file"):
            profile.to_pstats(path, KINDS[column])
        return
    assert profile.to_pstats(path, KINDS[column]) == path
    stats = pstats.Stats(str(path))
    assert set(stats.stats) == set(table)
    for place, (primitive, calls, own, total, callers) in stats.stats.items():
        assert primitive == calls == table[place][0]
        assert round(own * 1e9) == table[place][1]
        assert round(total * 1e9) == table[place][2]
        assert {
            caller: (row[0], round(row[2] * 1e9), round(row[3] * 1e9))
            for caller, row in callers.items()
        } == {
            caller: cost
            for (caller, callee), cost in edges.items()
            if callee == place and any(cost)
        }
    assert round(stats.total_tt * 1e9) == sum(values[column] for _, _, values in rows)


def test_recursion_is_not_counted_twice_in_pstats(tmp_path):
    profile = load(pprof([(stack("main;f;f;f"), (1, ""), (3, 0, 9 * 10**9))]))
    stats = pstats.Stats(str(profile.to_pstats(tmp_path / "x", by="cpu"))).stats
    assert stats["/src/app.py", 1, "f"][:4] == (3, 3, 9.0, 9.0)
    stats = pstats.Stats(str(profile.to_pstats(os.fsencode(tmp_path / "y"), by="cpu")))
    stats.sort_stats("cumulative").calc_callees()


def test_pstats_files_are_private_and_need_a_time(tmp_path):
    profile = load(pprof([(stack("f"), (1, ""), (1, 1, 1))]))
    path = profile.to_pstats(tmp_path / "x.pstats")
    assert path.stat().st_mode & 0o777 == 0o600
    assert isinstance(marshal.loads(path.read_bytes()), dict)
    with pytest.raises(rprof.RprofValueError, match="choose one of wall, cpu"):
        profile.to_pstats(path, by="samples")
    with pytest.raises(rprof.RprofOSError, match="nowhere"):
        profile.to_pstats(tmp_path / "nowhere" / "x")
    with pytest.raises(rprof.RprofValueError, match="cProfile"):
        rprof.load(path)


def fenced_and_free(markdown):
    """Text inside and outside of fenced blocks, by the rule of CommonMark."""
    inside, outside, fence = [], [], None
    for line in markdown.split("\n"):
        if fence is None and (match := re.match(r"(`{3,})text$", line)):
            fence = match[1]
        elif fence is not None and re.fullmatch(rf"{fence}`*\s*", line):
            fence = None
        else:
            (outside if fence is None else inside).append(line)
    assert fence is None
    return inside, outside


def test_markdown_says_what_the_profile_says():
    rows = [
        (stack("main;heavy"), (1, "MainThread"), (3, 3 * 10**9, 10**9)),
        (stack("main"), (2, "worker"), (1, 10**9, 0)),
    ]
    profile = load(pprof(rows, duration_ns=4 * 10**9))
    inside, outside = fenced_and_free(profile.to_markdown())
    assert [line for line in outside if line.startswith("#")] == [
        *("# Profile by rprof", "## wall: 4.00 s in all", "## cpu: 1.00 s in all", "## Threads"),
    ]
    assert "program: app" in inside
    assert "began: 2023-11-14 22:13:20 UTC" in inside
    assert "lasted: 4.00 s" in inside
    assert "    3.00 s  75.0%     3.00 s  75.0%  heavy (src/app.py:1)" in inside
    assert "    1.00 s  25.0%     4.00 s 100.0%  main (src/app.py:1)" in inside
    assert " 75.0 %    3.00 s  └─ heavy  app.py:1" in inside
    assert "worker (2): wall 1.00 s, cpu 0 s" in inside
    only = profile.to_markdown("samples", n=1)
    assert "## samples: 4 in all" in only
    assert "... 1 more" in only
    assert "wall" not in only
    with pytest.raises(rprof.RprofValueError, match="negative"):
        profile.to_markdown(n=-1)


HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    "a\nb\r\n# heading",
    "```\n# out of the fence\n```",
    "`````",
    "\x1b]0;title\x07\x1b[2J",
    "abc\u202edef\u2066",
    "nul\0nul",
    "[link](javascript:alert(1))",
    '"quoted\\" \u2028',
    "a;b 7",
    "x" * 5_000,
    "",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_names(name, tmp_path):
    frames = [(name, name, 1, 2), ("f", name, 1, 2)]
    rows = [(frames, (1, name), (1, 10**9, 10**9))]
    types = (("samples", "count"), ("wall", "nanoseconds"), (f"cpu{name}", "nanoseconds"))
    profile = load(pprof(rows, program=name, types=types))
    markdown = profile.to_markdown()
    inside, outside = fenced_and_free(markdown)
    assert all(re.fullmatch(r"[\w#:. -]*", line) for line in outside), outside
    assert max(map(len, inside + outside)) < 600
    speedscope = profile.to_speedscope()
    file = json.loads(speedscope)
    check_speedscope(file)
    # What is longer than any real name is cut when it is read.
    read = name if len(name) <= 1024 else name[:1021] + "…"
    assert file["shared"]["frames"][0]["name"] == read
    assert file["name"] == name
    lines = profile.to_collapsed().splitlines()
    assert len(lines) == 1
    assert lines[0].endswith(";f 1000000000")
    assert lines[0].count(";") == 2
    stats = pstats.Stats(str(profile.to_pstats(tmp_path / "x", by="wall"))).stats
    assert read in {function for _, _, function in stats}
    diff = profile.diff(profile)
    shown = [markdown, speedscope, *lines, profile.tree(), str(profile.top()), str(diff)]
    for text in [*shown, repr(profile), diff.table(0)]:
        assert text.replace("\n", "").isprintable()
    assert "<img" not in speedscope
