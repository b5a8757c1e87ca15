"""``rprof leaks``: places whose memory in use grows."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RprofOSError, RprofValueError
from ._console import progress, say, suggest
from ._fetch import fetch
from ._inputs import HEAP_SUFFIX
from .live import output_of

if TYPE_CHECKING:
    from .._profile import Profile

HELP = "show where memory in use grows, the likeliest leaks first"
EXAMPLES = """\
examples:
  rprof leaks rprof/                    the processes that write there, by their last heaps
  rprof leaks app-4711-20261121T012345Z-000060.heap.pb.gz
  rprof leaks http://127.0.0.1:6060     a process with an endpoint, as it is now
  rprof leaks 4711 -n 3 --json          a process that called rprof.start(memory=True)

A line that leaks has memory of every age; a cache or a pool has old memory, and what turns over has
new memory. "grows" is said of a cache that still fills as well: look again when it should be full.
"""

# {program}-{pid}-{start}-{number}
_NAME = re.compile(r"(.*-\d+)-\d{8}T\d{6}Z-\d+" + re.escape(HEAP_SUFFIX))
# A process has ended if its last window lies this many windows before another's.
_WINDOWS = 3
_PATIENCE_SECONDS = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "targets",
        nargs="+",
        metavar="FILE|DIR|URL|PID",
        help="heap files, directories of them, endpoints, process ids; all are added up",
    )
    parser.add_argument("-n", type=int, default=10, metavar="N", help="places (default: 10)")
    parser.add_argument("--json", action="store_true", help="JSON on stdout")


def run(options: argparse.Namespace) -> int:
    """Print the table."""
    from .._leaks import leaks

    if options.n < 1:
        raise RprofValueError(f"-n {options.n} is out of range; show at least 1 place")
    found = leaks(*[profile for target in options.targets for profile in _profiles(target)])
    if options.json:
        rows = [
            {
                **row._asdict(),
                "stacks": [
                    {"bytes": stack.bytes, "frames": [frame._asdict() for frame in stack.frames]}
                    for stack in row.stacks
                ],
            }
            for row in found[: options.n]
        ]
        print(json.dumps({"bytes": sum(row.bytes for row in found), "rows": rows}, indent=1))
        return 0
    print(found.text(options.n))
    if not options.targets[0].startswith("http"):
        suggest("rprof", "tree", "--by", "inuse_space", *options.targets)
    return 0


def _profiles(target: str) -> list[Profile]:
    """Return the heaps that an argument means, one of each process."""
    from .._profile import NativeProfile, Profile
    from .._reading import load

    if target.startswith("http://"):
        with progress(f"asking {target}"):
            data = fetch(target, "/debug/pprof/heap", _PATIENCE_SECONDS)
        return [Profile(NativeProfile.decode(data, target))]
    path = Path(target)
    if path.exists() and not path.is_dir():
        return [load(path)]
    pid = int(target) if target.isdigit() and not path.exists() else None
    directory = path if pid is None else output_of(pid)
    pattern = f"*-{pid}-*{HEAP_SUFFIX}" if pid is not None else f"*{HEAP_SUFFIX}"
    last: dict[str, Path] = {}
    for file in sorted(directory.glob(pattern)):
        named = _NAME.fullmatch(file.name)
        last[named[1] if named else file.name] = file
    if not last:
        raise RprofOSError(
            f"there is no heap of {target} in {directory}: it must be profiled with memory=True or "
            "RPROF_MEMORY=1, and its first window be over"
        )
    heaps = [load(file) for file in last.values()]
    return _living(heaps)


def _living(heaps: list[Profile]) -> list[Profile]:
    """Return those whose processes lived at the end, and say how many are left out."""
    newest = max(_end(heap) for heap in heaps)
    living = [heap for heap in heaps if newest - _end(heap) <= _WINDOWS * heap.duration_ns]
    if len(living) < len(heaps):
        say(f"left out: {len(heaps) - len(living)} processes that had ended before")
    return living


def _end(heap: Profile) -> int:
    return heap.time_ns + heap.duration_ns
