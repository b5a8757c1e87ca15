"""`rprof run` is the program: its signals, its end, and what is left when it has none."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import rprof


class Program:
    """Runs `app.py` in a scratch directory, plainly or by `rprof run`."""

    def __init__(self, programs) -> None:
        self.directory = programs.directory
        self.environment = programs.environment()
        self.script = "app.py"

    def write(self, text: str) -> None:
        (self.directory / "app.py").write_text(text)

    def run(self, *options: str, plain: bool = False, before=(), **more):
        return subprocess.run(
            [*before, *self._words(options, plain)],
            cwd=self.directory,
            env=self.environment | more.pop("variables", {}),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            **more,
        )

    @contextmanager
    def started(self, *options: str, plain: bool = False, before=()) -> Iterator[subprocess.Popen]:
        """It is in a session of its own; if the test fails that is ended."""
        with subprocess.Popen(
            [*before, *self._words(options, plain)],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                yield process
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise

    def names(self, path: str) -> set[str]:
        return {row.name for row in rprof.load(self.directory / path).top(500)}

    def _words(self, options, plain: bool) -> list[str]:
        words = [] if plain else ["-m", "rprof", "run", *options]
        return [sys.executable, *words, self.script]


@pytest.fixture
def program(programs):
    return Program(programs)


SEES_ITS_PROCESS = """
import os, signal, sys
print(os.getpgrp() == os.getpid(), os.getppid())
print(sorted(os.listdir("/proc/self/fd")))
with open("/proc/self/status") as status:
    masks = [line.split() for line in status if line.startswith(("SigBlk", "SigIgn", "SigCgt"))]
# Without the two that the C library needs for threads.
print([(name, int(mask, 16) & 0x7FFFFFFF) for name, mask in masks])
print([(n, signal.getsignal(n)) for n in sorted(signal.valid_signals())])
"""


def test_it_is_the_process_that_was_started(program):
    program.write(SEES_ITS_PROCESS + "print(os.getpid(), flush=True)\n")
    seen = []
    for plain in (True, False):
        with program.started("-q", "-o", "out.pb.gz", plain=plain) as process:
            *lines, pid = process.communicate(timeout=60)[0].splitlines()
        assert int(pid) == process.pid
        # The function that is Python's handler of SIGINT is at another address.
        seen.append([re.sub("0x[0-9a-f]+", "", line) for line in lines])
    plain, profiled = seen
    assert profiled[0] == f"True {os.getpid()}"
    assert profiled == plain


ENDS_AT_A_SIGNAL = """
import signal, sys
wanted = {signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT}
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
print("ready", flush=True)
got = []
while signal.SIGQUIT not in got:
    got.append(signal.sigwait(wanted))
print(*(number.name for number in got), len(signal.sigpending()))
"""


def test_what_is_sent_to_the_group_comes_once(program):
    program.write(ENDS_AT_A_SIGNAL)
    with program.started("-q", "-o", "out.pb.gz") as process:
        assert process.stdout.readline() == "ready\n"
        others = [
            entry.name
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and _group_of(entry) == process.pid
        ]
        assert others == [str(process.pid)]
        os.killpg(process.pid, signal.SIGTERM)
        os.killpg(process.pid, signal.SIGQUIT)
        said, _ = process.communicate(timeout=60)
    # The kernel hands out the lower number first.
    assert said in ("SIGTERM SIGQUIT 0\n", "SIGQUIT 1\n")
    assert process.returncode == 0


def _group_of(process: Path) -> int:
    try:
        return os.getpgid(int(process.name))
    except ProcessLookupError:
        return 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
def test_it_ends_by_a_signal_as_it_would(program, number):
    # Not one long pause: a signal just before it would be slept through.
    program.write("import time\nprint('ready', flush=True)\nwhile True: time.sleep(0.05)\n")
    codes = []
    for plain in (True, False):
        with program.started("-q", "-o", "out.pb.gz", plain=plain) as process:
            assert process.stdout.readline() == "ready\n"
            os.killpg(process.pid, number)
            process.wait(60)
        codes.append(process.returncode)
    assert codes == [-number, -number]


UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc")


def needs_a_pid_namespace() -> None:
    done = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"process ids of one's own cannot be had here: {done.stderr.strip()}")


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        ("os.kill(os.getpid(), 9)", 137),
        ("os.kill(os.getpid(), 15)", 143),
        ("import ctypes; ctypes.string_at(0)", 139),
        ("os.abort()", 134),
        ("raise KeyboardInterrupt", 130),
        ("sys.exit(7)", 7),
        # What is left behind is taken in, and nothing more.
        ("os.fork() or os.fork() or os._exit(3)", 0),
    ],
)
def test_as_process_1_it_ends_with_the_code_a_shell_would_show(program, ends, code):
    needs_a_pid_namespace()
    program.write(f"import os, sys\n{ends}\n")
    done = program.run("-q", "-o", "out.pb.gz", before=UNSHARE)
    assert done.returncode == code, done.stderr
    assert (program.directory / "out.pb.gz").exists() == (code in (0, 7, 130))


def test_as_process_1_it_passes_signals_on_once(program):
    needs_a_pid_namespace()
    program.write(ENDS_AT_A_SIGNAL)
    with program.started("-q", "-o", "out.pb.gz", before=UNSHARE) as process:
        assert process.stdout.readline() == "ready\n"
        (first,) = _children(process.pid)
        (second,) = _children(first)
        # What is sent to the group of process 1 does not reach the program as well.
        assert os.getpgid(second) != os.getpgid(first)
        os.kill(first, signal.SIGTERM)
        os.kill(second, 0)
        os.kill(first, signal.SIGQUIT)
        said, _ = process.communicate(timeout=60)
    assert said in ("SIGTERM SIGQUIT 0\n", "SIGQUIT 1\n", "SIGQUIT 0\n")
    assert process.returncode == 0


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


SAYS_WHAT_IT_STARTS = """
import os, sys
STARTS = ("os.posix_spawn", "subprocess.Popen", "os.fork", "os.exec", "os.system")
sys.addaudithook(lambda event, _: event in STARTS and os.write(1, event.encode() + b"\\n"))
from burning import burn_one
burn_one(0.1)
sys.exit(5)
"""


@pytest.mark.parametrize(
    ("options", "starts"),
    [
        (("-o", "out.pb.gz"), ""),
        (("-o", "out/"), ""),
        (("-q",), ""),
        (("-q", "-o", "out.html"), "os.posix_spawn\n"),
        (("-q", "-o", "all.pb.gz", "--follow-children"), "os.posix_spawn\n"),
        (("-o", "out.pb.gz", "--top"), "os.posix_spawn\n"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_another_process_is_started_only_for_what_needs_it(program, options, starts):
    program.write(SAYS_WHAT_IT_STARTS)
    done = program.run(*options)
    assert (done.returncode, done.stdout) == (5, starts), done.stderr
    if "-q" in options:
        assert done.stderr == ""
    else:
        assert f"in {options[1]}\n" in done.stderr
    # Nothing is left of what was written on the way.
    left = {path.name for path in program.directory.iterdir() if path.name != "__pycache__"}
    expected = options[options.index("-o") + 1].rstrip("/") if "-o" in options else "app-"
    assert len(left - {"app.py", "burning.py"}) == 1
    assert any(name.startswith(expected) for name in left)


WAITS_FOR_A_WINDOW = """
import os, sys, time
from burning import burn_one
burn_one(0.1)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
"""


@pytest.mark.parametrize("ends", ["os.kill(os.getpid(), 9)", "os._exit(4)", "os.abort()"])
@pytest.mark.parametrize(
    ("asked", "left"), [("out.pb.gz", "out.pb.gz"), ("out.md", "out.md.pb.gz")]
)
def test_what_was_recorded_before_it_was_killed_is_left(program, asked, left, ends):
    program.write(WAITS_FOR_A_WINDOW.replace("sys.argv[1]", repr(left)) + ends + "\n")
    program.run("-q", "-o", asked, "--window", "0.05")
    assert "burning.burn_one" in program.names(left)
    assert not (program.directory / "out.md").exists()


def test_a_file_that_is_written_again_has_all_windows(program):
    program.write("from burning import burn_one, burn_two\nburn_one(0.3)\nburn_two(0.3)\n")
    done = program.run("-q", "-o", "out.pb.gz", "--window", "0.05")
    assert done.returncode == 0, done.stderr
    profile = rprof.load(program.directory / "out.pb.gz")
    assert {"burning.burn_one", "burning.burn_two"} <= {row.name for row in profile.top(50)}
    assert profile.totals["cpu"] >= 0.6e9
    # Each window once.
    assert profile.totals["cpu"] <= profile.totals["wall"] * 1.05


def test_modules_of_the_program_may_be_called_like_those_of_the_library(program):
    directory = program.directory / "tools"
    directory.mkdir()
    for name in ("argparse", "json", "re", "pathlib", "html", "base64", "subprocess", "signal"):
        (directory / f"{name}.py").write_text(f"print('{name}')")
    (directory / "app.py").write_text("import argparse, json, subprocess\n")
    program.script = "tools/app.py"
    done = program.run("-o", "out.html", "--top", "3")
    assert (done.returncode, done.stdout) == (0, "argparse\njson\nsubprocess\n"), done.stderr
    assert "<html" in (program.directory / "out.html").read_text()
    assert "profile in out.html" in done.stderr


def test_a_directory_that_refuses_does_not_cost_the_run(program):
    (program.directory / "file").write_text("")
    program.write("import sys; sys.exit(7)")
    for asked, written in (("file/out.pb.gz", "out.pb.gz"), ("file/out.md", "out.md")):
        done = program.run("-q", "-o", asked)
        assert done.returncode == 7, done.stderr
        assert done.stderr.startswith("rprof: cannot write to file: Not a directory; ")
        assert done.stderr.count("\n") == 1
        elsewhere = Path(done.stderr.split()[-1])
        assert [path.name for path in elsewhere.iterdir()] == [written]
        (elsewhere / written).unlink()
        elsewhere.rmdir()


def test_a_directory_that_has_gone_does_not_cost_the_profile(program):
    (program.directory / "build").mkdir()
    program.write("import shutil, sys; shutil.rmtree('build'); sys.exit(7)")
    refuge = program.directory / "refuge"
    refuge.mkdir()
    done = program.run("-o", "build/out.pb.gz", variables={"TMPDIR": str(refuge)})
    assert done.returncode == 7
    complaint, where = done.stderr.splitlines()
    assert complaint.startswith("rprof: cannot open the output directory")
    assert where == f"profile in {refuge}/out.pb.gz"
    rprof.load(refuge / "out.pb.gz")


def test_an_interrupt_at_the_end_ends_the_work_there_alone(program):
    program.write("import os, sys\nopen('pid', 'w').write(str(os.getpid()))\nsys.exit(6)\n")
    browser = program.directory / "browser"
    browser.write_text(
        f"#!{sys.executable}\nimport os, sys\n"
        "os.kill(int(open('pid').read()), 2)\nsys.stdin.read()\n"
    )
    browser.chmod(0o755)
    reading, writing = os.pipe()
    try:
        done = program.run(
            *("-o", "out.md", "--view"), variables={"BROWSER": f"{browser} %s"}, stdin=reading
        )
    finally:
        os.close(writing)
        os.close(reading)
    assert done.returncode == 6
    assert "profile in out.md" in done.stderr
    assert done.stderr.endswith("rprof: the work on out.md was not finished: KeyboardInterrupt\n")
    assert "Traceback" not in done.stderr


def test_a_file_that_took_the_place_of_stderr_gets_no_message(program):
    program.write(
        "import os, sys\nos.close(2)\nassert os.open('data', os.O_RDWR | os.O_CREAT) == 2\n"
    )
    for options in (("-o", "out.pb.gz"), ("-o", "out.pb.gz", "-q")):
        done = program.run(*options)
        assert (done.returncode, done.stderr) == (0, "")
        assert (program.directory / "data").read_bytes() == b""


def test_a_program_that_executes_itself_is_followed(program):
    program.write(
        "import os, sys\nfrom burning import burn_one, burn_two\n"
        "if len(sys.argv) == 1:\n"
        "    burn_one(0.1)\n"
        "    os.execv(sys.executable, [sys.executable, *sys.argv, 'again'])\n"
        "burn_two(0.1)\nsys.exit(3)\n"
    )
    done = program.run("-q", "-o", "out.pb.gz", "--follow-children")
    assert (done.returncode, done.stderr) == (3, "")
    assert "burning.burn_two" in program.names("out.pb.gz")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_may_be_closed(program, closed):
    program.write("raise SystemExit(7)")
    shell = ("sh", "-c", f'exec "$@" {closed}', "sh")
    for output in ("out.pb.gz", "out.md"):
        assert program.run("-o", output, before=shell).returncode == 7
        assert (program.directory / output).exists()
