"""No wait is for ever: the sources are scanned for waits without a deadline.

`src/README.md` has a table of all waits; a file in which somebody waits and that is not in it is
found here as well.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
RUST_SOURCES = ROOT / "src"
PYTHON_SOURCES = ROOT / "python" / "rprof"

# Waits of Rust that have no deadline. A reply's channel has room for its one message, and that to
# the sampler has no bound: to send there is no wait.
ENDLESS = re.compile(
    r"\.recv\(\)|\.wait\(|\.wait_while\(|\.join\(\)|thread::park\(\)|\bsem_wait\b|\bselect!"
    r"|\b(?!reply\b|tell\b|control\b)\w+\.send\(|\bblock_on\(|\bF_OFD_SETLKW\b|\bF_SETLKW\b"
)
# Waits that have one.
BOUNDED = re.compile(
    r"\.recv_timeout\(|\.wait_for\(|\.wait_until\(|\.send_timeout\(|\bpark_timeout\("
    r"|\bsem_timedwait\b|\bthread::sleep\(|\btry_lock_for\(|\byield_now\(|\bFUTEX_WAIT"
    r"|\btime::sleep\(|\btime::timeout\(|\bthread\.join\("
)
# Which of the endless ones are meant, and why.
MEANT = {
    ("session/native_thread.rs", ".join()"): "of a thread whose function has returned",
    ("py/gil/call.rs", "thread::park()"): "the process is ending, and holds the thread up",
    ("py/dump.rs", "sem_wait"): "where there is no sem_timedwait",
    ("py/dump.rs", ".wait("): "the semaphore's own method, which has a deadline",
    ("serve/server.rs", "block_on("): "the endpoint's thread, which ends with its sender",
}

# Waits of Python that have no deadline; commands are programs of their own.
ENDLESS_PYTHON = re.compile(r"\.(?:join|wait|acquire|recv|result|communicate|serve_forever)\(\)")


def rust_code(text: str) -> str:
    """The text without comments, and without the tests at its end."""
    text = re.split(r"#\[cfg\((?:all\()?test[^\]]*\]\s+(?:pub(?:\(\w+\))? )?mod \w+ \{", text)[0]
    return re.sub(r"//[^\n]*", "", text)


def endless(relative: str, text: str) -> list[str]:
    """The waits of a file that have no deadline and are not meant."""
    found = [match.group() for match in ENDLESS.finditer(rust_code(text))]
    return [wait for wait in found if (relative, wait) not in MEANT]


def _rust_files() -> dict[str, str]:
    files = RUST_SOURCES.rglob("*.rs")
    return {
        file.relative_to(RUST_SOURCES).as_posix(): file.read_text(encoding="utf-8")
        for file in files
        if not file.name.endswith("_tests.rs")
    }


needs_sources = pytest.mark.skipif(
    not RUST_SOURCES.is_dir(), reason="an installed package is tested without its sources"
)


@needs_sources
def test_every_wait_has_a_deadline() -> None:
    found = {file: endless(file, text) for file, text in _rust_files().items()}
    assert not {file: waits for file, waits in found.items() if waits}


@needs_sources
def test_every_meant_wait_is_there() -> None:
    files = _rust_files()
    stale = [key for key in MEANT if key[1] not in rust_code(files.get(key[0], ""))]
    assert not stale


@needs_sources
def test_every_file_with_a_wait_is_in_the_table() -> None:
    table = (RUST_SOURCES / "README.md").read_text(encoding="utf-8")
    table = table[table.index("## Waits and their deadlines") :]
    listed = set(re.findall(r"`([\w/]+\.rs)`", table))
    files = _rust_files()
    waiting = {file for file, text in files.items() if BOUNDED.search(rust_code(text))}
    waiting |= {file for file, _ in MEANT}
    assert waiting <= listed
    assert listed <= set(files)


@pytest.mark.skipif(not PYTHON_SOURCES.is_dir(), reason="the sources are not here")
def test_python_waits_have_deadlines_too() -> None:
    found = {
        file.name: ENDLESS_PYTHON.findall(file.read_text(encoding="utf-8"))
        for file in PYTHON_SOURCES.rglob("*.py")
        if "cli" not in file.parts
    }
    assert not {name: waits for name, waits in found.items() if waits}


@pytest.mark.parametrize(
    "line",
    [
        "let job = self.jobs.recv()?;",
        "self.changed.wait(&mut state);",
        "handle.join().ok();",
        "std::thread::park();",
        "self.windows.send(job).ok();",
        "libc::sem_wait(semaphore)",
    ],
)
def test_an_endless_wait_is_found(line: str) -> None:
    assert endless("session/writer.rs", line)


@pytest.mark.parametrize(
    "line",
    [
        "// self.jobs.recv()",
        "self.jobs.recv_timeout(PATIENCE)",
        "self.changed.wait_until(&mut state, deadline)",
        "drop(reply.send(profile));",
        "#[cfg(test)]\nmod tests {\n    handle.join();\n}",
        'words.join(", ")',
    ],
)
def test_other_code_is_not(line: str) -> None:
    assert not endless("session/writer.rs", line)
