"""An asyncio application: producers and consumers, one of which blocks the loop.

Run:  python examples/asyncio_app.py

``async with rprof.profile()`` records all threads, so that work handed to ``asyncio.to_thread``
shows as well. By wall time the loop mostly waits; by CPU time the culprit is plain.
"""

from __future__ import annotations

import asyncio
import hashlib
import json

import rprof


def parse_order(text: str) -> dict:
    return json.loads(text)


def price_order(order: dict) -> int:
    """Too heavy for the event loop: while it runs, nobody else is served."""
    price = 0
    for item in order["items"]:
        for quantity in range(4000):
            price += item * quantity % 97
    return price


def sign_order(order: dict) -> str:
    digest = b""
    for item in order["items"]:
        digest = hashlib.pbkdf2_hmac("sha256", digest + bytes([item % 256]), b"salt", 100)
    return digest.hex()


async def produce(queue: asyncio.Queue, count: int) -> None:
    for number in range(count):
        await queue.put(json.dumps({"items": list(range(number, number + 60))}))
        await asyncio.sleep(0.002)
    await queue.put(None)


async def consume(queue: asyncio.Queue) -> int:
    served = 0
    while (text := await queue.get()) is not None:
        order = parse_order(text)
        price_order(order)
        await asyncio.to_thread(sign_order, order)
        served += 1
    await queue.put(None)
    return served


async def main() -> None:
    print("serving orders; pricing one blocks the event loop ...", flush=True)
    queue: asyncio.Queue = asyncio.Queue(maxsize=10)
    async with rprof.profile("asyncio_app.pb.gz", rate=200) as block:
        results = await asyncio.gather(produce(queue, 120), consume(queue), consume(queue))
    print(f"served {sum(filter(None, results))} orders\n")
    print("Heaviest functions by CPU time")
    print(block.profile.top(6, by="cpu"))
    print("\nThe profile is in asyncio_app.pb.gz")


if __name__ == "__main__":
    asyncio.run(main())
