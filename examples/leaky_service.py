"""A service whose memory grows: which of the lines that hold memory is the leak?

Requests keep a row each in a list that nobody clears. Beside that there is what memory is good for:
tables that are loaded at the start, a cache that fills and is then full, a pool, batches that come
and go. By bytes in use the leak is among the least of them. `rprof.leaks()` has it first.

    python examples/leaky_service.py --seconds 20
    python examples/leaky_service.py --broken broken.so    with a C extension that leaks as well
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import time
from collections.abc import Callable
from types import ModuleType

import rprof

CACHE_ENTRIES = 1_500
Request = tuple[int, str]


class Service:
    def __init__(self, extension: ModuleType | None = None) -> None:
        self._extension = extension
        self._log: list[dict[str, object]] = []
        self._cache: dict[int, bytes] = {}
        self._pool: list[bytearray] = []
        self._batch: list[bytes] = []
        self._tables = self.load_tables()

    def load_tables(self) -> list[tuple[int, str]]:
        tables = []
        for number in range(60_000):
            tables.append((number, f"a name that is known from the start, number {number}"))
        return tables

    def buffer(self) -> bytearray:
        # As many as were ever needed at once, and never more.
        return self._pool.pop() if self._pool else bytearray(64_000)

    def remember(self, key: int) -> bytes:
        found = self._cache.get(key)
        if found is None:
            found = b"%d" % key + bytes(4_000)
            if len(self._cache) < CACHE_ENTRIES:
                self._cache[key] = found
        return found

    def collect(self, text: str) -> None:
        self._batch.append(text.encode() * 30)
        if len(self._batch) == 400:
            self._batch.clear()

    def audit(self, request: Request) -> None:
        # The leak: kept for a report that nobody asks for.
        self._log.append({"number": request[0], "text": request[1] * 3})

    def measure(self, extension: ModuleType, request: Request) -> None:
        extension.measure(request[1])

    def weigh(self, extension: ModuleType, request: Request) -> None:
        parts = request[1].split()
        extension.weigh(parts)

    def handle(self, request: Request) -> int:
        buffers = [self.buffer() for _ in range(4)]
        found = self.remember(request[0] % (CACHE_ENTRIES * 2))
        self.collect(request[1])
        self.audit(request)
        if self._extension is not None:
            self.measure(self._extension, request)
            self.weigh(self._extension, request)
        self._pool += buffers
        return len(found)


def serve(service: Service, seconds: float, seed: int, pause: Callable[[], None]) -> int:
    chances = random.Random(seed)
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end:
        number += 1
        service.handle((number, f"request {chances.random()} " * 5))
        pause()
    return number


def load(path: str) -> ModuleType:
    """Load the extension `broken`, which takes references and forgets to give them up."""
    spec = importlib.util.spec_from_file_location("broken", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=int, default=16_384, help="bytes between two samples")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--broken", help="the extension, compiled from leaky_service_broken.c")
    options = parser.parse_args()

    rprof.start("rprof/", memory=options.rate)
    service = Service(None if options.broken is None else load(options.broken))
    number = serve(service, options.seconds, options.seed, lambda: time.sleep(0.002))
    print(f"{number} requests in {options.seconds} s\n")

    print("By what is in use:")
    for row in rprof.heap().top(5, by="inuse_space", lines=True):
        print(f"  {row.self_value / 2**20:5.1f} MiB  {row.name}:{row.line}")
    print("\nBy growth:")
    print(rprof.leaks().text(6))
    print("\nThe memory of the process:")
    print(rprof.memory_account())
    rprof.stop()


if __name__ == "__main__":
    main()
