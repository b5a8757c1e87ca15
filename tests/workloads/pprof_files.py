"""Writes pprof files from rows, valid or not, without rprof's own writer."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple


class Call(NamedTuple):
    """One frame of a stack."""

    name: str | bytes
    file: str | bytes = ""
    line: int = 0
    first_line: int = 0


class Row(NamedTuple):
    """One sample: its stack, innermost call first, a value for each sample type, its labels."""

    stack: Sequence[Call]
    values: Sequence[int]
    labels: Mapping[str, str | bytes | int] = {}


def varint(number: int) -> bytes:
    """Encode one number; negative ones take ten bytes, as the format wants."""
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def number(tag: int, value: int) -> bytes:
    """Encode a number field; zero is left out."""
    return varint(tag << 3) + varint(value) if value else b""


def block(tag: int, content: bytes) -> bytes:
    """Encode a field with a length: text, message, packed numbers."""
    return varint(tag << 3 | 2) + varint(len(content)) + content


def encode(
    rows: Iterable[Row],
    sample_types: Sequence[tuple[str, str]] = (("samples", "count"), ("wall", "nanoseconds")),
    *,
    program: str = "made up",
    comments: Sequence[str] = (),
    duration_ns: int = 0,
    time_ns: int = 0,
    period_ns: int = 0,
    default: str = "",
    compress: bool = True,
) -> bytes:
    """Return a pprof file with these samples."""
    strings: dict[str | bytes, int] = {"": 0}
    functions: dict[tuple[str | bytes, str | bytes, int], int] = {}
    locations: dict[Call, int] = {}
    message = bytearray()

    def text(value: str | bytes) -> int:
        return strings.setdefault(value, len(strings))

    def location(call: Call) -> int:
        known = locations.get(call)
        if known is None:
            key = (call.name, call.file, call.first_line)
            if key not in functions:
                functions[key] = len(functions) + 1
                message.extend(
                    block(
                        5,
                        number(1, functions[key])
                        + number(2, text(call.name))
                        + number(4, text(call.file))
                        + number(5, call.first_line),
                    )
                )
            known = locations[call] = len(locations) + 1
            line = number(1, functions[key]) + number(2, call.line)
            message.extend(block(4, number(1, known) + block(4, line)))
        return known

    def label(key: str, value: str | bytes | int) -> bytes:
        number_or_text = number(3, value) if isinstance(value, int) else number(2, text(value))
        return block(3, number(1, text(key)) + number_or_text)

    for kind, unit in sample_types:
        message += block(1, number(1, text(kind)) + number(2, text(unit)))
    for row in rows:
        sample = block(1, b"".join(varint(location(call)) for call in row.stack))
        sample += block(2, b"".join(map(varint, row.values)))
        sample += b"".join(label(key, value) for key, value in row.labels.items())
        message += block(2, sample)
    message += block(3, number(1, 1) + number(5, text(program)))
    message += number(9, time_ns) + number(10, duration_ns) + number(12, period_ns)
    message += b"".join(varint(13 << 3) + varint(text(comment)) for comment in comments)
    message += number(14, text(default))
    for value in strings:
        raw = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
        message += block(6, raw)
    return gzip.compress(bytes(message), mtime=0) if compress else bytes(message)
