"""Our reader and writer against an independent implementation of protocol buffers."""

from __future__ import annotations

import gzip
from collections import Counter

import pytest
import rprof
from hypothesis import given, settings
from hypothesis import strategies as st
from rprof._loading import native

descriptor_pb2 = pytest.importorskip(
    "google.protobuf.descriptor_pb2", reason="the protobuf package is not installed"
)
from google.protobuf import descriptor_pool, message_factory  # noqa: E402

_native = native()

_KINDS = {"i": "TYPE_INT64", "u": "TYPE_UINT64", "b": "TYPE_BOOL", "s": "TYPE_BYTES"}
# Message: (field, number, kind, repeated), as in the public profile.proto of google/pprof.
_SCHEMA = {
    "ValueType": [("type", 1, "i", 0), ("unit", 2, "i", 0)],
    "Label": [("key", 1, "i", 0), ("str", 2, "i", 0), ("num", 3, "i", 0), ("num_unit", 4, "i", 0)],
    "Sample": [("location_id", 1, "u", 1), ("value", 2, "i", 1), ("label", 3, "Label", 1)],
    "Mapping": [
        ("id", 1, "u", 0),
        ("memory_start", 2, "u", 0),
        ("memory_limit", 3, "u", 0),
        ("file_offset", 4, "u", 0),
        ("filename", 5, "i", 0),
        ("build_id", 6, "i", 0),
        ("has_functions", 7, "b", 0),
        ("has_filenames", 8, "b", 0),
        ("has_line_numbers", 9, "b", 0),
        ("has_inline_frames", 10, "b", 0),
    ],
    "Line": [("function_id", 1, "u", 0), ("line", 2, "i", 0), ("column", 3, "i", 0)],
    "Location": [
        ("id", 1, "u", 0),
        ("mapping_id", 2, "u", 0),
        ("address", 3, "u", 0),
        ("line", 4, "Line", 1),
        ("is_folded", 5, "b", 0),
    ],
    "Function": [
        ("id", 1, "u", 0),
        ("name", 2, "i", 0),
        ("system_name", 3, "i", 0),
        ("filename", 4, "i", 0),
        ("start_line", 5, "i", 0),
    ],
    "Profile": [
        ("sample_type", 1, "ValueType", 1),
        ("sample", 2, "Sample", 1),
        ("mapping", 3, "Mapping", 1),
        ("location", 4, "Location", 1),
        ("function", 5, "Function", 1),
        ("string_table", 6, "s", 1),
        ("drop_frames", 7, "i", 0),
        ("keep_frames", 8, "i", 0),
        ("time_nanos", 9, "i", 0),
        ("duration_nanos", 10, "i", 0),
        ("period_type", 11, "ValueType", 0),
        ("period", 12, "i", 0),
        ("comment", 13, "i", 1),
        ("default_sample_type", 14, "i", 0),
    ],
}


def _messages():
    file = descriptor_pb2.FileDescriptorProto(name="p.proto", package="p", syntax="proto3")
    types = descriptor_pb2.FieldDescriptorProto
    for name, fields in _SCHEMA.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            entry = message.field.add(name=field, number=number)
            entry.label = types.LABEL_REPEATED if repeated else types.LABEL_OPTIONAL
            if kind in _KINDS:
                entry.type = getattr(types, _KINDS[kind])
            else:
                entry.type = types.TYPE_MESSAGE
                entry.type_name = f".p.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"p.{name}"))
        for name in _SCHEMA
    }


MESSAGES = _messages()

_text = st.text(alphabet="abcXYZ<>.é_", max_size=6)
_function = st.tuples(_text, _text, st.integers(0, 1000))
_frame = st.tuples(_function, st.integers(0, 100_000))
_label = st.one_of(
    st.tuples(st.just("thread name"), st.text(alphabet="abc", min_size=1, max_size=3)),
    st.tuples(st.just("thread id"), st.integers(0, 2**40)),
)
_row = st.tuples(
    st.lists(_frame, max_size=5),
    st.lists(_label, max_size=2, unique_by=lambda label: label[0]),
    st.tuples(*[st.integers(0, 2**40)] * 2),
)


def _write(rows, *, compress):
    """Encode rows with the independent implementation."""
    profile = MESSAGES["Profile"]()
    strings = {"": 0}
    functions, locations = {}, {}

    def text(value):
        return strings.setdefault(value, len(strings))

    for kind, unit in (("alpha", "count"), ("beta", "nanoseconds")):
        profile.sample_type.add(type=text(kind), unit=text(unit))
    for frames, labels, values in rows:
        sample = profile.sample.add(value=values)
        for function, line in reversed(frames):
            if function not in functions:
                functions[function] = len(functions) + 1
                name, file, first = function
                profile.function.add(
                    id=functions[function], name=text(name), filename=text(file), start_line=first
                )
            if (function, line) not in locations:
                locations[function, line] = 1000 + 7 * len(locations)
                location = profile.location.add(id=locations[function, line])
                location.line.add(function_id=functions[function], line=line)
            sample.location_id.append(locations[function, line])
        for key, value in labels:
            if isinstance(value, int):
                sample.label.add(key=text(key), num=value)
            else:
                sample.label.add(key=text(key), str=text(value))
    profile.comment.append(text("a comment"))
    profile.time_nanos, profile.duration_nanos, profile.period = 5, 6, 7
    profile.string_table.extend(value.encode() for value in strings)
    data = profile.SerializeToString()
    return gzip.compress(data) if compress else data


def _read(data):
    """Decode with the independent implementation: stacks and labels with summed values."""
    profile = MESSAGES["Profile"].FromString(gzip.decompress(data))
    strings = [text.decode() for text in profile.string_table]
    assert strings[0] == ""
    assert len(set(strings)) == len(strings)
    functions = {
        function.id: (strings[function.name], strings[function.filename], function.start_line)
        for function in profile.function
    }
    assert all(function.system_name == 0 for function in profile.function)
    locations = {
        location.id: (functions[location.line[0].function_id], location.line[0].line)
        for location in profile.location
    }
    rows = Counter()
    for sample in profile.sample:
        frames = tuple(locations[location] for location in reversed(sample.location_id))
        labels = tuple(
            (strings[label.key], strings[label.str] if label.str else label.num)
            for label in sample.label
        )
        for column, value in enumerate(sample.value):
            rows[frames, labels, column] += value
    return profile, strings, +rows


def _expected(rows):
    expected = Counter()
    for frames, labels, values in rows:
        for column, value in enumerate(values):
            expected[tuple(frames), tuple(labels), column] += value
    return +expected


@settings(max_examples=200, deadline=None)
@given(st.lists(_row, max_size=12), st.booleans())
def test_what_others_write_we_read_and_write_alike(rows, compress):
    ours = _native.Profile.decode(_write(rows, compress=compress), "x")
    assert ours.sample_types == [("alpha", "count"), ("beta", "nanoseconds")]
    profile, strings, read = _read(ours.encode())
    assert read == _expected(rows)
    assert (profile.time_nanos, profile.duration_nanos, profile.period) == (5, 6, 7)
    assert [strings[comment] for comment in profile.comment] == ["a comment"]
    assert strings[profile.default_sample_type] == "beta"
    assert not profile.mapping


def test_what_we_record_others_read():
    with rprof.profile(rate=1000) as block:
        sum(number * number for number in range(2_000_000))
    profile, strings, read = _read(block.profile.to_bytes())
    kinds = [(strings[kind.type], strings[kind.unit]) for kind in profile.sample_type]
    expected = [("samples", "count"), ("wall", "nanoseconds"), ("cpu", "nanoseconds")]
    assert kinds[:3] == expected
    assert strings[profile.default_sample_type] == "wall"
    assert profile.mapping[0].has_functions
    totals = Counter()
    for (_, _, column), value in read.items():
        totals[kinds[column][0]] += value
    assert +totals == +Counter(block.profile.totals)
    comments = " ".join(strings[comment] for comment in profile.comment)
    assert "engine: " in comments
    assert "asked 1000.0 Hz" in comments


def test_a_loaded_profile_equals_the_written_one(tmp_path):
    with rprof.profile(tmp_path / "x.pb.gz", rate=1000) as block:
        sum(number * number for number in range(500_000))
    loaded = rprof.load(tmp_path / "x.pb.gz")
    assert loaded.totals == block.profile.totals
    assert loaded.threads == block.profile.threads
    assert list(loaded.top(by="cpu")) == list(block.profile.top(by="cpu"))
    assert loaded.tree() == block.profile.tree()
    assert loaded.to_collapsed("cpu") == block.profile.to_collapsed("cpu")
    assert loaded.comments == block.profile.comments
    twice = loaded.merge(loaded)
    assert twice.totals == {name: 2 * value for name, value in loaded.totals.items()}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"import os\n" * 50, "pprof"),
        (b"\x28\xb5\x2f\xfd" + b"\0" * 20, "zstd"),
        (gzip.compress(b"hello" * 100), "pprof"),
        (gzip.compress(b"hello" * 100)[:-12], "cut short"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_profile_is_said_with_the_file(tmp_path, content, words):
    path = tmp_path / "some.pb.gz"
    path.write_bytes(content)
    with pytest.raises(rprof.RprofValueError, match=words) as caught:
        rprof.load(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(rprof.RprofOSError, match=r"nowhere\.pb\.gz") as caught:
        rprof.load(tmp_path / "nowhere.pb.gz")
    assert isinstance(caught.value, OSError)
