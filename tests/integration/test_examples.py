"""Each example runs, and its profile shows what really costs the time."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import rprof

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="no examples beside the tests")


def run(directory, *arguments):
    environment = {name: text for name, text in os.environ.items() if not name.startswith("RPROF_")}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_quickstart(tmp_path):
    out = run(tmp_path, EXAMPLES / "quickstart.py")
    by_cpu = out.partition("by CPU time")[2].partition("by wall time")[0]
    # Two parses of every file: among the heaviest by the threads' own clocks.
    assert "ast.parse (" in by_cpu
    assert "by wall time" in out
    assert "go tool pprof" in out
    (file,) = (tmp_path / "rprof").glob("quickstart-*.pb.gz")
    threads = {thread.name for thread in rprof.load(file).threads}
    assert {"compile", "tokenize", "round trip"} <= threads


@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("flask", "waitress")),
    reason="flask and waitress are not installed",
)
def test_web_app(tmp_path):
    out = run(tmp_path, EXAMPLES / "web_app.py")
    top = out.partition("Where it comes from")[0]
    assert "web_app.total" in top
    assert len(list((tmp_path / "rprof").iterdir())) == 1


def test_asyncio_app(tmp_path):
    out = run(tmp_path, EXAMPLES / "asyncio_app.py")
    assert "served 120 orders" in out
    assert "asyncio_app.price_order" in out
    names = [row.name for row in rprof.load(tmp_path / "asyncio_app.pb.gz").top(5, by="cpu")]
    assert any("price_order" in name for name in names)
    assert any("sign_order" in name for name in names)


def test_pytest_project(tmp_path):
    out = run(
        tmp_path,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        EXAMPLES / "pytest_project",
        "--rprof-top",
        "3",
        "--rprof-dir",
        tmp_path / "profiles",
    )
    assert "2 passed, 1 xfailed" in out
    assert "wordcount.count_words_slowly" in out
    assert (tmp_path / "profiles" / "combined.pb.gz").exists()
