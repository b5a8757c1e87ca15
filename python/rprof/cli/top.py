"""``rprof top``: the heaviest functions or lines."""

from __future__ import annotations

import argparse
import json

from ._console import suggest
from ._inputs import add_filters, add_inputs, add_sample_type, narrow, read

HELP = "show the heaviest functions or lines"
EXAMPLES = """\
examples:
  rprof top app.pb.gz --by cpu -n 30
  rprof top rprof/ --lines --thread 'worker*'
  rprof top app.pb.gz --focus checkout --sort total --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_inputs(parser)
    add_sample_type(parser)
    parser.add_argument("-n", type=int, default=20, metavar="N", help="rows (default: 20)")
    parser.add_argument("--lines", action="store_true", help="lines instead of functions")
    parser.add_argument(
        "--sort",
        choices=("self", "total"),
        default="self",
        help="by time in the function itself, or with what it called (default: self)",
    )
    parser.add_argument("--json", action="store_true", help="JSON on stdout")
    add_filters(parser)


def run(options: argparse.Namespace) -> int:
    """Print the table."""
    profile = narrow(read(options.files, options.by), options)
    table = profile.top(options.n, options.by, lines=options.lines, sort=options.sort)
    if options.json:
        print(
            json.dumps(
                {
                    "sample_type": table.sample_type.type,
                    "unit": table.sample_type.unit,
                    "total": table.total,
                    "magnitude": table.magnitude,
                    "doubts": table.doubts,
                    "rows": [row._asdict() for row in table],
                },
                indent=1,
            )
        )
        return 0
    print(table)
    suggest("rprof", "tree", *options.files)
    return 0
