"""The ``rprof`` command: one module for each verb.

A verb module has ``HELP`` (one line), ``EXAMPLES``, ``add_arguments(parser)`` and
``run(options) -> exit code``. It loads the native module only when it runs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from .._documentation import page
from ..errors import RprofError
from ._console import complain, show_what_can_be_shown

__all__ = ["VERBS", "main"]

VERBS = ("run", "top", "tree", "view", "diff", "merge", "export", "leaks", "live")
"""The verbs, each a module of its name; only what is needed is loaded."""

_DESCRIPTION = "A sampling profiler for Python: profile a program, and read what came out."
_EPILOG = f"""\
examples:
  rprof run -o slow.html app.py        profile a program and write the report page
  rprof top rprof/                     the heaviest functions of a directory's profiles
  rprof view slow.pb.gz                the report page in the browser
  rprof diff before.pb.gz after.pb.gz  what became slower

exit codes: 0 all right, 1 a limit was exceeded (diff --fail-over), 2 bad input or usage;
`rprof run` ends with the exit code of the program.

documentation: {page("index")}
"""


def _module(verb: str) -> ModuleType:
    return import_module(f".{verb}", __package__)


def _parser(wanted: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rprof",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    for name in wanted:
        module = _module(name)
        verb = verbs.add_parser(
            name,
            help=module.HELP,
            description=module.HELP[0].upper() + module.HELP[1:] + ".",
            epilog=f"{module.EXAMPLES}\ndocumentation: {page('reference/command')}\n",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(verb)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: The words after ``rprof``; those of the process without.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    show_what_can_be_shown()
    try:
        try:
            code = _run(words)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except RprofError as error:
        complain(str(error))
        return 2
    except BrokenPipeError:
        # Whoever read the output has seen enough.
        _discard_output()
        return 0
    except OSError as error:
        if error.filename is not None:
            raise
        # One without a file is that of a stream.
        complain(f"cannot write the output: {error.strerror}")
        _discard_output()
        return 2
    except KeyboardInterrupt:
        return 130
    return code


def _run(words: list[str]) -> int:
    parser = _parser(words[:1] if words and words[0] in VERBS else VERBS)
    program: list[str] = []
    if words[:1] == ["run"]:
        words, program = _module("run").split(words)
    options = parser.parse_args(words)
    if options.version:
        from .. import __version__

        print(f"rprof {__version__}")
        return 0
    if options.verb is None:
        parser.print_help()
        return 2
    options.program = program
    return int(_module(options.verb).run(options))


def _discard_output() -> None:
    """Have what Python would flush at exit go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
