"""``rprof diff``: what became slower between two profiles."""

from __future__ import annotations

import argparse
import json

from . import _formats
from ._console import complain, suggest
from ._inputs import add_filters, add_sample_type, narrow, read
from .tree import percent

HELP = "compare two profiles"
EXAMPLES = """\
examples:
  rprof diff before.pb.gz after.pb.gz
  rprof diff before/ after/ --by cpu --html diff.html
  rprof diff main.pb.gz branch.pb.gz --fail-over 5%      exit code 1 if anything grew by more

Profiles differ in length, so shares of the total are compared. --fail-over looks at each function's
share of its own time, in points of the total: from 2 % to 8 % is a growth of 6 points.
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
        help="end with exit code 1 if a function's own share grew by more points than this",
    )
    parser.add_argument("--json", action="store_true", help="JSON on stdout")
    add_filters(parser)


def run(options: argparse.Namespace) -> int:
    """Print the comparison."""
    limit = None if options.fail_over is None else percent("--fail-over", options.fail_over)
    if options.html is not None and _formats.check(options.html) != ".html":
        complain(f"--html {options.html} does not end in .html; it is a page all the same")
    old, new = narrow(read([options.old]), options), narrow(read([options.new]), options)
    found = old.diff(new, options.by, lines=options.lines)
    if options.json:
        print(json.dumps(found.to_dict(options.n), indent=1))
    else:
        print(found.table(options.n))
    if options.html is not None:
        _formats.write_text(options.html, new.to_html(baseline=old))
    worst = found.worst
    if limit is not None and worst is not None and worst.growth > limit:
        complain(f"{worst.name} grew by {worst.growth:.1%} of the total, more than {limit:.1%}")
        return 1
    if options.html is None:
        suggest("rprof", "diff", options.old, options.new, "--html", "diff.html")
    else:
        suggest("xdg-open", options.html)
    return 0
