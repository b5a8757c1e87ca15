"""Who holds the lock while everybody else waits for it.

Four threads look rows up in a cache, a fifth loads it anew and keeps its lock meanwhile. The time
that is lost shows in `get`, which is innocent: `lock_wait`. `lock_blame` says who made it wait, and
the label `lock` for which lock.
"""

from __future__ import annotations

import threading
import time

import rprof

SECONDS = 2.0


class Cache:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[str, int] = {}

    def get(self, key: str) -> int | None:
        with self._lock:
            return self._rows.get(key)

    def refresh(self) -> None:
        with self._lock:
            self._rows = self._load()

    def _load(self) -> dict[str, int]:
        # A query that takes its time.
        time.sleep(0.05)
        return {"key": 1}


def serve(cache: Cache, end: float) -> None:
    while time.monotonic() < end:
        cache.get("key")
        time.sleep(0.002)


def refresh(cache: Cache, end: float) -> None:
    while time.monotonic() < end:
        cache.refresh()
        time.sleep(0.005)


def main() -> None:
    cache = Cache()
    end = time.monotonic() + SECONDS
    threads = [threading.Thread(target=serve, args=(cache, end)) for _ in range(4)]
    threads.append(threading.Thread(target=refresh, args=(cache, end)))
    with rprof.profile(rate=200) as block:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    profile = block.profile
    if "lock_blame" not in profile.totals:
        print(f"Locks are not seen here: {rprof.status().engine_reason}")
        return
    # What the main thread waits for is the end of the others.
    names = [name for name in profile.labels()["lock"] if name.startswith("Lock ")]
    for name in names:
        part = profile.only_labels(lock=name)
        print(f"{name}. Who waited:")
        print(part.top(3, by="lock_wait"))
        print("For whom:")
        print(part.top(3, by="lock_blame"))


if __name__ == "__main__":
    main()
