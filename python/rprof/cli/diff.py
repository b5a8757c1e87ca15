"""``rprof diff``: what became slower between two profiles."""

from __future__ import annotations

import argparse
import json

from .. import _formats
from ._console import complain, suggest
from ._inputs import add_filters, add_sample_type, narrow, read
from .tree import percent

HELP = "compare two profiles"
EXAMPLES = """\
examples:
  rprof diff before.pb.gz after.pb.gz
  rprof diff before/ after/ --by cpu --html diff.html
  rprof diff main.pb.gz branch.pb.gz --fail-over 5%      exit code 1 if anything grew by more

--fail-over looks at shares: it fails when the share of any function in the total, with what it
called, grew by more points than given (from 2 % to 8 % is 6 points). Shares do not depend on how
fast the machine was or how long was recorded.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("old", metavar="OLD", help="pprof file or directory: before")
    parser.add_argument("new", metavar="NEW", help="pprof file or directory: after")
    add_sample_type(parser)
    parser.add_argument("-n", type=int, default=20, metavar="N", help="rows (default: 20)")
    parser.add_argument("--lines", action="store_true", help="lines instead of functions")
    parser.add_argument("--html", metavar="PATH", help="write the diff as a report page too")
    parser.add_argument(
        "--fail-over",
        metavar="PERCENT",
        help="end with exit code 1 if the share of a function grew by more points than this",
    )
    parser.add_argument(
        "--scale",
        choices=("duration", "none"),
        default="duration",
        help="compare costs per second (duration), or as recorded (none: for a program that ran "
        "from start to end both times); default: duration",
    )
    parser.add_argument("--json", action="store_true", help="JSON on stdout")
    add_filters(parser)


def run(options: argparse.Namespace) -> int:
    """Print the comparison."""
    limit = None if options.fail_over is None else percent("--fail-over", options.fail_over)
    if options.html is not None:
        _formats.require(options.html, ".html")
    old, new = (narrow(read([path], options.by), options) for path in (options.old, options.new))
    found = old.diff(new, options.by, lines=options.lines, scale=options.scale)
    if options.json:
        data = found.to_dict()
        print(json.dumps({**data, "rows": data["rows"][: options.n]}, indent=1))
    else:
        print(found.table(options.n))
    if options.html is not None:
        _formats.write_text(options.html, new.to_html(baseline=old))
    worst = found.largest_regression
    if limit is not None and worst is not None and found.regression > 100 * limit:
        complain(
            f"{worst.name} grew by {found.regression:.1f} points, more than {100 * limit:g}: from "
            f"{worst.before_total_fraction:.1%} to {worst.after_total_fraction:.1%} of the total"
        )
        return 1
    if options.html is None:
        suggest("rprof", "diff", options.old, options.new, "--html", "diff.html")
    else:
        suggest("xdg-open", options.html)
    return 0
