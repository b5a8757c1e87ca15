"""What is loaded may be anything: it is refused in a sentence, and within bounds of memory."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import threading
import zlib

import pytest
import rprof
from rprof._loading import native

_native = native()

_LOAD = """
import re, sys
import rprof, rprof._profile

def peak():
    # Not getrusage, whose peak a process inherits from the one that started it.
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read())[1])

before = peak()
try:
    rprof.load(sys.argv[1])
except rprof.RprofError as error:
    print(peak() - before)
    print(error)
"""


def field(number, content):
    length = len(content)
    encoded = bytearray()
    while length >= 0x80:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([number << 3 | 2, *encoded, length]) + content


# Sample types, a location, a function, texts.
_BEGIN = b"".join(
    [
        field(1, b"\x08\x01\x10\x02"),
        field(4, b"\x08\x01" + field(4, b"\x08\x01")),
        field(5, b"\x08\x01\x10\x03"),
        *[field(6, text) for text in (b"", b"cpu", b"nanoseconds", b"f")],
    ]
)
_SAMPLE = field(2, field(1, b"\x01") + field(2, b"\x01"))
_WIDE = field(2, field(1, b"\x01" * 500) + field(2, b"\x01"))
_DEEP = field(2, field(1, b"\x01" * 90_000) + field(2, b"\x01"))


def bomb(block, times):
    """A gzip file, and so many more behind it, which is one file to gzip."""
    mebibyte = block * max(1, (1 << 20) // len(block))
    return gzip.compress(_BEGIN, 9) + gzip.compress(mebibyte, 9) * times


BOMBS = {
    "zeros": gzip.compress(bytes(1 << 20), 9) * 1024,
    "one sample": bomb(_WIDE, 400),
    "deep stacks": bomb(_DEEP, 400),
    "empty texts": bomb(field(6, b""), 250),
    "long texts": bomb(field(6, b"a" * (1 << 20)), 250),
    "one text without an end": bomb(b"\x32\xff\xff\xff\x7f", 400),
    "functions": bomb(field(5, b""), 250),
    "lines of a location": bomb(field(4, field(4, b"") * (1 << 19)), 250),
    "labels": bomb(field(2, field(2, b"\x01") + field(3, b"") * 500_000), 250),
    "comments": bomb(field(13, bytes(1 << 20)), 250),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_gzip_bomb_is_refused_in_little_memory(tmp_path, name):
    path = tmp_path / "bomb.pb.gz"
    path.write_bytes(BOMBS[name])
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    kilobytes, message = done.stdout.splitlines()
    assert message.startswith(f"{path} cannot be read as a profile: ")
    assert int(kilobytes) < 50_000, f"{kilobytes} kB: {message}"
    assert not done.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (gzip.compress(b""), "empty"),
        (b"\x28\xb5\x2f\xfd" + bytes(20), "zstd -d"),
        (b"\x04\x22\x4d\x18" + bytes(20), "lz4 -d"),
        (zlib.compress(b"anything" * 10), "zlib"),
        (b"name,value\n1,2\n", "text"),
        (b'{"profiles": []}', "JSON"),
        (bytes(100), "pprof"),
        (os.urandom(4) + bytes(10), "cannot be read as a profile"),
        (gzip.compress(_BEGIN + _SAMPLE)[:40], "cut short"),
        (_BEGIN + _SAMPLE[:-1], "a part"),
        (_BEGIN + field(2, field(1, b"\x09") + field(2, b"\x01")), "location 9"),
    ],
    # The bytes have the time in them, and chance: workers must call a test the same.
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_profile_gets_one_sentence(tmp_path, content, words):
    path = tmp_path / "some file"
    path.write_bytes(content)
    with pytest.raises(rprof.RprofValueError, match=words) as caught:
        rprof.load(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert message.isprintable()


def test_plain_pprof_is_read_whatever_its_name(tmp_path):
    path = tmp_path / "profile.txt"
    path.write_bytes(_BEGIN + _SAMPLE * 3)
    assert rprof.load(path).totals == {"cpu": 3}
    path.write_bytes(gzip.compress(_BEGIN) + gzip.compress(_SAMPLE))
    assert rprof.load(path).totals == {"cpu": 1}


def test_names_of_files_may_be_anything(tmp_path):
    hostile = os.fsencode(tmp_path) + b"/\x1b[2J\xff\n.pb.gz"
    with open(hostile, "wb") as file:
        file.write(b"no profile")
    for path in (hostile, os.fsdecode(hostile)):
        with pytest.raises(rprof.RprofValueError, match="it is text") as caught:
            rprof.load(path)
        assert str(caught.value).isprintable()
    with open(hostile, "wb") as file:
        file.write(_BEGIN + _SAMPLE)
    assert rprof.load(hostile).totals == {"cpu": 1}


def test_what_is_no_file_is_said(tmp_path):
    with pytest.raises(rprof.RprofOSError, match="is a directory"):
        rprof.load(tmp_path)
    with pytest.raises(rprof.RprofOSError, match="No such file"):
        rprof.load(tmp_path / "nothing")
    with pytest.raises(rprof.RprofValueError, match="null byte"):
        rprof.load("a\0b")
    with pytest.raises(rprof.RprofTypeError, match="path must be"):
        rprof.load(7)
    # A hole of a gibibyte is not read to find out that it is one.
    with open(tmp_path / "hole", "wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(rprof.RprofValueError, match="larger than 256 MiB"):
        rprof.load(tmp_path / "hole")


def test_other_threads_run_while_a_profile_is_read():
    data = _BEGIN + _SAMPLE * 300_000
    seen, done = [], threading.Event()

    def load():
        # Not rprof.load: reading the file gives up the GIL too.
        _native.Profile.decode(data, "x")
        done.set()

    interval = sys.getswitchinterval()
    # A thread that holds the GIL is asked to give it up much later than the reading takes.
    sys.setswitchinterval(100)
    try:
        thread = threading.Thread(target=load)
        thread.start()
        while not done.is_set():
            seen.append(None)
            done.wait(0.001)
    finally:
        sys.setswitchinterval(interval)
    thread.join()
    assert len(seen) > 2


def test_a_thousand_files_are_merged_one_at_a_time(tmp_path):
    paths = []
    for number in range(1000):
        path = tmp_path / f"{number}.pb.gz"
        label = field(3, b"\x08\x05\x18" + bytes([number & 0x7F | 0x80, number >> 7]))
        sample = field(2, field(1, b"\x01") + field(2, b"\x02") + label)
        begun = b"\x48" + bytes([0x80 | number & 0x7F, 0x80 | number >> 7, 1]) + b"\x50\x01"
        path.write_bytes(
            gzip.compress(_BEGIN + field(6, b"") + field(6, b"thread id") + sample + begun)
        )
        paths.append(path)
    merged = rprof.merge(iter(paths))
    assert merged.totals == {"cpu": 2000}
    assert len(merged.threads) == 1000
    assert merged.time_ns == 1 << 14
    assert merged.duration_ns == 1000
    assert merged.merge(rprof.load(paths[0])).totals == {"cpu": 2002}
    paths[500].write_bytes(b"")
    with pytest.raises(rprof.RprofValueError, match=r"500\.pb\.gz .* empty"):
        rprof.merge(paths)
    with pytest.raises(rprof.RprofValueError, match="at least one"):
        rprof.merge([])
