"""``rprof run``: profile a program that knows nothing of it.

The program is started by its own interpreter, with a ``sitecustomize`` of ours first on its path
that begins the recording and steps aside. So `__main__`, tracebacks, arguments and exit code are
its own. When it has ended, the profiles of its processes are merged and written.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from .._config import OPTIONS, file_options, resolve
from ..errors import RprofOSError, RprofStateError, RprofValueError
from . import _formats, _inputs
from ._console import complain, progress, say, suggest
from ._environment import KEPT, PROBLEM, RUN

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

# A run is watched closely and ends: more than what is fair for a service.
_DEFAULTS = {"rate": 1000.0, "max_overhead": 0.05}
_TOP = 15
_FORWARDED = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGCONT")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options; the program's words have been split off."""
    parser.usage = "rprof run [options] (script.py | -m module | -c code) [argument ...]"
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
        if not word.startswith("-") or word[:2] in ("-m", "-c"):
            break
        k += 2 if word in takes_value else 1
    return list(words[:k]), list(words[k:])


def run(options: argparse.Namespace) -> int:
    """Run the program, write its profile, and return its exit code."""
    command = _interpreter() + _program(options.program)
    output = options.output
    if output is not None and not _is_directory(output):
        _formats.check(output)
    given = {
        name: getattr(options, name)
        for name in ("rate", "engine", "window", "max_overhead")
        if getattr(options, name) is not None
    }
    config = resolve(given, defaults={**_DEFAULTS, **file_options(Path.cwd())})
    scratch = Path(tempfile.mkdtemp(prefix="rprof-run-"))
    keep = False
    try:
        settings = config._asdict() | {
            "output": _in_directory(output) if _is_directory(output) else str(scratch) + os.sep,
            "keep_files": 1_000_000,
            "keep_bytes": 1 << 62,
            "recent": 0,
        }
        if _is_directory(output):
            settings |= {"keep_files": config.keep_files, "keep_bytes": config.keep_bytes}
        code, pid = _execute(command, settings, scratch, follow=options.follow_children)
        problem = scratch / PROBLEM
        if problem.exists():
            complain(f"not profiled: {problem.read_text(encoding='utf-8').strip()}")
        elif _is_directory(output):
            if not options.quiet:
                say(f"profiles in {output}")
                suggest("rprof", "top", output)
        else:
            keep = True
            _finish(options, scratch, pid)
            keep = False
    finally:
        if keep:
            say(f"what was recorded is in {scratch}")
        else:
            shutil.rmtree(scratch, ignore_errors=True)
    if code < 0:
        _die_as_it_did(-code)
    return code


def _is_directory(output: str | None) -> bool:
    return output is not None and (output.endswith(os.sep) or os.path.isdir(output))


def _in_directory(output: str) -> str:
    return os.path.abspath(output) + os.sep


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
    if words[0].startswith("-") or os.path.exists(words[0]):
        return words
    installed = shutil.which(words[0])
    if installed is not None and _is_python_script(installed):
        return [installed, *words[1:]]
    if installed is not None:
        raise RprofValueError(
            f"{installed} is no Python script; rprof run profiles Python programs: a script, "
            "-m module or -c code"
        )
    return words


def _is_python_script(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            first = file.readline(200)
    except OSError as error:
        raise RprofOSError(f"cannot read {path}: {error.strerror}") from error
    return first.startswith(b"#!") and b"python" in first


def _execute(
    command: list[str], settings: dict[str, object], scratch: Path, *, follow: bool
) -> tuple[int, int]:
    """Run the program to its end; return how it ended (as ``subprocess``) and its process id."""
    environment = dict(os.environ)
    variables = ["RPROF_" + name.upper() for name in OPTIONS]
    kept = {name: os.environ[name] for name in variables if name in os.environ}
    if kept:
        environment[KEPT] = json.dumps(kept)
    for name in OPTIONS:
        value = settings[name]
        text = ",".join(value) if isinstance(value, tuple) else str(value)
        environment["RPROF_" + name.upper()] = text
    bootstrap = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_bootstrap")
    path = os.environ.get("PYTHONPATH")
    environment["PYTHONPATH"] = os.pathsep.join([bootstrap, *([path] if path else [])])
    environment[RUN] = f"{'follow' if follow else 'once'}:{os.getpid()}:{scratch}"
    with _signals_for_the_program() as began:
        try:
            process = subprocess.Popen(command, env=environment, close_fds=False)
        except OSError as error:
            raise RprofOSError(f"cannot start {command[0]}: {error.strerror}") from error
        began(process)
        return process.wait(), process.pid


@contextmanager
def _signals_for_the_program() -> Iterator[Callable[[subprocess.Popen[bytes]], None]]:
    """Leave the terminal's signals to the program and pass the others on, once it has begun."""
    running: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        for process in running:
            process.send_signal(number)
        if not running:
            early.append(number)

    def began(process: subprocess.Popen[bytes]) -> None:
        running.append(process)
        for number in early:
            process.send_signal(number)

    before: dict[int, object] = {}
    # The terminal sends these to the program as well; it is in the same process group.
    for name in ("SIGINT", "SIGQUIT"):
        if hasattr(signal, name):
            number = getattr(signal, name)
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, lambda *_: None)
    for name in _FORWARDED:
        if hasattr(signal, name):
            number = getattr(signal, name)
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, forward)
    try:
        yield began
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


def _finish(options: argparse.Namespace, scratch: Path, pid: int) -> None:
    """Merge what the processes have written, and write what was asked for."""
    pattern = "*.pb.gz" if options.follow_children else f"*-{pid}-*.pb.gz"
    files = sorted(scratch.glob(pattern))
    if not files:
        complain(
            "nothing was recorded: the program was killed, or ended by os._exit, before its first "
            "window was over; choose a shorter --window"
        )
        return
    profile = _inputs.read([str(file) for file in files])
    output = options.output or f"{profile.program}-{pid}.pb.gz"
    with progress("writing"):
        _formats.write(profile, output)
    top = options.top
    if top is None and options.output is None and not options.view:
        top = _TOP
    if options.quiet:
        top = None
    if top is not None:
        say(str(profile.top(top)))
    if not options.quiet:
        say(f"profile in {output}")
    if options.view:
        from .view import show

        show(profile)
    elif not options.quiet:
        suggest(*(["xdg-open", output] if output.endswith(".html") else ["rprof", "view", output]))


def _die_as_it_did(number: int) -> None:
    """End by the signal that ended the program, so that a shell sees the same."""
    import resource

    # The core file, if there is to be one, was the program's.
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    sys.stdout.flush()
    sys.stderr.flush()
    os.kill(os.getpid(), number)
