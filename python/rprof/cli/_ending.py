"""What ``rprof run`` does when the program has ended, in the program's own process.

The recording is ended after the program's threads and ``atexit`` functions, and its file is written
by the native side. For everything else (other formats, tables, pages) another interpreter is
started: by now modules of the program may have the names of the standard library's, functions may
be patched and memory short. It is in a session of its own, so that what is sent to the program's
process group is sent to the program alone, and is waited for.
"""

# Loaded into the program: without imports that it might not have, so without `from __future__`.

import _signal  # type: ignore[import-not-found]
import atexit
import os
import posix
import sys

from .. import _recordings
from .._config import Config, program_name
from ..errors import RprofError
from ._environment import ALL_FILES, Run

_PACKAGE_PARENT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# Nothing is on its path but the standard library and us.
_FINISH = """\
import sys
sys.path[:] = [entry for entry in sys.path if entry] + [sys.argv.pop(1)]
from rprof.cli import _finish
sys.exit(_finish.main(sys.argv[1:]))
"""
_SUFFIX = ".pb.gz"
# Exit codes of the other interpreter: all is done, or it has said itself what is not.
_TOLD = (0, 2)
# What a program may ignore and another process should not.
_ITS_OWN = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGCHLD, _signal.SIGPIPE)


class Stderr:
    """The standard error stream as it was given to the program."""

    def __init__(self) -> None:
        self._identity = self._look()

    @staticmethod
    def _look() -> "tuple[int, int] | None":
        try:
            found = posix.fstat(2)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def say(self, text: str) -> None:
        """Write a line, unless the stream is closed or something else: perhaps a file with data."""
        if self._identity is None or self._look() != self._identity:
            return
        try:
            posix.write(2, text.encode("utf-8", "backslashreplace") + b"\n")
        except OSError:
            # Nobody reads it any more.
            return

    def is_terminal(self) -> bool:
        """Whether somebody is there to read."""
        return self._identity is not None and posix.isatty(2)


class Ending:
    """Begins the recording of the program, and sees to its end.

    What is called in the end is taken now, while the program has not begun.

    Raises:
        RprofError: There can be no recording.
    """

    def __init__(self, run: Run, config: Config) -> None:
        self._run = run
        self._stderr = Stderr()
        self._getpid, self._waitpid, self._kill = posix.getpid, posix.waitpid, posix.killpg
        self._posix_spawn = posix.posix_spawn
        self._refuge = os.environ.get("TMPDIR") or "/tmp"
        self._executable = sys.executable
        output = run.output
        # A name that nobody has chosen takes the place of none, such as that of an earlier run: in
        # a container each has the same process id.
        self._replaces = not (run.whole and output.endswith(os.sep))
        if not self._replaces:
            output += _recordings.expand("{program}-{pid}" + _SUFFIX, program_name(), 1, 0)
        self._output = output
        self._start = _working_directory()
        self._shown = self._seen(output)
        if run.gathers or not run.whole:
            self._recorded = config.output or output
        else:
            self._recorded = output if output.endswith(_SUFFIX) else output + _SUFFIX
        self._config = config
        self._begin()
        # Before the session's own function, and after all of the program's.
        atexit.register(self._end)

    def _begin(self) -> None:
        if self._run.gathers or not self._run.whole:
            self._recording = _recordings.begin_output(self._config)
        else:
            self._recording = _recordings.begin_growing(
                self._config, self._recorded, replaces=self._replaces
            )

    def is_here(self) -> bool:
        """Return whether this process is the program, and none that it has forked."""
        return self._getpid() == self._run.pid

    def leave(self) -> None:
        """End the recording: the program executes another."""
        self._end_recording()

    def gather(self) -> "tuple[Run, dict[str, object]] | None":
        """Return what to tell an interpreter that goes on in this process, and its options.

        None where it is not to go on, for there is no place.
        """
        run, config = self._run, self._config
        if run.whole and not run.gathers:
            try:
                directory = _new_directory(os.path.dirname(self._output), run.pid)
                if _exists(self._recorded):
                    name = os.path.join(directory, os.path.basename(self._recorded))
                    posix.rename(self._recorded, name)
            except OSError as error:
                self._stderr.say(f"rprof: not profiled any more: {error}")
                return None
            run.gathers = True
            run.output = self._output = self._free_output()
            self._recorded = directory + os.sep
            self._config = config = config._replace(output=self._recorded, **ALL_FILES)
        return run, config._asdict()

    def come_back(self) -> None:
        """Go on recording: the program could not execute another."""
        if self.gather() is None:
            return
        try:
            self._begin()
        except (RprofError, OSError, RuntimeError) as error:
            self._stderr.say(f"rprof: not profiled any more: {error}")

    def _end(self) -> None:
        if not self.is_here():
            return
        try:
            self._finish()
        except BaseException as error:
            # One may come from a handler of the program for a signal, which is in a hurry. How the
            # program ends has been settled.
            self._complain(str(error) or type(error).__name__)

    def _finish(self) -> None:
        run = self._run
        self._end_recording()
        if not run.whole:
            self._tell(f"profiles in {self._shown}", "top")
        elif not _exists(self._recorded):
            self._stderr.say("rprof: nothing was recorded")
        elif not run.view and run.top is None and self._recorded == self._output:
            self._tell(f"profile in {self._shown}", "view")
        else:
            self._output = self._free_output()
            self._shown = self._seen(self._output)
            _flush()
            self._start_other()

    def _end_recording(self) -> None:
        outcome = _recordings.end_output(self._recording)
        _recordings.leave_unless_writing()
        if outcome is None:
            return
        profile, path, problem = outcome
        if path not in (None, self._recorded) and not self._replaces and not self._run.gathers:
            # Its name was taken.
            self._recorded = self._output = path
            self._shown = self._seen(path)
        if problem is None:
            return
        self._stderr.say(f"rprof: {problem}")
        if self._run.gathers or not self._run.whole:
            return
        # What is in memory is worth another try; its directory may be gone.
        refuge = profile.write_new(os.path.join(self._refuge, os.path.basename(self._recorded)))
        self._recorded = refuge
        if self._output.endswith(_SUFFIX):
            self._output = self._shown = refuge

    def _seen(self, path: str) -> str:
        """Return a path as seen from where the program was started, to be given to a command."""
        found = path.removeprefix(self._start) if self._start is not None else path
        return os.path.join(".", found) if found.startswith("-") else found

    def _free_output(self) -> str:
        """Return the file to write in the end; one that was not chosen takes the place of none."""
        output, number = self._output, 1
        while self._run.gathers and not self._replaces and _exists(output):
            number += 1
            output = f"{self._output.removesuffix(_SUFFIX)}-{number}{_SUFFIX}"
        return output

    def _tell(self, text: str, verb: str) -> None:
        if self._run.quiet:
            return
        _flush()
        self._stderr.say(text)
        if self._stderr.is_terminal():
            self._stderr.say(f"next: rprof {verb} {_quoted(self._shown)}")

    def _complain(self, reason: str) -> None:
        """Say what to do by hand."""
        self._stderr.say(f"rprof: the work on {self._shown} was not finished: {reason}")
        if self._recorded != self._output and _exists(self._recorded):
            verb = "merge" if self._run.gathers else "export"
            words = f"{_quoted(self._recorded)} -o {_quoted(self._output)}"
            self._stderr.say(f"rprof: what was recorded is there: rprof {verb} {words}")

    def _start_other(self) -> None:
        """Have another interpreter do the rest, and wait for it."""
        run = self._run
        flags = (run.gathers, run.view, run.quiet)
        words = [
            *(self._executable, "-S", "-c", _FINISH, _PACKAGE_PARENT),
            *(self._recorded, self._output, self._shown),
            *("01"[flag] for flag in flags),
            "" if run.top is None else str(run.top),
        ]
        # The program's own handler would be told of a child that it has not started, and a signal
        # that is ignored would take its exit code away.
        handler = _signal.getsignal(_signal.SIGCHLD)
        if handler is not None:
            _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        try:
            self._wait_for(self._spawn(words))
        finally:
            if handler is not None:
                _signal.signal(_signal.SIGCHLD, handler)

    def _spawn(self, words: "list[str]") -> int:
        spawn, path, environment = self._posix_spawn, self._executable, _environment()
        try:
            return spawn(path, words, environment, setsid=True, setsigmask=(), setsigdef=_ITS_OWN)
        except NotImplementedError:
            # A C library without POSIX_SPAWN_SETSID.
            return spawn(path, words, environment, setpgroup=0, setsigmask=(), setsigdef=_ITS_OWN)

    def _wait_for(self, pid: int) -> None:
        try:
            _, status = self._waitpid(pid, 0)
        except ChildProcessError:
            # A thread of the program that waits for any child was faster.
            return
        except BaseException:
            # With what it has started, such as a browser on this terminal.
            self._kill(pid, _signal.SIGTERM)
            self._waitpid(pid, 0)
            raise
        code = posix.waitstatus_to_exitcode(status)
        if code not in _TOLD:
            self._complain(f"exit code {code}" if code > 0 else f"signal {-code}")


def _environment() -> "dict[str, str]":
    """Return the environment without what would make another interpreter a different one."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "RPROF_")) or name == "PYTHONHOME"
    }


def _working_directory() -> "str | None":
    try:
        return os.path.join(os.getcwd(), "")
    except OSError:
        # It was deleted.
        return None


def _new_directory(parent: str, pid: int) -> str:
    """Make one beside the output; see ``tempfile.mkdtemp``, which would have to be imported."""
    for number in range(1_000):
        path = os.path.join(parent, f"rprof-run-{pid}-{number}")
        try:
            posix.mkdir(path, 0o700)
        except FileExistsError:
            continue
        return path
    raise FileExistsError(f"{path} and all others are there")


def _exists(path: str) -> bool:
    try:
        posix.stat(path)
    except OSError:
        return False
    return True


def _flush() -> None:
    """Write what the program has said first, as the interpreter itself will do in a moment."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            # Closed, or full. The interpreter will find that out as well, and say so.
            continue


def _quoted(path: str) -> str:
    """Return a path as a word for a shell; see ``shlex.quote``, which would have to be imported."""
    plain = path.replace("/", "").replace(".", "").replace("-", "").replace("_", "")
    return path if plain.isalnum() and plain.isascii() else "'" + path.replace("'", "'\"'\"'") + "'"
