"""Each example runs, and its profile shows what really costs the time."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import threading
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


GO = shutil.which("go")


@pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["", "preload"])
@pytest.mark.parametrize(
    ("name", "modules", "burner"),
    [
        ("django_app", ("django", "gunicorn"), "shop.views.check_digit"),
        ("fastapi_app", ("fastapi", "gunicorn.workers.gasgi"), "app.count_letters"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.endswith("_app") else "",
)
def test_web_frameworks_under_gunicorn(tmp_path, name, modules, burner, preload):
    for module in modules:
        pytest.importorskip(module)
    # Paths of Unix sockets are short.
    project = tmp_path / "p"
    shutil.copytree(EXAMPLES / name, project)
    environment = {key: text for key, text in os.environ.items() if not key.startswith("RPROF_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0", *preload],
        cwd=project,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    said = []
    try:
        for line in process.stderr:
            said.append(line)
            if "Listening at: http://" in line:
                break
        assert said, process.wait(30)
        address = said[-1].partition("http://")[2].split()[0]
        reader = threading.Thread(target=lambda: said.extend(process.stderr))
        reader.start()
        out = run(project, "load.py", "--address", address, "--seconds", "1")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, "".join(said)
        reader.join(60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert "Traceback" not in "".join(said)
    file = out.partition("Two seconds of a worker: ")[2].splitlines()[0]
    assert any(row.name == burner for row in rprof.load(file).top(2, by="cpu"))
    workers = {path.name.split("-")[1] for path in (project / "profiles").glob("gunicorn-*")}
    assert len(workers) == 2
    if GO is None:
        pytest.skip("Go's pprof is not installed")
    top = subprocess.run(
        [GO, "tool", "pprof", "-top", "-nodecount=2", file],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    assert "Type: cpu" in top
    assert burner in top
