"""The recorder of `tests/fixtures` works with this interpreter; what it writes, Rust tests read."""

from __future__ import annotations

import bisect
import gzip
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

RECORDER = Path(__file__).resolve().parents[1] / "fixtures" / "record.py"
YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")
LIMIT = 100_000

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="reads another process by Linux' /proc"),
    pytest.mark.skipif(
        YAMA.exists() and int(YAMA.read_text()) > 1 and os.geteuid() != 0,
        reason="this system lets nobody but root read a child's memory (ptrace_scope)",
    ),
]


class Image:
    """A recording, read independently of who wrote it."""

    def __init__(self, content: bytes) -> None:
        assert content[:8] == b"rprofimg"
        self.runtime, self.version, self.code_type, count = struct.unpack_from("<4Q", content, 8)
        self.pieces = []
        at = 40
        for _ in range(count):
            address, length = struct.unpack_from("<2Q", content, at)
            self.pieces.append((address, content[at + 16 : at + 16 + length]))
            at += 16 + length
        self.lines = [line.split("\t") for line in content[at:].decode().splitlines()]

    def read(self, address: int, length: int) -> bytes:
        place = bisect.bisect_right(self.pieces, address, key=lambda piece: piece[0]) - 1
        begin, content = self.pieces[place]
        found = content[address - begin : address - begin + length]
        assert len(found) == length, f"{address:#x} is not recorded"
        return found

    def word(self, address: int) -> int:
        return int.from_bytes(self.read(address, 8), "little")

    def has(self, text: bytes) -> bool:
        return any(text in content for _, content in self.pieces)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    directory = tmp_path_factory.mktemp("images")
    subprocess.run([sys.executable, RECORDER, directory], check=True, timeout=300)
    (file,) = directory.iterdir()
    assert file.name == "memory-{}.{}.gz".format(*sys.version_info)
    assert file.stat().st_size < LIMIT
    return Image(gzip.decompress(file.read_bytes()))


def test_it_is_of_this_interpreter(image):
    assert image.version == sys.hexversion
    assert image.read(image.runtime, 8)
    for (begin, content), (following, _) in zip(image.pieces, image.pieces[1:], strict=False):
        assert begin + len(content) < following


def test_it_has_the_stacks_of_all_threads(image):
    fields = {kind: [line for line in image.lines if line[0] == kind] for kind, *_ in image.lines}
    assert {line[4] for line in fields["thread"]} == {
        "main",
        "deep",
        "through C",
        "coroutine",
        "names",
        "host",
        "guest",
        "listener",
        "holder",
    }
    assert len(fields["interpreter"]) == 2
    ident = {line[1]: int(line[2]) for line in fields["thread"]}
    for state, own in ident.items():
        assert own in struct.unpack("<35Q", image.read(int(state), 280))
    for code in {int(line[1]) for line in fields["frame"]}:
        assert image.word(code + 8) == image.code_type
    depths = [len(list(lines)) for lines in stacks(image.lines)]
    assert max(depths) > 1_200


def stacks(lines):
    found = []
    for line in lines:
        if line[0] == "thread":
            found.append([])
        elif line[0] == "frame":
            found[-1].append(line)
    return found


def test_it_has_names_of_every_width(image):
    assert image.has("grüße".encode("latin-1"))
    assert image.has("приветствие".encode("utf-16-le"))
    assert image.has("𐐸𐐯𐑊𐐬".encode("utf-32-le"))


def test_it_does_not_tell_of_the_machine(image):
    for text in {sys.prefix, sys.base_prefix, str(RECORDER.parent), str(Path.home())} - {"/usr"}:
        assert not image.has(text.encode()), text
    assert {line[3] for line in image.lines if line[0] == "frame"} <= {
        "/fixture/program.py",
        "/fixture/größe/данные/𐐸.py",
        "<string>",
        "<script>",
    }
