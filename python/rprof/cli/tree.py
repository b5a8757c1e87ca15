"""``rprof tree``: the call tree as text, or what was waited for."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from ..errors import RprofValueError
from ._console import drawn, suggest, wants_colour
from ._inputs import add_filters, add_inputs, add_sample_type, narrow, read

if TYPE_CHECKING:
    from .._profile import Profile

HELP = "show the call tree"
EXAMPLES = """\
examples:
  rprof tree app.pb.gz
  rprof tree app.pb.gz --by cpu --min 1% --depth 12
  rprof tree app.pb.gz --all --color always | less -R
  rprof tree app.pb.gz --waits
  rprof tree app.pb.gz --by task_wall --root task
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_inputs(parser)
    add_sample_type(parser)
    parser.add_argument(
        "--min",
        default="0.5%",
        metavar="PERCENT",
        help="sum up branches below this share (default: 0.5%%)",
    )
    parser.add_argument("--depth", type=int, metavar="N", help="calls below the root to show")
    parser.add_argument(
        "--all", action="store_true", help="every frame, also those of libraries, on its line"
    )
    parser.add_argument(
        "--waits",
        action="store_true",
        help="instead of the calls: what was waited for, who made others wait, and who waited",
    )
    parser.add_argument("--json", action="store_true", help="with --waits: JSON on stdout")
    parser.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="colours (default: on a terminal)",
    )
    add_filters(parser)


def percent(option: str, text: str) -> float:
    """Return a percentage as a fraction.

    Raises:
        RprofValueError: It is none.
    """
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise RprofValueError(f"{option} {text!r} is no percentage; write for example 5%")
    return value / 100


def print_waits(profile: Profile, options: argparse.Namespace) -> int:
    """Print what was waited for."""
    waits = profile.waits()
    if options.json:
        rows = [
            {
                **wait._asdict(),
                "culprits": [party._asdict() for party in wait.culprits],
                "waiters": [party._asdict() for party in wait.waiters],
            }
            for wait in waits
        ]
        print(json.dumps(rows, indent=1))
        return 0
    print(drawn(str(waits).rstrip("\n")))
    suggest("rprof", "view", *options.files)
    return 0


def run(options: argparse.Namespace) -> int:
    """Print the tree."""
    profile = narrow(read(options.files, options.by), options)
    if options.json and not options.waits:
        raise RprofValueError("--json is for --waits; rprof top has --json as well")
    if options.waits:
        return print_waits(profile, options)
    text = profile.tree(
        options.by,
        min_fraction=percent("--min", options.min),
        max_depth=options.depth,
        library=options.all,
        color=wants_colour(options.color),
    )
    print(drawn(text.rstrip("\n")))
    suggest("rprof", "view", *options.files)
    return 0
