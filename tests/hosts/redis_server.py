"""A Redis of a scene's own."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from scene import Scene


class Missing(Exception):
    """A program that a host needs is not installed here."""


@contextmanager
def redis_server(scene: Scene) -> Iterator[None]:
    """Have one at the scene's port; it keeps nothing."""
    program = shutil.which("redis-server")
    if program is None:
        raise Missing("redis-server is not installed")
    server = scene.start(program, "--port", str(scene.port), "--save", "", "--appendonly", "no")

    def answers() -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", scene.port)):
            return True
        return False

    scene.until(answers, "an answer of redis-server")
    yield
    scene.end(server)
