"""``rprof merge``: one profile from several."""

from __future__ import annotations

import argparse

from .. import _formats
from ._console import progress, say, suggest
from ._inputs import add_filters, add_inputs, narrow, read

HELP = "make one profile from several"
EXAMPLES = """\
examples:
  rprof merge rprof/ -o day.pb.gz
  rprof merge a.pb.gz b.pb.gz -o both.pb.gz --thread 'worker*'
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_inputs(parser)
    parser.add_argument(
        "-o", "--output", required=True, metavar="PATH", help="the file to write, .pb.gz"
    )
    add_filters(parser)


def run(options: argparse.Namespace) -> int:
    """Write the sum."""
    _formats.require(options.output, ".pb.gz")
    profile = narrow(read(options.files), options)
    with progress("writing"):
        _formats.write(profile, options.output)
    say(f"merged into {options.output}")
    suggest("rprof", "top", options.output)
    return 0
