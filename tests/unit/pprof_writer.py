"""Writes pprof by hand, so that tests can have any profile they like."""

from __future__ import annotations

import gzip

WALL_AND_CPU = (("samples", "count"), ("wall", "nanoseconds"), ("cpu", "nanoseconds"))


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
    rows, *, types=WALL_AND_CPU, duration_ns=10**9, program="app", comments=(), compress=True
):
    """A file of rows of (frames, thread, values).

    Frames are (name, file, first line, line), outermost first; a thread is (id, name).
    """
    texts, functions, locations = {"": 0}, {}, {}

    def text(value):
        return texts.setdefault(value, len(texts))

    def location(frame):
        function = functions.setdefault(frame[:3], len(functions) + 1)
        return locations.setdefault((function, frame[3]), len(locations) + 1)

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
    message += block(3, number(1, 1) + number(5, text(program)))
    for (function, line), place in locations.items():
        message += block(4, number(1, place) + block(4, number(1, function) + number(2, line)))
    for (name, file, first), place in functions.items():
        fields = (1, place), (2, text(name)), (4, text(file)), (5, first)
        message += block(5, b"".join(number(*field) for field in fields))
    message += b"".join(number(13, text(comment)) for comment in comments)
    # The format's own default would be the last.
    if "wall" in texts:
        message += number(14, texts["wall"])
    for value in texts:
        message += block(6, value.encode("utf-8", "replace"))
    message += number(9, 1_700_000_000 * 10**9) + number(10, duration_ns)
    return gzip.compress(message) if compress else message


def stack(names, file="/src/app.py"):
    """Frames of plain names: ``stack("main;f;g")``."""
    return [(name, file, 1, 2) for name in names.split(";")]
