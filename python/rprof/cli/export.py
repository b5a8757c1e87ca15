"""``rprof export``: a profile in another format."""

from __future__ import annotations

import argparse

from .. import _formats
from ._console import progress, say, suggest
from ._inputs import add_filters, add_inputs, add_sample_type, narrow, read

HELP = "write a profile in another format"
EXAMPLES = (
    "formats, by the extension of the output:\n"
    + "".join(f"  {known.extension:<8} {known.about}\n" for known in _formats.FORMATS)
    + """
examples:
  rprof export app.pb.gz -o app.html
  rprof export rprof/ -o cpu.pstats --by cpu
"""
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_inputs(parser)
    parser.add_argument(
        "-o", "--output", required=True, metavar="PATH", help="the file to write, see below"
    )
    add_sample_type(parser)
    add_filters(parser)


def run(options: argparse.Namespace) -> int:
    """Write the file."""
    chosen = _formats.format_of(options.output)
    profile = narrow(read(options.files, options.by), options)
    with progress("writing"):
        remark = chosen.write(profile, options.output, options.by)
    if remark is not None:
        say(remark)
    say(f"{chosen.meaning} in {options.output}")
    suggest(*chosen.viewer, options.output)
    return 0
