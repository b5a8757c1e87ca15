"""Frames of native code: addresses, mappings and inlined functions, through every reader."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import rprof
from pprof_writer import Mapping, Native, pprof, stack
from rprof import _native
from rprof.cli import main

GO = shutil.which("go")
FOREIGN = Path(__file__).resolve().parents[1] / "fixtures" / "foreign"
LIBRARY = Mapping("/usr/lib/libfoo.so.1", 0x7F00_0000_0000, 0x7F00_0001_0000, 0x2000, "cafe")
KERNEL = Mapping("[kernel.kallsyms]", 0xFFFF_FFFF_8000_0000, 0xFFFF_FFFF_A000_0000)

needs_go = pytest.mark.skipif(GO is None, reason="go, whose pprof opens the file, is not installed")


def native_rows():
    """Python that calls a library with an inlined function, and addresses without names."""
    inlined = Native(
        LIBRARY, LIBRARY.start + 0x10, (("small", "foo.c", 5, 6), ("large", "foo.c", 20, 33))
    )
    unnamed = Native(LIBRARY, LIBRARY.start + 0x234)
    kernel = Native(KERNEL, KERNEL.start + 0x100)
    nowhere = Native(None, 0xBEEF)
    return [
        ([*stack("main"), inlined], (1, "t"), (1, 10, 5)),
        ([*stack("main"), inlined, unnamed], (1, "t"), (2, 20, 5)),
        ([*stack("main"), unnamed, kernel], (1, "t"), (3, 40, 5)),
        ([*stack("main"), nowhere], (1, "t"), (4, 80, 5)),
    ]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "native.pb.gz"
    path.write_bytes(pprof(native_rows()))
    return path


@pytest.fixture
def profile(file):
    return rprof.load(file)


def test_an_address_has_a_name_in_every_report(profile):
    rows = {row.name: (row.self_value, row.total_value) for row in profile.top()}
    assert rows == {
        "main": (0, 150),
        "small": (10, 30),
        "large": (0, 30),
        "libfoo.so.1+0x2234": (20, 60),
        "[kernel.kallsyms]+0x100": (40, 40),
        "0xbeef": (80, 80),
    }
    for text in (str(profile.top()), profile.tree(), profile.to_markdown()):
        assert "libfoo.so.1+0x2234" in text
        assert "[kernel.kallsyms]+0x100" in text
    collapsed = profile.to_collapsed(threads=False).splitlines()
    assert "main;large;small;libfoo.so.1+0x2234 20" in collapsed
    names = [frame["name"] for frame in json.loads(profile.to_speedscope())["shared"]["frames"]]
    assert set(names) == set(rows)
    changed = {row.name: row.self_change for row in profile.diff(profile.merge(profile)).rows}
    assert changed["libfoo.so.1+0x2234"] == 20


def test_the_same_code_loaded_elsewhere_is_the_same_in_a_table(profile):
    moved = LIBRARY._replace(start=LIBRARY.start + (1 << 20), limit=LIBRARY.limit + (1 << 20))
    row = ([*stack("main"), Native(moved, moved.start + 0x234)], (1, "t"), (1, 7, 0))
    other = rprof.Profile(_native.Profile.decode(pprof([row]), "x"))
    both = {row.name: row.self_value for row in profile.merge(other).top()}
    assert both["libfoo.so.1+0x2234"] == 27


def test_a_merge_writes_what_it_has_read(profile):
    # Frames in one location stay in one, so that what is written again is the same.
    once = _native.Profile.decode(profile.to_bytes(), "x")
    assert once.encode() == profile.to_bytes()
    assert rprof.merge([profile]).to_bytes() == profile.to_bytes()


def raw(path):
    """What `go tool pprof -raw` says: the head, samples with whole locations, mappings.

    Without the mark of the type it opens on: rprof writes that down where others mean the last one.
    Mappings by what they are, for pprof numbers them as the samples come.
    """
    done = subprocess.run(
        [GO, "tool", "pprof", "-raw", str(path)],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    head, rest = done.stdout.split("Samples:\n")
    samples, rest = rest.split("Locations\n")
    locations, mappings = rest.split("Mappings\n")
    texts = dict(
        re.findall(r"^ +(\d+): (0x.*?)(?=^ +\d+: |\Z)", locations, re.MULTILINE | re.DOTALL)
    )
    types, samples = samples.split("\n", 1)
    types = types.replace("[dflt]", "").split()
    files = dict(re.findall(r"^(\d+): (.*)$", mappings, re.MULTILINE))

    def place(number):
        return re.sub(r"M=(\d+)", lambda at: files[at[1]], " ".join(texts[number].split()))

    found = []
    for sample in re.findall(r"^ +-?\d.*?(?=^ +-?\d|\Z)", samples, re.MULTILINE | re.DOTALL):
        line, *labels = sample.splitlines()
        values, stack = line.split(":")
        where = [place(number) for number in stack.split()]
        found.append((values.split(), where, [label.strip() for label in labels]))
    return head, types, sorted(found), sorted(files.values())


@needs_go
@pytest.mark.parametrize("name", ["go-cpu.pb.gz", "go-heap.pb.gz", "native.pb.gz"])
def test_a_merge_loses_nothing(name, tmp_path, file):
    path = file if name == file.name else FOREIGN / name
    merged = tmp_path / "merged.pb.gz"
    assert main(["merge", str(path), "-o", str(merged)]) == 0
    before, after = raw(path), raw(merged)
    assert len(before[2]) >= 4
    assert after == before


@needs_go
def test_a_merge_of_several_is_what_pprof_makes_of_them(tmp_path):
    """Two kinds of one program, so that columns, labels and mappings meet."""
    merged = tmp_path / "merged.pb.gz"
    both = [FOREIGN / "go-cpu.pb.gz", FOREIGN / "go-heap.pb.gz"]
    assert main(["merge", *map(str, both), "-o", str(merged)]) == 0
    cpu, heap, all_of = raw(both[0]), raw(both[1]), raw(merged)
    assert all_of[3] == cpu[3] == heap[3]
    assert all_of[1] == cpu[1] + heap[1]
    stacks = [where for _, where, _ in cpu[2] + heap[2]]
    assert sorted(where for _, where, _ in all_of[2]) == sorted(stacks)


def test_a_heap_of_go_is_read_as_one():
    heap = rprof.load(FOREIGN / "go-heap.pb.gz")
    levels = [kind.type for kind in heap.sample_types if kind.is_level]
    assert levels == ["inuse_objects", "inuse_space"]
    assert "main.keep" in {row.name for row in heap.top(by="inuse_space")}
    assert re.search(r"\d MiB .* main\.keep", str(heap.top(by="inuse_space")))
