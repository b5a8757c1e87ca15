"""What the integration tests share: programs that run in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from browsers import Tab, chromium
from serving import Service
from support import ENGINE

if "RPROF_CI_ENGINE" in os.environ:
    os.environ["RPROF_ENGINE"] = ENGINE

WORKLOADS = Path(__file__).parent.parent / "workloads"


class Done(NamedTuple):
    """How a program ended."""

    returncode: int
    stdout: str
    stderr: str


class Programs:
    """Runs Python programs in a scratch directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._started: list[subprocess.Popen[str]] = []

    def environment(self, **variables: str) -> dict[str, str]:
        """Return a plain environment with the workloads importable."""
        kept = {name: text for name, text in os.environ.items() if not name.startswith("RPROF_")}
        if "RPROF_CI_ENGINE" in os.environ:
            kept["RPROF_ENGINE"] = ENGINE
        return {**kept, "PYTHONPATH": str(WORKLOADS), "PYTHONFAULTHANDLER": "1", **variables}

    def command(self, code: str, *options: str) -> list[str]:
        """Return the command line of a program given as text."""
        path = self.directory / "program.py"
        path.write_text(textwrap.dedent(code), encoding="utf-8")
        return [sys.executable, *options, str(path)]

    def run(self, code: str, *options: str, timeout: float = 120, **variables: str) -> Done:
        """Run a program to its end."""
        done = subprocess.run(
            self.command(code, *options),
            cwd=self.directory,
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def check(self, code: str, *options: str, timeout: float = 120, **variables: str) -> str:
        """Run a program that must end well and say nothing on stderr; return what it printed."""
        done = self.run(code, *options, timeout=timeout, **variables)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        return done.stdout

    def check_often(
        self, code: str, times: int, timeout: float = 60, crashes: int = 0, **variables: str
    ) -> None:
        """Run a program in as many directories, some at once; each must end well and quietly.

        A hang is one of `timeout` seconds: the programs take fractions of one, on a busy machine a
        few. Up to so many `crashes` are forgiven, for programs that crash without rprof as well.
        """
        directories = [self.directory / f"run-{number}" for number in range(times)]

        def check(directory: Path) -> bool:
            directory.mkdir()
            done = Programs(directory).run(code, timeout=timeout, **variables)
            if crashes and done == (-signal.SIGSEGV, "", ""):
                return True
            assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
            return False

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            assert sum(pool.map(check, directories)) <= crashes

    def start(self, code: str, *options: str, **variables: str) -> subprocess.Popen[str]:
        """Start a program; its stdout is a pipe. It ends with the test at the latest."""
        process = subprocess.Popen(
            self.command(code, *options),
            cwd=self.directory,
            env=self.environment(**variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def end(self) -> None:
        """End what a failed test has left running."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.communicate()

    def profiles(self, directory: str = "rprof") -> list[Path]:
        """Return the profiles a program has written, by name."""
        return sorted((self.directory / directory).glob("*.pb.gz"))


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    """Programs that run in this test's scratch directory."""
    programs = Programs(tmp_path)
    yield programs
    programs.end()


@pytest.fixture
def services(programs: Programs) -> Callable[..., Service]:
    """Starts programs that print the address of their endpoint first."""

    def start(code: str, **variables: str) -> Service:
        return Service(programs.start(code, **variables))

    return start


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """A headless browser."""
    with chromium() as running:
        yield running


@pytest.fixture
def tab(request, browser, tmp_path) -> Iterator[Tab]:
    """A tab, as large as the module's `VIEWPORT`, that asks the network for nothing."""
    viewport = getattr(request.module, "VIEWPORT", {"width": 1400, "height": 900})
    tab = Tab(browser, tmp_path, viewport=viewport)
    yield tab
    tab.context.close()
    assert tab.asked_the_network() == []
    assert tab.complaints == []
