import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import rprof
from fastapi import FastAPI
from rprof.middleware.asgi import ASGIMiddleware

logging.getLogger("rprof").addHandler(logging.StreamHandler())


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    # Says so, and where, if the event loop stands still for so long.
    watch = rprof.watch_loop(stall=0.2)
    yield
    watch.stop()


app = FastAPI(lifespan=lifespan)
app.add_middleware(ASGIMiddleware, slow_after=0.5)


@app.get("/")
async def front() -> str:
    return "service"


@app.get("/words/{number}")
def words(number: int) -> int:
    """Not `async`: FastAPI calls it in a thread, where it stops nobody."""
    return count_letters(number)


def count_letters(number: int) -> int:
    total = 0
    for step in range(150_000):
        total += (step * number) % 7
    return total


@app.get("/blocking")
async def blocking() -> int:
    """Computes in the event loop: everybody waits."""
    return keep_the_loop()


def keep_the_loop() -> int:
    total = 0
    for step in range(5_000_000):
        total += step % 7
    return total


@app.get("/slow")
async def slow() -> str:
    await ask_other_service()
    return "done"


async def ask_other_service() -> None:
    await asyncio.sleep(0.7)
