"""Runs real hosts of Python applications and looks for the last window of each of their workers.

    python tests/hosts/run.py WHEEL [HOST ...]

Installs the hosts (public packages, pinned) and the wheel into a temporary environment, has workers
do known work, ends each host in its ordinary ways, and prints a line for each: how many workers
have worked, and how many have left a profile with that work. The exit code is 1 if one is missing
where it should be there. Not part of the test suite: it needs the network and minutes.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
# The packages of each.
HOSTS = {
    "processes": (),
    "gunicorn": ("gunicorn==27.0.0",),
    "uvicorn": ("uvicorn==0.54.0",),
    "hypercorn": ("hypercorn==0.18.0",),
    "granian": ("granian==2.8.9",),
    "uwsgi": ("uWSGI==2.0.31",),
    "celery": ("celery==5.7.0",),
    "rq": ("rq==3.0.0", "redis==8.1.0"),
    "dramatiq": ("dramatiq==2.2.1", "redis==8.1.0"),
    "huey": ("huey==3.5.4",),
}


def load(name: str) -> ModuleType:
    """Load a host's file, whose name is often that of the host's own module."""
    spec = importlib.util.spec_from_file_location(f"host_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def install(directory: Path, wheel: str, hosts: list[str]) -> Path:
    """Make an environment and return its interpreter."""
    venv.create(directory, with_pip=True)
    python = directory / "bin" / "python"
    packages = sorted({package for host in hosts for package in HOSTS[host]})
    subprocess.run([python, "-m", "pip", "install", "-q", wheel, *packages], check=True)
    return python


def run_case(name: str, case: str, module: ModuleType, *, verbose: bool) -> bool:
    """Run one case in a directory of its own and print its line; whether it is as it should be."""
    from redis_server import Missing
    from scene import Scene

    with tempfile.TemporaryDirectory(prefix="rprof-host-") as directory:
        scene = Scene(Path(directory))
        ending = ""
        try:
            module.CASES[case](scene)
        except Missing as missing:
            print(f"{name}, {case}: not run: {missing}", flush=True)
            return True
        except (AssertionError, subprocess.TimeoutExpired) as error:
            ending = f"; {error}"
        finally:
            scene.close()
        verdict = scene.verdict()
        reason = getattr(module, "LOSES", {}).get(case)
        good = not ending and (verdict.holds or reason is not None)
        words = "holds" if verdict.holds else f"loses, as it must: {reason}" if reason else "LOSES"
        print(f"{name}, {case}: {verdict}: {words}{ending}", flush=True)
        if verbose or not good:
            print(scene.log()[-2_000:], flush=True)
        return good


def main() -> int:
    """Run what is asked for and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheel", help="the wheel to test, or - if all is installed here")
    parser.add_argument("hosts", nargs="*", metavar="HOST", help=f"of {', '.join(HOSTS)}")
    parser.add_argument("-k", "--only", default="", help="only cases with this in their name")
    parser.add_argument("-v", "--verbose", action="store_true", help="show what the hosts said")
    options = parser.parse_args()
    names = options.hosts or list(HOSTS)
    if unknown := set(names) - set(HOSTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if options.wheel != "-":
        with tempfile.TemporaryDirectory(prefix="rprof-hosts-") as directory:
            python = install(Path(directory), options.wheel, names)
            flags = ["--verbose"] if options.verbose else []
            command = [python, __file__, "-", *names, "--only", options.only, *flags]
            return subprocess.run(command, check=False).returncode
    outcomes = []
    for name in names:
        module = load(name)
        for case in module.CASES:
            if options.only in case:
                outcomes.append(run_case(name, case, module, verbose=options.verbose))
    return 0 if outcomes and all(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
