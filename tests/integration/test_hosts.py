"""The programs that host applications, and the tools that run beside a profiler."""

from __future__ import annotations

import http.client
import importlib.util
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

import pytest
import rprof
import support
from support import ENGINE, LONG

APPLICATION = """
import os, time
import rprof.auto
from burning import burn

def application(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        open("slow", "x").close()
        time.sleep(0.5)
    else:
        # Long enough to be seen by a sampler that gets no CPU at once.
        burn(0.1)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""


UWSGI = os.path.join(os.path.dirname(sys.executable), "uwsgi")


def installed(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        importlib.util.find_spec(name) is None, reason=f"{name} is not installed"
    )


long_run = pytest.mark.skipif(not LONG, reason="part of the long run (RPROF_CI_LONG=1)")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(port: int, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read().decode()
    assert response.status == 200, body
    connection.close()
    return body


eventually = partial(support.eventually, passing=(OSError, http.client.HTTPException))


@contextmanager
def server(
    programs, command: list[str], application: str = APPLICATION
) -> Iterator[subprocess.Popen[str]]:
    (programs.directory / "application.py").write_text(application, encoding="utf-8")
    environment = programs.environment(
        RPROF_OUTPUT="out/", RPROF_RATE="500", RPROF_MAX_OVERHEAD="1", RPROF_WINDOW="0.5"
    )
    process = subprocess.Popen(
        command,
        cwd=programs.directory,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def burners(programs) -> set[str]:
    """The processes whose profiles show the application at work."""
    return {
        path.name.rsplit("-", 3)[1]
        for path in programs.profiles("out")
        if any(row.name == "burning.burn" for row in rprof.load(path).top(1000))
    }


@installed("gunicorn")
@pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["", "preload"])
@pytest.mark.parametrize(
    "worker", ["sync", "gthread", pytest.param("gevent", marks=installed("gevent"))]
)
def test_gunicorn(programs, worker, preload):
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "application:application", *preload]
    command += ["--bind", f"127.0.0.1:{port}", "--workers", "2", "--worker-class", worker]
    command += ["--graceful-timeout", "10"]
    with server(programs, command) as process:
        eventually(lambda: get(port, "/"), "an answer of gunicorn")
        workers = set()

        def both_answered() -> bool:
            workers.add(get(port, "/"))
            return len(workers) == 2

        eventually(both_answered, "answers of both workers")
        # A request that is under way when the server is told to end is still answered.
        slow = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        slow.request("GET", "/slow")
        eventually((programs.directory / "slow").exists, "the slow request has begun")
        process.send_signal(signal.SIGTERM)
        assert slow.getresponse().status == 200
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors, errors
    assert burners(programs) == workers, programs.profiles("out")


ASGI = """
import rprof.auto
from burning import burn

async def application(scope, receive, send):
    if scope["type"] == "http":
        burn(0.1)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"burned"})
"""


@installed("uvicorn")
@pytest.mark.skipif(ENGINE == "gil", reason="its sampler may wait for who has the GIL")
def test_uvicorn_ends_by_the_signal_that_it_was_told_by(programs):
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "application:application", "--port", str(port)]
    with server(programs, command, application=ASGI) as process:
        eventually(lambda: get(port, "/"), "an answer of uvicorn")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM, errors
    assert burners(programs) == {str(process.pid)}, errors


@long_run
@pytest.mark.skipif(not os.path.exists(UWSGI), reason="uWSGI is not installed")
@pytest.mark.parametrize(
    "hooks", [[], ["--py-call-osafterfork"], ["--py-call-uwsgi-fork-hooks"]], ids=" ".join
)
@pytest.mark.parametrize("lazy", [[], ["--lazy-apps"]], ids=["", "lazy"])
def test_uwsgi(programs, hooks, lazy):
    port = free_port()
    command = [UWSGI, "--http-socket", f"127.0.0.1:{port}"]
    command += ["--module", "application", "--master", "--processes", "2"]
    command += ["--enable-threads", "--die-on-term", "--need-app", *hooks, *lazy]
    command += ["--virtualenv", sys.prefix]
    with server(programs, command) as process:
        eventually(lambda: get(port, "/"), "an answer of uWSGI")
        workers = set()

        def both_answered() -> bool:
            workers.add(get(port, "/"))
            return len(workers) == 2

        eventually(both_answered, "answers of both workers")
        # Without a hook a forked worker does not know that it should profile, and must merely live.
        if lazy or hooks:
            eventually(
                lambda: get(port, "/") and burners(programs) == workers,
                "profiles of both workers",
            )
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert "SIGSEGV" not in errors, errors


CELERY = """
import rprof.auto
from burning import burn
from celery import Celery

app = Celery("application", broker="filesystem://", backend="file://results")
app.conf.broker_transport_options = {
    "data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control"
}

@app.task
def work():
    import os
    burn(0.05)
    return os.getpid()
"""


@long_run
@installed("celery")
def test_celery(programs):
    for name in ("queue", "control", "results"):
        (programs.directory / name).mkdir()
    command = [sys.executable, "-m", "celery", "--app", "application", "worker", "--pool"]
    command += ["prefork", "--concurrency", "2", "--loglevel", "info"]
    with server(programs, command, application=CELERY) as process:
        ask = "import application; print(application.work.delay().get(timeout=20))"
        environment = programs.environment()
        workers = {
            subprocess.run(
                [sys.executable, "-c", ask],
                cwd=programs.directory,
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            ).stdout.strip()
            for _ in range(4)
        }
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "exited with" not in errors, errors
    assert burners(programs) >= workers


TRACED = """
def work(n):
    if n:
        return work(n - 1) + 1
    return 0
def generate():
    for n in range(50):
        yield work(n)
def main():
    return sum(generate()), [work(n) for n in range(100)]
"""


@installed("coverage")
@pytest.mark.parametrize("core", ["ctrace", "sysmon"])
def test_coverage_sees_the_same(programs, core):
    if core == "sysmon" and sys.version_info < (3, 14):
        pytest.skip("coverage measures branches by sys.monitoring from 3.14 on")
    (programs.directory / "traced.py").write_text(TRACED, encoding="utf-8")
    code = """
        import coverage
        if {profiled}:
            import rprof
            rprof.start(None, rate=5000, max_overhead=1.0)
        measuring = coverage.Coverage(data_file=None, branch=True, include=["*traced.py"])
        measuring.start()
        import traced
        for _ in range(20): traced.main()
        measuring.stop()
        data = measuring.get_data()
        (file,) = data.measured_files()
        print(sorted(data.lines(file)), sorted(data.arcs(file)))
        """
    plain, profiled = (
        programs.check(code.format(profiled=profiled), COVERAGE_CORE=core)
        for profiled in (False, True)
    )
    assert plain == profiled


@installed("yappi")
def test_yappi_counts_the_same(programs):
    (programs.directory / "traced.py").write_text(TRACED, encoding="utf-8")
    code = """
        import threading, traced, yappi
        if {profiled}:
            import rprof
            rprof.start(None, rate=5000, max_overhead=1.0)
        yappi.start()
        threads = [threading.Thread(target=traced.main) for _ in range(3)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        yappi.stop()
        rows = [(row.name, row.ncall) for row in yappi.get_func_stats() if "traced" in row.module]
        print(sorted(rows), len(yappi.get_thread_stats()))
        """
    plain, profiled = (programs.check(code.format(profiled=answer)) for answer in (False, True))
    assert plain == profiled
