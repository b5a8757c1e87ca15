"""``rprof run``: profile a program that knows nothing of it.

This process becomes the program's own interpreter, with a ``sitecustomize`` of ours first on its
path that begins the recording and steps aside. So `__main__`, tracebacks, arguments and exit code
are its own, and so are signals: there is no second process that would pass them on or get them too.
What is to be done in the end is done there (``_ending``).
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .. import _formats
from .._config import file_options, resolve
from ..errors import RprofOSError, RprofStateError, RprofValueError
from ._console import complain
from ._environment import ALL_FILES, Run, shown
from ._scripts import SUFFIXES, is_python_script

HELP = "profile a program"
EXAMPLES = """\
examples:
  rprof run app.py --its-own option            writes app-PID.pb.gz, prints the heaviest functions
  rprof run -o slow.html -m pytest tests/      the report page
  rprof run -o out/ --window 10 server.py      a file every ten seconds, for a long run
  rprof run --follow-children -m build         with all processes it starts

Options of rprof come before the program; what follows belongs to the program. Defaults may be set
in the table [tool.rprof] of pyproject.toml, or by RPROF_RATE and so on. The exit code is that of
the program.
"""

_TOP = 15


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options; the program's words have been split off."""
    parser.usage = "rprof run [options] (script.py | name | -m module | -c code | -) [argument ...]"
    parser.add_argument(
        "-o",
        "--output",
        metavar="PATH",
        help="what to write: .pb.gz, .html, .json, .folded, .pstats or .md, or a directory "
        "that gets a file for each window (default: PROGRAM-PID.pb.gz)",
    )
    parser.add_argument(
        "-r", "--rate", type=float, metavar="HZ", help="ticks per second (default: 1000)"
    )
    parser.add_argument("--engine", metavar="NAME", help="auto, direct or gil (default: auto)")
    parser.add_argument(
        "--window", type=float, metavar="SECONDS", help="length of a window (default: 60)"
    )
    parser.add_argument(
        "--max-overhead",
        type=float,
        metavar="FRACTION",
        help="CPU time of the sampler, of one core; the rate yields (default: 0.05, 0: no limit)",
    )
    parser.add_argument(
        "--memory",
        action="store_true",
        default=None,
        help="sample allocations as well, into a file of their own that ends in .heap.pb.gz",
    )
    parser.add_argument(
        "--follow-children",
        action="store_true",
        help="profile the Python processes that it starts as well",
    )
    parser.add_argument(
        "--top",
        nargs="?",
        type=int,
        const=_TOP,
        metavar="N",
        help=f"print the N heaviest functions on stderr when it has ended ({_TOP} without N)",
    )
    parser.add_argument("--view", action="store_true", help="open the report page in the browser")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split ``run``, rprof's options and the program from each other.

    argparse would take options of the program for its own.
    """
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    takes_value = {
        name
        for action in parser._actions
        if action.nargs is None and action.option_strings
        for name in action.option_strings
    }
    k = 1
    while k < len(words):
        word = words[k]
        if word == "--":
            return list(words[:k]), list(words[k + 1 :])
        if word == "--top" and words[k + 1 : k + 2] and words[k + 1].isdigit():
            k += 1
        if not word.startswith("-") or word == "-" or word[:2] in ("-m", "-c"):
            break
        k += 2 if word in takes_value else 1
    return list(words[:k]), list(words[k:])


def run(options: argparse.Namespace) -> int:
    """Become the program; return only where it has to be another process, with its exit code."""
    command = _interpreter() + _program(options.program)
    whole = not _is_directory(options.output)
    if whole and options.output is not None:
        _formats.format_of(options.output)
    given = {
        name: getattr(options, name)
        for name in ("rate", "engine", "window", "max_overhead", "memory")
        if getattr(options, name) is not None
    }
    config = resolve(given, "run", defaults=_file_options())
    if whole and options.follow_children and config.memory is not None:
        raise RprofValueError(
            "--memory with --follow-children needs a directory, in which each process has files of "
            "its own: use for example -o out/"
        )
    output = _writable(options.output or "") if whole else _absolute(options.output) + os.sep
    settings = config._asdict() | {"output": None if whole else output, "recent": 0}
    if whole and options.follow_children:
        # What each process records, until it is made one; there where it would be looked for.
        directory = tempfile.mkdtemp(prefix="rprof-run-", dir=os.path.dirname(output))
        settings |= {"output": directory + os.sep, **ALL_FILES}
    top = options.top
    if top is None and options.output is None and not options.view:
        top = _TOP
    what = Run(
        pid=0,
        follow=options.follow_children,
        whole=whole,
        gathers=whole and options.follow_children,
        quiet=options.quiet,
        view=options.view and whole,
        top=top if whole and not options.quiet else None,
        output=output,
    )

    def environment_of(pid: int) -> dict[str, str]:
        what.pid = pid
        return shown(os.environ, what, settings)

    _flush()
    if os.getpid() == 1:
        from ._process_1 import be_process_1

        return be_process_1(command, environment_of)
    try:
        os.execve(command[0], command, environment_of(os.getpid()))
    except OSError as error:
        raise RprofOSError(f"cannot start {command[0]}: {error.strerror}") from error


def _file_options() -> dict[str, object]:
    try:
        return file_options(Path.cwd())
    except FileNotFoundError:
        # A directory that was deleted has no project.
        return {}


def _absolute(path: str) -> str:
    try:
        return os.path.abspath(path)
    except FileNotFoundError:
        raise RprofOSError(f"{path} is in a directory that was deleted; use a full path") from None


def _writable(output: str) -> str:
    """Return the absolute path to write, in another directory if this one refuses.

    The program is to run, and its exit code to be its own, whatever is wrong with that.
    """
    given = os.path.dirname(output)
    try:
        directory = os.path.abspath(given)
        # What it is written to in the end takes shape beside it.
        if not os.path.exists(directory):
            os.makedirs(directory, mode=0o700)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        directory = tempfile.mkdtemp(prefix="rprof-run-")
        complain(
            f"cannot write to {given or 'this directory'}: {error.strerror}; "
            f"the profile will be in {directory}"
        )
    return os.path.join(directory, os.path.basename(output))


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        # None where it was closed when this began.
        if stream is not None:
            stream.flush()


def _is_directory(output: str | None) -> bool:
    return output is not None and (output.endswith(os.sep) or os.path.isdir(output))


def _interpreter() -> list[str]:
    flags = sys.flags
    for flag, letter in (
        (flags.isolated, "-I"),
        (flags.ignore_environment, "-E"),
        (flags.no_site, "-S"),
    ):
        if flag:
            raise RprofStateError(
                f"an interpreter with {letter} cannot be told to profile; start rprof without it"
            )
    # What stands between the interpreter and `-m rprof` or the script of this command.
    words = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]
    return [sys.executable, *(words[:-2] if words[-2:-1] == ["-m"] else words[:-1])]


def _program(words: list[str]) -> list[str]:
    """Return the interpreter's arguments for a program."""
    if not words:
        raise RprofValueError(
            "there is no program to run; name a script, -m module or -c code after the options"
        )
    if words[0] in ("-m", "-c") and len(words) < 2:
        raise RprofValueError(f"{words[0]} wants a word: a module, or code")
    name = words[0]
    is_here = os.path.exists(name)
    # As Python has it: a path, or a script here; else as a shell has it, which looks for no
    # program here. Packages often have the name of their program.
    if name.startswith("-") or os.sep in name or (is_here and name.endswith(SUFFIXES)):
        return words
    installed = shutil.which(name)
    if installed is not None and is_python_script(installed):
        return [installed, *words[1:]]
    if installed is not None and not is_here:
        raise RprofValueError(
            f"{installed} is no Python script; rprof run profiles Python programs: a script, "
            "-m module or -c code"
        )
    return words
