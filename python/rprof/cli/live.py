"""``rprof live``: what a running process does, from its endpoint or the profiles it writes."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .._text import inert
from ..errors import RprofOSError, RprofValueError
from ._console import say
from ._fetch import fetch
from ._inputs import HEAP_SUFFIX
from ._showing import View, fits, show

if TYPE_CHECKING:
    from .._profile import Profile

# What a busy process may take to answer, beside the recording.
_PATIENCE_SECONDS = 30

HELP = "watch a running process that profiles itself"
EXAMPLES = """\
examples:
  rprof live http://127.0.0.1:6060 a process with an endpoint: it is sampled while this looks
  rprof live http://127.0.0.1:6060 --tasks
                                   which tasks and greenlets it has, where they wait, for which lock
  rprof live 4711                  a process that called rprof.start()
  rprof live /srv/app/rprof        the processes that write there
  rprof live 4711 --once --by cpu  print the newest windows and end

On a terminal the key t goes from threads to tasks and back, q ends. Tasks that wait at the same
place for the same are one group. Of very many, 1,000 are looked at and the others counted.

Of a process id or a directory, what is shown is as new as the last window: start with window=5,
say, to see it move. Nothing is asked of the process, so watching costs it nothing. An endpoint's
token is taken from RPROF_SERVE_TOKEN and sent to this machine alone: others are reached through a
tunnel, for example of ssh. With `pip install 'rprof[live]'` the view is drawn by rich, else it is
plain text.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "target", metavar="URL|PID|DIR", help="an endpoint, a process id, or a directory"
    )
    parser.add_argument("--by", metavar="TYPE", help="sample type (default: the profile's own)")
    parser.add_argument(
        "--tasks",
        action="store_true",
        help="tasks and greenlets instead of threads (endpoints only)",
    )
    parser.add_argument(
        "-n", type=int, default=20, metavar="N", help="functions, groups of tasks (default: 20)"
    )
    parser.add_argument(
        "--windows", type=int, default=1, metavar="N", help="newest windows to show (default: 1)"
    )
    parser.add_argument(
        "--interval", type=float, default=1.0, metavar="SECONDS", help="look so often (default: 1)"
    )
    parser.add_argument("--once", action="store_true", help="print once and end")


def run(options: argparse.Namespace) -> int:
    """Show the newest windows until the process ends or Ctrl-C comes."""
    if options.windows < 1 or not 0.1 <= options.interval <= 3600:
        raise RprofValueError("--windows is at least 1, --interval 0.1 to 3600 seconds")
    target = options.target
    if target.startswith("http://"):
        threads = View("threads", _profiles(lambda: ask(target, options.interval), options), 0)
        tasks = View("tasks", _tasks(target, options), options.interval)
        return _watch([tasks, threads] if options.tasks else [threads, tasks], None, options)
    if options.tasks:
        raise RprofValueError(
            "--tasks asks an endpoint (rprof.serve); give its address, as http://127.0.0.1:6060"
        )
    pid = int(target) if target.isdigit() else None
    directory = Path(target) if pid is None else output_of(pid)
    if not directory.is_dir():
        raise RprofOSError(f"{directory} is no directory of profiles")
    pattern = "*.pb.gz" if pid is None else f"*-{pid}-*.pb.gz"
    look = _profiles(lambda: newest(directory, pattern, options.windows), options)
    return _watch([View("threads", look, options.interval)], pid, options)


def ask(address: str, seconds: float) -> Profile:
    """Return what an endpoint records in so many seconds.

    Raises:
        RprofOSError: It does not answer, or refuses.
    """
    from .._profile import NativeProfile, Profile

    path = f"/debug/pprof/wall?seconds={max(seconds, 0.01):g}"
    data = fetch(address, path, seconds + _PATIENCE_SECONDS)
    return Profile(NativeProfile.decode(data, address))


def output_of(pid: int) -> Path:
    """Return the directory that a process writes its profiles to.

    Raises:
        RprofOSError: There is no such process, or it belongs to somebody else.
    """
    process = Path("/proc") / str(pid)
    try:
        here = (process / "cwd").readlink()
        environment = (process / "environ").read_bytes()
    except OSError as error:
        raise RprofOSError(
            f"cannot look at process {pid} ({error.strerror}); name its directory of profiles"
        ) from error
    for entry in environment.split(b"\0"):
        name, _, value = entry.partition(b"=")
        if name == b"RPROF_OUTPUT" and value:
            return here / os.fsdecode(value)
    return here / "rprof"


def newest(directory: Path, pattern: str, windows: int) -> Profile | None:
    """Return the newest windows, merged, of those that are there; None without any."""
    from .._reading import load

    dated = []
    for path in directory.glob(pattern):
        if path.name.endswith(HEAP_SUFFIX):
            continue
        # It may have gone since: only so many files are kept.
        try:
            dated.append((path.stat().st_mtime_ns, path))
        except FileNotFoundError:
            continue
    profiles = []
    for _, path in sorted(dated)[-windows:]:
        try:
            profiles.append(load(path))
        except RprofOSError:
            continue
    return profiles[0].merge(*profiles[1:]) if profiles else None


def facts(profile: Profile) -> list[str]:
    """Return lines about the whole: age, rates, the share of the GIL."""
    totals = profile.totals
    seconds = max(profile.duration_ns / 1e9, 1e-9)
    age = time.time() - (profile.time_ns / 1e9 + seconds)
    lines = [f"{inert(profile.program)}: {seconds:.1f} s, ended {max(age, 0):.0f} s ago"]
    parts = [f"{totals.get('samples', 0) / seconds:,.0f} samples/s"]
    parts.append(f"cpu {totals.get('cpu', 0) / 1e9 / seconds:.0%} of a core")
    if "gil" in totals:
        parts.append(f"GIL held {totals['gil'] / 1e9 / seconds:.0%}")
    if "gil_wait" in totals:
        parts.append(f"waited for {totals['gil_wait'] / 1e9 / seconds:.0%}")
    lines.append(", ".join(parts))
    return lines


def describe(profile: Profile, by: str | None, n: int) -> str:
    """Return the view as plain text."""
    lines = [*facts(profile), ""]
    for thread in profile.threads[:8]:
        share = thread.totals.get("cpu", 0) / max(profile.duration_ns, 1)
        lines.append(f"{share:>7.1%} cpu  {inert(thread.name or str(thread.id))}")
    if len(profile.threads) > 8:
        lines.append(f"             and {len(profile.threads) - 8} more threads")
    return "\n".join([*lines, "", str(profile.top(n, by))])


def _profiles(
    look: Callable[[], Profile | None], options: argparse.Namespace
) -> Callable[[], str | None]:
    """Return how to look at profiles."""
    shown: tuple[int, int] | None = None

    def text() -> str | None:
        nonlocal shown
        profile = look()
        if profile is None:
            if options.once:
                raise RprofOSError(
                    f"no window of {options.target} is there yet; the first one comes when its "
                    "window (RPROF_WINDOW, 60 s unless set) is over"
                )
            return f"waiting for the first window of {options.target} (Ctrl-C ends)"
        if (profile.time_ns, profile.duration_ns) == shown and not sys.stdout.isatty():
            return None
        shown = (profile.time_ns, profile.duration_ns)
        return describe(profile, options.by, options.n)

    return text


def _tasks(address: str, options: argparse.Namespace) -> Callable[[], str | None]:
    """Return how to look at tasks."""
    from ._live_tasks import ask_for_tasks, describe_tasks

    has_room = fits if sys.stdout.isatty() and not options.once else lambda _: True
    return lambda: describe_tasks(ask_for_tasks(address, _PATIENCE_SECONDS), options.n, has_room)


def _watch(views: list[View], pid: int | None, options: argparse.Namespace) -> int:
    if options.once:
        print(views[0].look())
        return 0
    if show(views, lambda: pid is not None and not Path("/proc", str(pid)).exists()):
        say(f"process {pid} has ended")
    return 0
