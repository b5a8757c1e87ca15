"""Writes pprof by hand, so that tests can have any profile they like."""

from __future__ import annotations

import gzip
from typing import NamedTuple

WALL_AND_CPU = (("samples", "count"), ("wall", "nanoseconds"), ("cpu", "nanoseconds"))


class Mapping(NamedTuple):
    """A file in memory, of which functions are known or not."""

    file: str
    start: int
    limit: int
    offset: int = 0
    build_id: str = ""


class Native(NamedTuple):
    """A location of native code: an address, and the frames there, the innermost first."""

    mapping: Mapping | None
    address: int
    frames: tuple[tuple[str, str, int, int], ...] = ()


def varint(number):
    number &= (1 << 64) - 1
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def number(field, value):
    return varint(field << 3) + varint(value)


def block(field, content):
    return varint(field << 3 | 2) + varint(len(content)) + content


def pprof(
    rows,
    *,
    types=WALL_AND_CPU,
    time_ns=1_700_000_000 * 10**9,
    duration_ns=10**9,
    program="app",
    comments=(),
    compress=True,
):
    """A file of rows of (frames, thread, values).

    Frames are (name, file, first line, line) or ``Native``, outermost first; a thread is
    (id, name). The first mapping is the program's, which has all that is not ``Native``.
    """
    texts, functions, locations = {"": 0}, {}, {}
    mappings = {Mapping(program, 0, 0): 1, None: 0}

    def text(value):
        return texts.setdefault(value, len(texts))

    def line(frame):
        return functions.setdefault(frame[:3], len(functions) + 1), frame[3]

    def location(frame):
        if not isinstance(frame, Native):
            frame = Native(Mapping(program, 0, 0), 0, (frame,))
        mapping = mappings.setdefault(frame.mapping, len(mappings))
        key = mapping, frame.address, tuple(map(line, frame.frames))
        return locations.setdefault(key, len(locations) + 1)

    message = b"".join(
        block(1, number(1, text(kind)) + number(2, text(unit))) for kind, unit in types
    )
    for frames, (thread_id, thread_name), values in rows:
        sample = block(1, b"".join(varint(location(frame)) for frame in reversed(frames)))
        sample += block(2, b"".join(varint(value) for value in values))
        sample += block(3, number(1, text("thread id")) + number(3, thread_id))
        if thread_name:
            label = number(1, text("thread name")) + number(2, text(thread_name))
            sample += block(3, label)
        message += block(2, sample)
    for mapping, place in mappings.items():
        if mapping is not None:
            fields = (1, place), (2, mapping.start), (3, mapping.limit), (4, mapping.offset)
            fields += (5, text(mapping.file)), (6, text(mapping.build_id))
            message += block(3, b"".join(number(*field) for field in fields))
    for (mapping, address, lines), place in locations.items():
        fields = number(1, place) + number(2, mapping) + number(3, address)
        for function, executing in lines:
            fields += block(4, number(1, function) + number(2, executing))
        message += block(4, fields)
    for (name, file, first), place in functions.items():
        fields = (1, place), (2, text(name)), (4, text(file)), (5, first)
        message += block(5, b"".join(number(*field) for field in fields))
    message += b"".join(number(13, text(comment)) for comment in comments)
    # The format's own default would be the last.
    if "wall" in texts:
        message += number(14, texts["wall"])
    for value in texts:
        message += block(6, value.encode("utf-8", "replace"))
    message += number(9, time_ns) + number(10, duration_ns)
    return gzip.compress(message) if compress else message


def stack(names, file="/src/app.py"):
    """Frames of plain names: ``stack("main;f;g")``."""
    return [(name, file, 1, 2) for name in names.split(";")]
