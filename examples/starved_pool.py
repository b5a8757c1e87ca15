"""Who keeps the connections while everybody else waits for one.

A FastAPI application has a pool of two connections. Checkouts need one for a moment; a report keeps
one while it waits for another service, which needs none. Checkouts are slow, and no thread computes
or is blocked meanwhile: `task_wall` has where their tasks waited, and what is told of a slow one
adds up to how long it took. What reports do with their connections is beside it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import rprof
from fastapi import FastAPI
from rprof.middleware.asgi import ASGIMiddleware

SECONDS = 3.0


class Pool:
    def __init__(self, size: int) -> None:
        self._free = asyncio.Semaphore(size)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[None]:
        await self._free.acquire()
        try:
            yield
        finally:
            self._free.release()


app = FastAPI()
app.add_middleware(ASGIMiddleware, slow_after=0.3)
pool = Pool(2)


async def query() -> None:
    async with pool.connection():
        await asyncio.sleep(0.01)


@app.get("/checkout")
async def checkout() -> str:
    await asyncio.gather(query(), query())
    return "bought"


async def ask_other_service() -> None:
    await asyncio.sleep(0.4)


@app.get("/report")
async def report() -> str:
    async with pool.connection():
        await ask_other_service()
    return "reported"


async def get(path: str) -> None:
    """Ask the application, as a server would."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [],
        "client": None,
        "server": None,
    }
    is_asked = False

    async def receive() -> dict[str, Any]:
        nonlocal is_asked
        if is_asked:
            await asyncio.Event().wait()
        is_asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_: Any) -> None:
        pass

    await app(scope, receive, send)


async def client(path: str, end: float) -> None:
    while asyncio.get_running_loop().time() < end:
        await get(path)
        await asyncio.sleep(0.02)


async def serve() -> None:
    end = asyncio.get_running_loop().time() + SECONDS
    paths = ["/checkout"] * 4 + ["/report"] * 3
    await asyncio.gather(*(client(path, end) for path in paths))


def main() -> None:
    logging.getLogger("rprof").addHandler(logging.StreamHandler(sys.stdout))
    with rprof.profile() as block:
        asyncio.run(serve())
    profile = block.profile
    if not profile.totals.get("task_wall"):
        print(f"Tasks are not seen here: {rprof.status().engine_reason}")
        return
    print("Where checkouts waited:")
    print(profile.only_labels(route="/checkout").waits())
    print("What reports did meanwhile, with a connection or without:")
    print(profile.only_labels(route="/report").tree(by="task_wall"))


if __name__ == "__main__":
    main()
