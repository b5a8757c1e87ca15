"""What the hosts share: a scratch directory, work that leaves a trace, processes, a verdict."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import rprof

# `work()` notes its seconds in a file of its process: that is what must be in a profile.
WORKING = """
import os, time

def work(seconds=0.2):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        sum(range(1000))
    with open(os.path.join(os.environ["WORKED"], str(os.getpid())), "a") as file:
        file.write(f"{seconds}\\n")

def wsgi(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        work()
        open(os.environ["WORKED"] + "-slow", "w").close()
        time.sleep(60)
    work()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]

async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    work()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
"""
PATIENCE = 60.0
# Of the seconds that were worked, so much must be in the profile: the first milliseconds of a
# forked child are not recorded, and on a busy machine a tick may be late.
SHARE = 0.5


class Verdict(NamedTuple):
    """What became of the last windows of the processes that have worked."""

    workers: int
    files: int
    whole: int

    @property
    def holds(self) -> bool:
        """Whether every worker's is there and has the work."""
        return 0 < self.workers == self.whole

    def __str__(self) -> str:
        return f"{self.workers} workers, {self.files} with a file, {self.whole} with all their work"


class Scene:
    """A scratch directory in which a host runs. The only window of each process is its last."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bin = Path(sys.executable).parent
        self.port = free_port()
        self.worked = directory / "worked"
        self.worked.mkdir()
        self.write("working.py", WORKING)
        self._log = (directory / "log").open("w", encoding="utf-8")
        self._started: list[subprocess.Popen[bytes]] = []

    def write(self, name: str, text: str) -> None:
        """Write a file of the application."""
        (self.directory / name).write_text(text, encoding="utf-8")

    def _environment(self) -> dict[str, str]:
        kept = {name: text for name, text in os.environ.items() if not name.startswith("RPROF_")}
        options = {"OUTPUT": str(self.directory / "out"), "RATE": "500", "MAX_OVERHEAD": "1"}
        return {
            **kept,
            **{f"RPROF_{name}": text for name, text in options.items()},
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.directory),
            "WORKED": str(self.worked),
            "PORT": str(self.port),
        }

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a command of this environment, in a session of its own."""
        environment = self._environment()
        process = subprocess.Popen(
            [shutil.which(words[0], path=environment["PATH"]) or words[0], *words[1:]],
            cwd=self.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def run(self, *words: str) -> None:
        """Run a command to its end, which must be a good one."""
        code = self.start(*words).wait(PATIENCE)
        if code != 0:
            raise AssertionError(f"{' '.join(words)} ended with {code}")

    def end(self, process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGTERM) -> int:
        """Tell a host to end, and wait for that."""
        process.send_signal(how)
        return process.wait(PATIENCE)

    def get(self, path: str = "/") -> str:
        """Return what the server answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with suppress(OSError):
            connection.request("GET", path, headers={"Connection": "close"})
            return connection.getresponse().read().decode()
        return ""

    def until(self, ask: Callable[[], object], what: str) -> None:
        """Ask until there is an answer; the waiting is for another process, which has no event."""
        deadline = time.monotonic() + PATIENCE
        while not ask():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {PATIENCE} s: {what}")
            time.sleep(0.02)

    def until_worked(self, workers: int, ask: Callable[[], object] = lambda: None) -> None:
        """Ask until so many processes have worked."""
        self.until(lambda: (ask(), len(self.workers()) >= workers)[1], f"{workers} have worked")

    def workers(self) -> set[str]:
        """Return the ids of the processes that have worked."""
        return {path.name for path in self.worked.iterdir()}

    def close(self) -> None:
        """End what is left."""
        for process in self._started:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._log.close()

    def log(self) -> str:
        """Return what the processes have said."""
        return (self.directory / "log").read_text(encoding="utf-8", errors="replace")

    def verdict(self) -> Verdict:
        """Look whether every process that has worked has left its last window."""
        files = whole = 0
        for path in self.worked.iterdir():
            seconds = sum(map(float, path.read_text(encoding="utf-8").split()))
            profiles = list((self.directory / "out").glob(f"*-{path.name}-*.pb.gz"))
            files += bool(profiles)
            seen = sum(
                row.total_value
                for profile in profiles
                for row in rprof.load(profile).top(10_000, by="wall")
                if row.name == "working.work"
            )
            whole += seen >= SHARE * seconds * 1e9
        return Verdict(len(self.workers()), files, whole)


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
