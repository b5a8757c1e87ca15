"""A program with an endpoint, seen from a client's side."""

from __future__ import annotations

import subprocess
import urllib.error
import urllib.request

import pytest

PATIENCE = 60
"""Seconds after which something hangs; it takes milliseconds, on a busy machine a few seconds."""

TOKEN = "a-token-that-nobody-guesses"

IDLE = """
import sys, rprof
print(rprof.serve().address, flush=True)
sys.stdin.read()
"""


class Service:
    """A program with an endpoint, from its first line of output to its end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.address = process.stdout.readline().strip()
        assert self.address, process.stderr.read()

    @property
    def place(self) -> tuple[str, int]:
        """The address as sockets want it."""
        host, _, port = self.address.rpartition(":")
        return host, int(port)

    def open(self, path: str, **headers: str):
        request = urllib.request.Request(f"http://{self.address}{path}", headers=headers)
        return urllib.request.urlopen(request, timeout=PATIENCE)

    def get(self, path: str, **headers: str) -> str:
        with self.open(path, **headers) as answer:
            return answer.read().decode()

    def refusal(self, path: str, **headers: str) -> urllib.error.HTTPError:
        with pytest.raises(urllib.error.HTTPError) as caught:
            self.open(path, **headers)
        return caught.value

    def tell(self, line: str) -> str:
        """Send the program a line; return the one it answers."""
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end_well(self) -> None:
        """Let the program end; it must have nothing to complain about."""
        _, complaints = self.process.communicate(timeout=PATIENCE)
        assert (self.process.returncode, complaints) == (0, ""), complaints
