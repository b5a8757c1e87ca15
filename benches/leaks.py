"""How often true leaks are the first that `rprof.leaks` names, and what else it says grows.

Runs `examples/leaky_service.py` with its three leaks (a Python list, a C function without
Py_DECREF, one with a Py_INCREF too many) among tables, a cache, a pool and batches, some seeds at
a time, and ranks lines by growth and by bytes in use. The C extension is compiled first.

    python benches/leaks.py [--seconds 60] [--seeds 10] [--rates 32768 65536] [--at-once 5]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
# A minute's, at 50 a second: of 30, 9 and 35 KB a second that leak.
REQUESTS = 3_000
LEAKS = (".audit", ".measure", ".weigh")


def compiled(directory: Path) -> Path:
    """Compile the extension that leaks."""
    target = directory / "broken.so"
    include = sysconfig.get_path("include")
    source = EXAMPLES / "leaky_service_broken.c"
    subprocess.run(["cc", "-shared", "-fPIC", f"-I{include}", source, "-o", target], check=True)
    return target


def ranks(names: list[str]) -> list[int | None]:
    """Return at which place each leak is, by the first of its lines; None if at none."""
    found = []
    for leak in LEAKS:
        places = [place for place, name in enumerate(names, 1) if name.endswith(leak)]
        found.append(places[0] if places else None)
    return found


def one(seed: int, rate: int, seconds: float, broken: str) -> None:
    """Run the service once and print how the leaks are ranked."""
    import rprof

    spec = importlib.util.spec_from_file_location("leaky_service", EXAMPLES / "leaky_service.py")
    assert spec is not None
    assert spec.loader is not None
    service = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(service)
    rprof.start(None, memory=rate)
    running = service.Service(service.load(broken))
    service.serve(running, seconds, seed, lambda: time.sleep(seconds / REQUESTS))
    found = rprof.leaks()
    by_bytes = sorted(found, key=lambda row: -row.bytes)
    innocent = [row.name for row in found if row.verdict.startswith("grows by") and row.growth > 0]
    print(
        json.dumps(
            {
                "growth": ranks([row.name for row in found]),
                "bytes": ranks([row.name for row in by_bytes]),
                "innocent": [name for name in innocent if not name.endswith(LEAKS)],
            }
        )
    )


def runs(rate: int, options: argparse.Namespace, broken: Path) -> Iterator[dict[str, Any]]:
    """Run all seeds of one rate, some at a time."""
    seeds = list(range(1, options.seeds + 1))
    command = [sys.executable, __file__, "--one"]
    for begin in range(0, len(seeds), options.at_once):
        started = [
            subprocess.Popen(
                [*command, str(seed), str(rate), str(options.seconds), broken],
                stdout=subprocess.PIPE,
                text=True,
            )
            for seed in seeds[begin : begin + options.at_once]
        ]
        for process in started:
            out, _ = process.communicate()
            yield json.loads(out)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rates", type=int, nargs="+", default=[32_768, 65_536])
    parser.add_argument("--at-once", type=int, default=5)
    parser.add_argument("--one", nargs=4, metavar=("SEED", "RATE", "SECONDS", "BROKEN"))
    options = parser.parse_args()
    if options.one:
        seed, rate, seconds, broken = options.one
        one(int(seed), int(rate), float(seconds), broken)
        return
    with tempfile.TemporaryDirectory() as directory:
        broken = compiled(Path(directory))
        for rate in options.rates:
            found = list(runs(rate, options, broken))
            for kind in ("growth", "bytes"):
                places = [run[kind] for run in found]
                first = sum(1 in run for run in places)
                five = sum(all(at is not None and at <= 5 for at in run) for run in places)
                print(
                    f"{rate // 1024} KiB, by {kind}: a leak is first in {first} of {len(found)}, "
                    f"all three among the first five in {five}; places {places}"
                )
            innocent = sorted({name for run in found for name in run["innocent"]})
            print(f"{rate // 1024} KiB, innocent lines that are said to grow: {innocent or 'none'}")


if __name__ == "__main__":
    main()
