"""Each example runs, and its profile shows what really costs the time."""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
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


def test_gil_convoy(tmp_path):
    out = run(tmp_path, EXAMPLES / "gil_convoy.py")
    waited, _, blamed = out.partition("For whom:")
    if "The GIL is not seen here" not in out:
        assert "gil_convoy.answer_requests" in waited
        first = next(line for line in blamed.splitlines() if "(" in line)
        assert "gil_convoy.make_report" in first, out


def test_lock_convoy(tmp_path):
    out = run(tmp_path, EXAMPLES / "lock_convoy.py")
    waited, _, blamed = out.partition("For whom:")
    if "Locks are not seen here" not in out:
        # CPython 3.10 does not tell the class of a function.
        prefix = "Cache." if sys.version_info >= (3, 11) else ""
        assert "Lock Cache._lock" in waited
        assert f"lock_convoy.{prefix}get" in waited
        first = next(line for line in blamed.splitlines() if "(" in line)
        assert f"lock_convoy.{prefix}_load" in first, out


def grows(out):
    """The functions of the lines that are said to grow, the first ones first."""
    lines = out.partition("By growth:")[2].splitlines()
    rows = itertools.pairwise(lines)
    return [
        row.split()[2].rpartition(".")[2]
        for row, verdict in rows
        if verdict.strip().startswith("grows by") and "/min" in verdict
    ]


def test_leaky_service(tmp_path):
    out = run(tmp_path, EXAMPLES / "leaky_service.py", "--seconds", "6", "--rate", "8192")
    # What is largest is innocent, and what grows is the leak, whatever else there is.
    by_bytes = out.partition("By what is in use:")[2].partition("By growth:")[0]
    assert "load_tables" in by_bytes.splitlines()[1]
    assert grows(out)[0] == "audit", out
    # The numbers of requests that the audit keeps are made there; or `handle` has made the objects
    # for others, which CPython 3.14 gives to these.
    assert set(grows(out)) <= {"audit", "serve", "handle"}, out
    assert "in memory" in out


def has_compiler():
    header = Path(sysconfig.get_path("include"), "Python.h")
    return shutil.which("cc") is not None and header.is_file()


@pytest.mark.skipif(not has_compiler(), reason="no C compiler, or no headers of Python")
def test_leaks_of_a_c_extension(tmp_path):
    subprocess.run(
        [
            *("cc", "-shared", "-fPIC", f"-I{sysconfig.get_path('include')}"),
            *(EXAMPLES / "leaky_service_broken.c", "-o", tmp_path / "broken.so"),
        ],
        check=True,
    )
    words = ("--seconds", "6", "--rate", "4096", "--broken", tmp_path / "broken.so")
    out = run(tmp_path, EXAMPLES / "leaky_service.py", *words)
    assert {"audit", "measure", "weigh"} <= set(grows(out)), out
    assert set(grows(out)) <= {"audit", "measure", "weigh", "serve", "handle"}, out


@pytest.mark.skipif(importlib.util.find_spec("fastapi") is None, reason="fastapi is not installed")
def test_starved_pool(tmp_path):
    out = run(tmp_path, EXAMPLES / "starved_pool.py")
    if "Tasks are not seen here" in out:
        return
    # CPython 3.10 does not tell the class of a function.
    prefix = "Pool." if sys.version_info >= (3, 11) else ""
    told, _, shares = out.partition("Where checkouts waited:")
    assert "request GET /checkout took" in told
    # The line of the innermost task, behind `gather`.
    assert f"it waited in starved_pool.{prefix}connection (" in told, told
    assert "starved_pool.checkout" in told
    checkouts, _, reports = shares.partition("What reports did meanwhile")
    assert f"starved_pool.{prefix}connection" in checkouts
    assert "starved_pool.ask_other_service" in reports
    assert list((tmp_path / "rprof").glob("slow-*checkout*.pb.gz"))


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
