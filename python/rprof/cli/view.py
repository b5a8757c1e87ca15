"""``rprof view``: the report page in the browser."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .. import _formats
from ..errors import RprofValueError
from ._console import progress, say, suggest
from ._inputs import add_filters, add_inputs, narrow, read

if TYPE_CHECKING:
    from .._profile import Profile

HELP = "open the report page"
EXAMPLES = """\
examples:
  rprof view app.pb.gz                    write the page and open the browser
  rprof view rprof/ -o report.html --no-browser
  rprof view app.pb.gz --port 8000 --no-browser      serve it, for an ssh -L tunnel
  rprof view new.pb.gz --baseline old.pb.gz          the difference, in two colours
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_inputs(parser)
    parser.add_argument("-o", "--output", metavar="PATH", help="write the page there (.html)")
    parser.add_argument("--baseline", metavar="OLD", help="show the difference from this profile")
    parser.add_argument(
        "--source", action="store_true", help="put the source of the hot files into the page"
    )
    parser.add_argument(
        "--port", type=int, metavar="N", help="serve the page on 127.0.0.1 (0: any port)"
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    add_filters(parser)


def run(options: argparse.Namespace) -> int:
    """Write or serve the page."""
    if options.port is not None and not 0 <= options.port <= 65535:
        raise RprofValueError(f"--port {options.port} is out of range; choose 0 to 65535")
    if options.output is not None:
        _formats.require(options.output, ".html")
    profile = narrow(read(options.files), options)
    baseline = narrow(read([options.baseline]), options) if options.baseline else None
    with progress("writing the page"):
        page = profile.to_html(baseline=baseline, source=options.source)
    if options.port is not None:
        from ._page_server import serve

        return serve(page, options.port, None if options.no_browser else open_browser)
    path = options.output or _page_path(Path(options.files[0]).name)
    _formats.write_text(path, page)
    say(f"report page in {path}")
    if not options.no_browser:
        open_browser(Path(path).absolute().as_uri())
    elif options.output is not None:
        suggest("xdg-open", path)
    return 0


def show(profile: Profile) -> None:
    """Write a profile's page to a temporary file and open the browser."""
    path = _page_path(profile.program)
    _formats.write_text(path, profile.to_html())
    say(f"report page in {path}")
    open_browser(Path(path).absolute().as_uri())


def _page_path(name: str) -> str:
    directory = tempfile.mkdtemp(prefix="rprof-view-")
    return os.path.join(directory, name.removesuffix(".pb.gz") + ".html")


def open_browser(address: str) -> None:
    """Open the browser, or say that there is none."""
    import webbrowser

    if not webbrowser.open(address):
        say(f"no browser could be started; open {address}")
