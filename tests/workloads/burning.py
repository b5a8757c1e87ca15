"""Work of known cost: functions that use CPU time by their own thread's clock."""

from __future__ import annotations

import time


def burn(seconds: float) -> float:
    """Use CPU time in this thread; return how much it was."""
    start = time.thread_time()
    while time.thread_time() < start + seconds:
        sum(range(200))
    return time.thread_time() - start


def burn_three(seconds: float) -> float:
    return burn(3 * seconds)


def burn_two(seconds: float) -> float:
    return burn(2 * seconds)


def burn_one(seconds: float) -> float:
    return burn(seconds)


def burn_shares(rounds: int, seconds: float) -> dict[str, float]:
    """Burn 3:2:1 in turns; return the CPU time each function really used."""
    used = {"burn_three": 0.0, "burn_two": 0.0, "burn_one": 0.0}
    for _ in range(rounds):
        for function in (burn_three, burn_two, burn_one):
            used[function.__name__] += function(seconds)
    return used
