"""Profile a real program: compile, tokenize and parse part of the standard library.

Run:  python examples/quickstart.py

Three threads go over the source of several standard packages while rprof records them. At the end
the program prints where the profile is, how to open it, and the heaviest functions by CPU time and
by wall time. Brief calls that let go of the GIL, such as opening a file, show more time than they
use; docs/explanation/engines.md says why.
"""

from __future__ import annotations

import ast
import compileall
import importlib.util
import io
import shutil
import tempfile
import threading
import tokenize
from pathlib import Path

import rprof

PACKAGES = ["asyncio", "email", "json", "logging", "unittest", "importlib", "html", "http"]


def copy_sources(target: Path) -> list[Path]:
    """Copy the packages' sources, so that nothing is written into the installation."""
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            source = spec.submodule_search_locations[0]
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    return sorted(target.rglob("*.py"))


def compile_packages(directory: Path) -> None:
    compileall.compile_dir(directory, quiet=2, force=True)


def tokenize_files(files: list[Path]) -> int:
    return sum(
        1 for file in files for _ in tokenize.tokenize(io.BytesIO(file.read_bytes()).readline)
    )


def round_trip_files(files: list[Path]) -> int:
    """Parse each file, write it out again from its syntax tree, and parse that."""
    return sum(len(ast.dump(ast.parse(ast.unparse(ast.parse(f.read_bytes()))))) for f in files)


def main() -> None:
    rprof.start("rprof/")
    with tempfile.TemporaryDirectory() as directory:
        files = copy_sources(Path(directory))
        print(f"working on {len(files)} files of the standard library ...", flush=True)
        threads = [
            threading.Thread(target=compile_packages, args=(Path(directory),), name="compile"),
            threading.Thread(target=tokenize_files, args=(files,), name="tokenize"),
            threading.Thread(target=round_trip_files, args=(files,), name="round trip"),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    profile = rprof.stop()

    print("\nHeaviest functions by CPU time")
    print(profile.top(12, by="cpu"))
    print("\nHeaviest functions by wall time, waiting included")
    print(profile.top(6, by="wall"))
    print("\nThreads")
    for thread in profile.threads:
        cpu, wall = thread.totals["cpu"] / 1e9, thread.totals["wall"] / 1e9
        print(f"  {thread.name:<12} {cpu:6.2f} s cpu  {wall:6.2f} s wall")
    status = rprof.status()
    print(f"\nrprof itself used {status.own_cpu_seconds:.3f} s of CPU time.")
    print(f"The profile is in {status.files[-1]}; look at it with")
    print(f"  go tool pprof -top -sample_index=cpu {status.files[-1]}")


if __name__ == "__main__":
    main()
