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
from support import ENGINE


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

    def names_of_all(self, directory: str) -> set[str]:
        files = (self.directory / directory).glob("*.pb.gz")
        return {row.name for row in rprof.merge(files).top(500)}

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
# Without the two that the C library needs for threads, and SIGTERM, see test_ends.py.
print([(name, int(mask, 16) & 0x7FFFBFFF) for name, mask in masks])
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
    is_there = (program.directory / "out.pb.gz").exists()
    # See test_ends.py.
    assert is_there == (code in (0, 7, 130, 143)) or (code == 143 and ENGINE == "gil")


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


EXECUTES = """
import os, sys
from burning import burn_one, burn_two
if len(sys.argv) == 1:
    burn_one(0.1)
    print("the first", flush=True)
    words = [*sys.argv, "again"]
    {}
burn_two(0.1)
# The engine is what the tests are run with.
ours = sorted(name for name in os.environ if "RPROF" in name.upper() and name != "RPROF_ENGINE")
print("the second", ours)
sys.exit(3)
"""


@pytest.mark.parametrize("output", ["out.pb.gz", "out.md", "out/"])
@pytest.mark.parametrize("option", [(), ("--follow-children",)])
@pytest.mark.parametrize(
    "execute",
    [
        "os.execv(sys.executable, [sys.executable, *words])",
        "os.execlp('python-of-ours', 'python-of-ours', *words)",
        "os.execve(sys.executable, [sys.executable, *words], {**os.environ, 'RPROF_RATE': '1'})",
    ],
)
def test_a_program_that_executes_itself_is_followed(program, execute, option, output):
    """Also along a path: it is tried where it is not first."""
    bin_directory = program.directory / "bin"
    bin_directory.mkdir()
    (bin_directory / "python-of-ours").symlink_to(sys.executable)
    program.environment["PATH"] = f"/nowhere:{bin_directory}:{program.environment['PATH']}"
    # A link to the interpreter of an environment does not know which that is.
    program.environment["PYTHONPATH"] += os.pathsep + str(Path(rprof.__file__).parent.parent)
    program.write(EXECUTES.format(execute))
    done = program.run("-q", "-o", output, *option)
    assert (done.returncode, done.stderr) == (3, "")
    if not option:
        left = "['RPROF_RATE']" if "RPROF_RATE" in execute else "[]"
        assert done.stdout == f"the first\nthe second {left}\n"
    if output == "out.md":
        text = (program.directory / output).read_text()
        assert "burning.burn_one" in text
        assert "burning.burn_two" in text
    else:
        names = program.names(output) if output.endswith("gz") else program.names_of_all(output)
        assert {"burning.burn_one", "burning.burn_two"} <= names
    assert not list(program.directory.glob("rprof-run-*"))


@pytest.mark.parametrize("path", ["'/nowhere'", "os.getcwd()", "'broken'", "None", "'data'"])
def test_a_program_that_cannot_execute_another_goes_on(program, path):
    (program.directory / "broken").write_text("#!/nowhere/python\n")
    (program.directory / "broken").chmod(0o755)
    (program.directory / "data").write_text("no program")
    program.write(
        f"import os\nfrom burning import burn_one, burn_two\nburn_one(0.1)\n"
        f"try:\n    os.execv({path}, ['x'])\nexcept (OSError, TypeError) as error:\n"
        "    print(type(error).__name__, error)\nburn_two(0.1)\n"
    )
    plain = program.run(plain=True)
    done = program.run("-q", "-o", "out.pb.gz")
    assert (done.returncode, done.stdout, done.stderr) == (0, plain.stdout, plain.stderr)
    assert {"burning.burn_one", "burning.burn_two"} <= program.names("out.pb.gz")


def test_a_program_that_executes_a_shell_leaves_all_it_has_recorded(program):
    program.write(
        "import os\nfrom burning import burn_one\nburn_one(0.1)\n"
        "os.execl('/bin/sh', 'sh', '-c', 'env | grep -i rprof; exit 4')\n"
    )
    done = program.run("-q", "-o", "out.pb.gz")
    assert (done.returncode, done.stderr) == (4, "")
    assert "BOOTSTRAP" not in done.stdout.upper()
    assert "burning.burn_one" in program.names("out.pb.gz")


def test_what_executes_is_as_it_was(program):
    program.write(
        "import inspect, os, posix\n"
        "for name in ('execv', 'execve'):\n"
        "    function = getattr(os, name)\n"
        "    print(function.__module__, function.__name__, bool(function.__doc__))\n"
        "    print(getattr(function, '__wrapped__', function) is getattr(posix, name))\n"
    )
    assert program.run("-q").stdout == "os execv True\nTrue\nos execve True\nTrue\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_may_be_closed(program, closed):
    program.write("raise SystemExit(7)")
    shell = ("sh", "-c", f'exec "$@" {closed}', "sh")
    for output in ("out.pb.gz", "out.md"):
        assert program.run("-o", output, before=shell).returncode == 7
        assert (program.directory / output).exists()


SAYS = "import os, sys\nprint('installed', sys.argv == [{path!r}, 'x'], sys.path[0])\n"
SHEBANGS = {
    "a path": "#!{python}\n",
    "env": "#!/usr/bin/env -S python3 -u\n",
    "pip": "#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''\n# -*- coding: utf-8 -*-\n",
    "uv": '#!/bin/sh\n\'\'\'exec\' "$(dirname -- "$(realpath -- "$0")")"/\'python\' "$0" "$@"\n'
    "' '''\n",
    "by hand": '#!/usr/bin/env bash\n""":"\nexec {python} "$0" "$@"\n"""\n',
}


class Installed:
    """A program `shop` on the path, in a directory with a space."""

    def __init__(self, program: Program, first: str) -> None:
        self.program = program
        self.path = program.directory / "my bin" / "shop"
        self.path.parent.mkdir()
        text = first.format(python=sys.executable) + SAYS.format(path=str(self.path))
        self.path.write_text(text)
        self.path.chmod(0o755)
        program.environment["PATH"] = f"{self.path.parent}:{program.environment['PATH']}"

    def run(self, *words: str):
        program = self.program
        return subprocess.run(
            [sys.executable, "-m", "rprof", "run", "-q", "-o", "out.pb.gz", *words],
            cwd=program.directory,
            env=program.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.mark.parametrize("here", ["nothing", "a package", "a package to run", "data"])
@pytest.mark.parametrize("kind", SHEBANGS)
def test_a_name_is_that_of_an_installed_program(program, kind, here):
    installed = Installed(program, SHEBANGS[kind])
    place = program.directory / "shop"
    if here.startswith("a package"):
        place.mkdir()
        (place / "__init__.py").write_text("")
    if here == "a package to run":
        (place / "__main__.py").write_text("print('the package')\n")
    if here == "data":
        place.write_text("print('data')\n")
    done = installed.run("shop", "x")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"installed True {installed.path.parent}\n"
    assert (program.directory / "out.pb.gz").exists()


def test_paths_and_scripts_here_come_before_installed_programs(program):
    installed = Installed(program, SHEBANGS["a path"])
    (program.directory / "shop").mkdir()
    (program.directory / "shop" / "__main__.py").write_text("print('the directory')\n")
    assert installed.run("./shop").stdout == "the directory\n"
    (installed.path.parent / "app.py").write_text(SHEBANGS["a path"].format(python=sys.executable))
    (installed.path.parent / "app.py").chmod(0o755)
    program.write("print('the script')\n")
    assert installed.run("app.py").stdout == "the script\n"


@pytest.mark.parametrize("is_here", [True, False])
def test_an_installed_program_that_is_none_of_python(program, is_here):
    """What is here is run: names such as `test` are those of commands."""
    installed = Installed(program, "#!/bin/sh\nexec something\n")
    if is_here:
        (program.directory / "shop").mkdir()
        (program.directory / "shop" / "__main__.py").write_text("print('the directory')\n")
    done = installed.run("shop")
    if is_here:
        assert (done.returncode, done.stdout) == (0, "the directory\n")
    else:
        assert done.returncode == 2
        assert f"{installed.path} is no Python script" in done.stderr


@pytest.mark.parametrize("words", [("-",), ("--", "-"), ("-", "-x", "y")])
def test_a_program_on_standard_input(program, words):
    done = subprocess.run(
        [sys.executable, "-m", "rprof", "run", "-q", "-o", "out.pb.gz", *words],
        cwd=program.directory,
        env=program.environment,
        input="import burning, sys\nburning.burn_one(0.1)\nprint(sys.argv)\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = f"{list(words[words.index('-') :])}\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")
    assert "burning.burn_one" in program.names("out.pb.gz")
