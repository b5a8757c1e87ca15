"""Who holds the GIL while everybody else waits for it.

Three threads answer little requests, a fourth sorts a long list now and then. `sorted` is one call
of C that keeps the GIL, so the requests are late. Their CPU time says nothing of it; `gil_wait`
says that they waited, and `gil_blame` says for whom.
"""

from __future__ import annotations

import random
import threading
import time

import rprof

SECONDS = 3.0


def answer_requests(end: float) -> None:
    while time.monotonic() < end:
        sum(number * number for number in range(2_000))
        time.sleep(0.002)


def make_report(numbers: list[float], end: float) -> None:
    while time.monotonic() < end:
        sorted(numbers)
        time.sleep(0.01)


def main() -> None:
    numbers = [random.random() for _ in range(400_000)]
    end = time.monotonic() + SECONDS
    threads = [threading.Thread(target=answer_requests, args=(end,)) for _ in range(3)]
    threads.append(threading.Thread(target=make_report, args=(numbers, end)))
    with rprof.profile(rate=200) as block:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    profile = block.profile
    if "gil_blame" not in profile.totals:
        print(f"The GIL is not seen here: {rprof.status().engine_reason}")
        return
    print("Who waited:")
    print(profile.top(3, by="gil_wait"))
    print("For whom:")
    print(profile.top(3, by="gil_blame"))


if __name__ == "__main__":
    main()
