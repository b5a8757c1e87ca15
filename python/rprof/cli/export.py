"""``rprof export``: a profile in another format."""

from __future__ import annotations

import argparse

from . import _formats
from ._console import progress, say, suggest
from ._inputs import add_filters, add_inputs, add_sample_type, narrow, read

HELP = "write a profile in another format"
EXAMPLES = """\
formats, by the extension of the output:
  .html    the report page: one file, nothing is fetched from anywhere
  .json    speedscope (https://www.speedscope.app), one profile for each thread and sample type
  .folded  collapsed stacks, for flamegraph.pl and inferno
  .pstats  for pstats and SnakeViz; samples are shown as calls
  .md      Markdown, for a bug report or a language model
  .pb.gz   pprof

examples:
  rprof export app.pb.gz -o app.html
  rprof export rprof/ -o cpu.pstats --by cpu
"""


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
    extension = _formats.check(options.output)
    profile = narrow(read(options.files), options)
    with progress("writing"):
        _formats.write(profile, options.output, options.by)
    say(f"{_formats.FORMATS[extension]} in {options.output}")
    suggest(*_NEXT.get(extension, ("less",)), options.output)
    return 0


_NEXT = {
    ".pb.gz": ("rprof", "view"),
    ".html": ("xdg-open",),
    ".json": ("npx", "speedscope"),
    ".pstats": ("snakeviz",),
    ".folded": ("flamegraph.pl",),
}
