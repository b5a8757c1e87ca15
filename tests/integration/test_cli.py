"""The `rprof` command: `rprof run` leaves no trace in the program, and what the verbs print."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import rprof
from support import ENGINE


class Command:
    """Runs rprof, or a plain interpreter, in a scratch directory."""

    def __init__(self, programs) -> None:
        self.directory = programs.directory
        self.environment = programs.environment()

    def write(self, name: str, text: str) -> None:
        path = self.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def plain(self, *words: str, **options) -> subprocess.CompletedProcess:
        return self._run([sys.executable, *words], **options)

    def rprof(self, *words: str, **options) -> subprocess.CompletedProcess:
        return self._run([sys.executable, "-m", "rprof", *words], **options)

    @contextmanager
    def started(self, *words: str, variables=None, **options) -> Iterator[subprocess.Popen[str]]:
        """A Python process; if the test fails it does not wait for the process's own end."""
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=self.directory,
            env={**self.environment, **(variables or {})},
            text=True,
            **options,
        )
        with process:
            try:
                yield process
            except BaseException:
                process.kill()
                raise

    def _run(self, command, *, variables=None, **options) -> subprocess.CompletedProcess:
        return subprocess.run(
            command,
            cwd=self.directory,
            env={**self.environment, **(variables or {})},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            **options,
        )


@pytest.fixture
def command(programs):
    return Command(programs)


BURN = """
from burning import burn_one, burn_two
burn_one(0.3)
burn_two(0.05)
"""

SEES_ITSELF = """
import __main__, os, pickle, sys, traceback
class Mine: pass
if __name__ == "__main__":
    print(sys.argv, __name__, __file__, __spec__ and __spec__.name, __package__, sys.path)
    print(pickle.loads(pickle.dumps(Mine())).__class__, __main__.Mine is Mine)
    print(sorted(name for name in os.environ if "RPROF" in name or "PYTHON" in name))
    print(os.environ.get("PYTHONPATH"), sys.flags, sys.warnoptions)
    print(sys.stdin.read(), sys.orig_argv[1:])
    traceback.print_stack()
    def fail(): raise KeyError("found nothing")
    fail()
"""


@pytest.mark.parametrize(
    "words",
    [
        ("mine.py", "-o", "x", "--", "-m", "--top"),
        ("-m", "mine", "-o", "x", "--", "-m"),
        ("-m", "package", "a b"),
        ("package", "-c"),
    ],
    ids=" ".join,
)
def test_a_program_sees_nothing_of_it(command, words):
    command.write("mine.py", SEES_ITSELF)
    command.write("package/__init__.py", "")
    command.write("package/__main__.py", SEES_ITSELF)
    plain = command.plain(*words, input="typed in")
    profiled = command.rprof("run", "-q", "-o", "out.pb.gz", *words, input="typed in")
    assert "KeyError: 'found nothing'" in plain.stderr
    assert profiled.stdout == plain.stdout
    assert profiled.stderr == plain.stderr
    assert profiled.returncode == plain.returncode == 1
    rprof.load(command.directory / "out.pb.gz")


def test_code_is_run_with_its_arguments(command):
    done = command.rprof("run", "-q", "-c", "import sys; print(sys.argv); sys.exit(7)", "-o", "-c")
    assert (done.stdout, done.stderr, done.returncode) == ("['-c', '-o', '-c']\n", "", 7)


@pytest.mark.parametrize("ends", ["sys.exit('words')", "os._exit(9)", "os.abort()", "1 / 0"])
def test_a_program_ends_as_it_would(command, ends):
    command.write("ends.py", f"import os, sys\n{ends}\n")
    plain = command.plain("ends.py")
    profiled = command.rprof("run", "-q", "-o", "out.pb.gz", "ends.py")
    assert profiled.returncode == plain.returncode
    # faulthandler shows where in memory its thread is.
    plain_errors, errors = (re.sub("0x[0-9a-f]+", "", e.stderr) for e in (plain, profiled))
    assert errors.startswith(plain_errors)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_signals_reach_the_program(command, number):
    command.write(
        "waits.py",
        f"""
import signal, sys, time
signal.signal({int(number)}, lambda *_: sys.exit(5))
print("ready", flush=True)
# Not one long pause: a signal just before it would be slept through.
while True: time.sleep(0.05)
""",
    )
    words = ("-m", "rprof", "run", "-q", "-o", "out.pb.gz", "waits.py")
    with command.started(*words, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.wait(60) == 5
    assert rprof.load(command.directory / "out.pb.gz").totals["wall"]


def test_a_signal_that_kills_the_program_is_seen_outside(command):
    done = command.rprof(
        "run",
        "-q",
        "-o",
        "out.pb.gz",
        "-c",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    )
    assert done.returncode == -signal.SIGTERM


def test_interrupting_from_the_terminal_still_writes_the_profile(command):
    command.write(
        "busy.py",
        "from burning import burn_one\nburn_one(0.1)\nprint('ready', flush=True)\nburn_one(60)\n",
    )
    terminal, inside = pty.openpty()
    with command.started(
        *("-m", "rprof", "run", "-q", "-o", "out.pb.gz", "busy.py"),
        stdin=inside,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A terminal sends SIGINT to the group in front.
        preexec_fn=lambda: (os.setsid(), __import__("fcntl").ioctl(0, 0x540E, 0)),  # TIOCSCTTY
    ) as process:
        os.close(inside)
        assert process.stdout.readline() == "ready\n"
        os.write(terminal, b"\x03")
        _, errors = process.communicate(timeout=60)
    os.close(terminal)
    assert "KeyboardInterrupt" in errors
    assert "rprof: " not in errors
    assert "rprof/cli" not in errors
    assert process.returncode == -signal.SIGINT
    names = {row.name for row in rprof.load(command.directory / "out.pb.gz").top(50)}
    assert "burning.burn_one" in names


def test_the_summary_and_the_file_without_options(command):
    command.write("app.py", BURN)
    done = command.rprof("run", "app.py")
    assert done.returncode == 0, done.stderr
    (path,) = command.directory.glob("app-*.pb.gz")
    assert f"profile in {path.name}" in done.stderr
    assert "burning.burn_one" in done.stderr
    assert done.stdout == ""
    profile = rprof.load(path)
    assert profile.program == "app"
    assert profile.totals["cpu"] >= 0.3e9


CHILDREN = """
import multiprocessing, os, subprocess, sys
from burning import burn_one, burn_two, burn_three

def work():
    burn_two(0.2)

if __name__ == "__main__":
    burn_one(0.1)
    for method in ("fork", "spawn", "forkserver"):
        process = multiprocessing.get_context(method).Process(target=work)
        process.start()
        process.join()
        assert process.exitcode == 0
    subprocess.run([sys.executable, "-c", "import burning; burning.burn_three(0.2)"], check=True)
"""


def test_children_are_followed_when_asked(command):
    command.write("parent.py", CHILDREN)
    # With the gil engine, 3.10 has no CPU time for the main thread of a forked child.
    by = "cpu" if ENGINE == "direct" else "wall"
    done = command.rprof("run", "-q", "--follow-children", "-o", "all.pb.gz", "parent.py")
    assert (done.returncode, done.stderr) == (0, "")
    rows = {
        row.name: row.total_value
        for row in rprof.load(command.directory / "all.pb.gz").top(500, by)
    }
    assert rows["burning.burn_two"] > 0.4e9, "three processes, 0.2 s each"
    assert "burning.burn_three" in rows
    done = command.rprof("run", "-q", "-o", "one.pb.gz", "parent.py")
    assert (done.returncode, done.stderr) == (0, "")
    rows = {row.name for row in rprof.load(command.directory / "one.pb.gz").top(500, by)}
    assert "burning.burn_one" in rows
    assert not {"burning.burn_two", "burning.burn_three"} & rows


def test_a_program_that_profiles_itself_is_not_disturbed(command):
    command.write(
        "app.py",
        "import rprof\nrprof.start('own/', rate=50)\n"
        + BURN
        + "print(rprof.stop().totals['wall'] > 0)\n",
    )
    done = command.rprof("run", "-q", "-o", "out.pb.gz", "app.py")
    assert (done.stdout, done.stderr, done.returncode) == ("True\n", "", 0)
    for path in (*command.directory.glob("own/*.pb.gz"), command.directory / "out.pb.gz"):
        assert "burning.burn_one" in {row.name for row in rprof.load(path).top(50)}


def test_a_sitecustomize_of_ones_own_still_runs(command):
    command.write("site/sitecustomize.py", "print('mine', __file__)\n")
    path = os.pathsep.join([str(command.directory / "site"), command.environment["PYTHONPATH"]])
    variables = {"PYTHONPATH": path}
    code = "import sys; print(sys.modules['sitecustomize'].__file__, sys.path)"
    plain = command.plain("-c", code, variables=variables)
    done = command.rprof("run", "-q", "-o", "out.pb.gz", "-c", code, variables=variables)
    assert plain.stdout.startswith("mine ")
    assert (done.stdout.splitlines()[-2:], done.stderr) == (plain.stdout.splitlines(), "")


def test_windows_go_to_a_directory(command):
    command.write("app.py", BURN)
    done = command.rprof("run", "--window", "0.1", "-o", "out/", "app.py")
    assert done.returncode == 0, done.stderr
    assert len(list(command.directory.glob("out/app-*.pb.gz"))) >= 3


def test_options_of_the_project_file(command):
    command.write("pyproject.toml", "[tool.rprof]\nrate = 50\n")
    command.write("app.py", BURN)
    if sys.version_info < (3, 11) and not has_tomli():
        assert "install tomli" in command.rprof("run", "app.py").stderr
        return
    command.rprof("run", "-q", "-o", "out.pb.gz", "app.py")
    assert rprof.load(command.directory / "out.pb.gz").period_ns == 20_000_000
    command.rprof("run", "-q", "-r", "100", "-o", "out.pb.gz", "app.py")
    assert rprof.load(command.directory / "out.pb.gz").period_ns == 10_000_000
    command.write("pyproject.toml", "[tool.rprof]\nrates = 50\n")
    done = command.rprof("run", "app.py")
    assert done.returncode == 2
    assert "tool.rprof.rates" in done.stderr
    assert "max_overhead" in done.stderr


def has_tomli() -> bool:
    import importlib.util

    return importlib.util.find_spec("tomli") is not None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run",), "there is no program to run"),
        (("run", "-m"), "-m wants a word"),
        (("run", "-o", "out.xyz", "app.py"), ".pb.gz (pprof)"),
        (("run", "-r", "1e9", "app.py"), "rate=1000000000.0 is out of range"),
        (("run", "--engine", "warp", "app.py"), "'auto', 'direct' or 'gil'"),
        (("run", "ls"), "is no Python script"),
        (("top", "nowhere.pb.gz"), "nowhere.pb.gz"),
        (("top", "app.py"), "app.py"),
        (("top", "empty"), "no .pb.gz file in empty"),
        (("top", "app.pb.gz", "--by", "money"), "it has samples, wall, cpu"),
        (("top", "app.pb.gz", "--focus", "("), "is no regular expression"),
        (("top", "app.pb.gz", "--thread", "nobody"), "no thread is called nobody"),
        (("tree", "app.pb.gz", "--min", "many"), "no percentage"),
        (("merge", "app.pb.gz", "-o", "x.html"), "rprof export"),
        (("export", "app.pb.gz", "-o", "x"), ".html (the report page)"),
        (("diff", "app.pb.gz", "app.pb.gz", "--fail-over", "x"), "no percentage"),
        (("view", "app.pb.gz", "--port", "99999"), "out of range"),
        (("live", "999999999"), "cannot look at process 999999999"),
        (("live", "nowhere"), "no directory of profiles"),
        (("live", "4711", "--tasks"), "--tasks asks an endpoint"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_is_one_clear_sentence(command, words, said):
    command.write("app.py", "pass\n")
    (command.directory / "empty").mkdir()
    with rprof.profile() as block:
        sum(range(1_000_000))
    block.profile.write(command.directory / "app.pb.gz")
    done = command.rprof(*words)
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert said in done.stderr
    assert done.stderr.startswith("rprof: ")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in command.directory.glob("x*")] == []


def test_usage_is_explained(command):
    done = command.rprof()
    assert done.returncode == 2
    assert "examples:" in done.stdout
    for verb in ("run", "top", "tree", "view", "diff", "merge", "export", "leaks", "live"):
        helped = command.rprof(verb, "--help")
        assert helped.returncode == 0
        assert f"rprof {verb}" in helped.stdout
        assert "examples:" in helped.stdout
    assert command.rprof("--version").stdout == f"rprof {rprof.__version__}\n"


@pytest.fixture
def recorded(command):
    """A profile of known functions: app.pb.gz in the scratch directory."""
    command.write("app.py", BURN)
    done = command.rprof("run", "-q", "-o", "app.pb.gz", "app.py")
    assert done.returncode == 0, done.stderr
    return rprof.load(command.directory / "app.pb.gz")


def test_top(command, recorded):
    text = command.rprof("top", "app.pb.gz", "--by", "cpu").stdout
    assert "burning.burn_one" in text
    assert text.startswith("cpu, ")
    data = json.loads(command.rprof("top", "app.pb.gz", "--by", "cpu", "--json", "-n", "2").stdout)
    assert data["total"] == recorded.totals["cpu"]
    assert [row["name"] for row in data["rows"]] == [row.name for row in recorded.top(2, "cpu")]
    data = json.loads(command.rprof("top", "app.pb.gz", "--focus", "burn_two", "--json").stdout)
    assert 0 < data["total"] < recorded.totals["wall"]
    assert "burning.burn_one" not in {row["name"] for row in data["rows"]}
    data = json.loads(command.rprof("top", "app.pb.gz", "--sort", "total", "--json").stdout)
    totals = [row["total_value"] for row in data["rows"]]
    assert totals == sorted(totals, reverse=True)
    data = json.loads(command.rprof("top", "app.pb.gz", "--lines", "--json").stdout)
    assert sum(row["self_value"] for row in data["rows"]) <= recorded.totals["wall"]
    places = {(Path(row["file"]).name, row["line"]) for row in data["rows"]}
    assert ("app.py", 3) in places


def test_tree(command, recorded):
    text = command.rprof("tree", "app.pb.gz", "--by", "cpu").stdout
    assert text.index("app.py") < text.index("burning.burn_one") < text.index("burning.burn_two")
    assert "\x1b[" not in text
    assert "\x1b[" in command.rprof("tree", "app.pb.gz", "--color", "always").stdout


WORKFLOW = Path(__file__).resolve().parents[2] / "examples" / "performance_gate.yml"


def test_the_gate_of_the_example_workflow(command):
    steps = [line.partition("- run: ")[2].split() for line in WORKFLOW.read_text().splitlines()]
    before, after, gate = (words[1:] for words in steps if words[:1] == ["rprof"])
    same = "from burning import burn_one, burn_two\nburn_one(0.3)\nburn_two(0.15)\n"
    command.write("base/benchmark.py", same)
    command.write("benchmark.py", same)
    for words in (before, after):
        assert command.rprof(*words).returncode == 0
    done = command.rprof(*gate)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert "cpu: " in done.stdout
    command.write("benchmark.py", same + "burn_two(0.3)\n")
    assert command.rprof(*after).returncode == 0
    done = command.rprof(*gate)
    assert done.returncode == 1
    assert "burning.burn_two grew by" in done.stderr
    assert "<html" in (command.directory / "diff.html").read_text()
    data = json.loads(command.rprof(*gate, "--json").stdout)
    assert data["largest_regression"]["name"] == "burning.burn_two"


@pytest.mark.parametrize("extension", [".html", ".json", ".folded", ".pstats", ".md", ".pb.gz"])
def test_every_format(command, recorded, extension):
    path = command.directory / f"out{extension}"
    done = command.rprof("export", "app.pb.gz", "-o", path.name)
    assert done.returncode == 0, done.stderr
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_size > 100
    if extension not in (".pstats", ".pb.gz", ".html"):
        assert "burn_one" in path.read_text()
    direct = command.directory / f"direct{extension}"
    done = command.rprof("run", "-q", "-o", direct.name, "app.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert direct.exists()


def test_the_page_is_served_to_this_machine_only(command, recorded):
    words = ("-m", "rprof", "view", "app.pb.gz", "--port", "0", "--no-browser")
    with command.started(*words, stderr=subprocess.PIPE) as process:
        address = process.stderr.readline().split()[1]
        with urllib.request.urlopen(address, timeout=60) as answer:
            assert "<html" in answer.read().decode()
        for path, host, code in (("", "evil.example", 403), ("etc/passwd", "localhost:1", 404)):
            request = urllib.request.Request(address + path, headers={"Host": host})
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(request, timeout=60)
            assert caught.value.code == code
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_long_work_shows_how_far_it_is_on_a_terminal(monkeypatch):
    from rprof.cli import _console

    terminal, inside = pty.openpty()
    monkeypatch.setattr(_console, "_PATIENCE_SECONDS", 0)
    with open(inside, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        with _console.progress("reading", 3) as shown:
            text = b""
            for _ in shown.steps("abc"):
                while b"reading, %d of 3" % shown.done not in text:
                    assert select.select([terminal], [], [], 60)[0], text
                    text += os.read(terminal, 1000)
    os.close(terminal)


def test_merge_and_directories(command, recorded):
    command.rprof("merge", "app.pb.gz", "app.pb.gz", "-o", "twice.pb.gz")
    twice = rprof.load(command.directory / "twice.pb.gz")
    assert twice.totals == {name: 2 * value for name, value in recorded.totals.items()}
    (command.directory / "many").mkdir()
    for number in range(3):
        recorded.write(command.directory / "many" / f"{number}.pb.gz")
    data = json.loads(command.rprof("top", "many", "--by", "samples", "--json").stdout)
    assert data["total"] == 3 * recorded.totals["samples"]


def test_live(command, recorded):
    command.write("quiet/.keep", "")
    assert "no window of quiet is there yet" in command.rprof("live", "quiet", "--once").stderr
    recorded.write(command.directory / "quiet" / "app-1-x.pb.gz")
    text = command.rprof("live", "quiet", "--once", "--by", "cpu").stdout
    assert "of a core" in text
    assert "burning.burn_one" in text
    assert "MainThread" in text


def test_live_of_an_endpoint(command):
    command.write(
        "service.py",
        """
import rprof
from burning import burn_one
print(rprof.serve(token="a-token-of-some-length").address, flush=True)
burn_one(600)
""",
    )
    with command.started("service.py", stdout=subprocess.PIPE) as process:
        address = f"http://{process.stdout.readline().strip()}"
        words = ("live", address, "--once", "--interval", "0.3")
        refused = command.rprof(*words)
        assert refused.returncode == 2
        assert "refuses: a token is needed" in refused.stderr
        done = command.rprof(*words, variables={"RPROF_SERVE_TOKEN": "a-token-of-some-length"})
        assert "burning.burn_one" in done.stdout, done.stderr
        assert "GIL held" in done.stdout
        process.kill()
    assert "does not answer" in command.rprof(*words).stderr


def test_live_of_a_process(command):
    command.write(
        "service.py",
        """
import sys, rprof, rprof.auto
from burning import burn_one
burn_one(0.2)
rprof.flush()
print("ready", flush=True)
sys.stdin.read()
""",
    )
    with command.started(
        "service.py",
        variables={"RPROF_OUTPUT": "seen/"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        done = command.rprof("live", str(process.pid), "--once")
        assert "burning.burn_one" in done.stdout, done.stderr
        # Without --once it ends with the process.
        words = ("-m", "rprof", "live", str(process.pid), "--interval", "0.1")
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with command.started(*words, **pipes) as watching:
            assert "service" in watching.stdout.readline()
            process.stdin.close()
            process.wait(60)
            process.stdin = None
            _, errors = watching.communicate(timeout=60)
    assert "has ended" in errors
    assert watching.returncode == 0


def test_a_reader_that_goes_away_is_no_error(command, recorded):
    words = ("-m", "rprof", "top", "app.pb.gz")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with command.started(*words, **pipes) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait(60)) == ("", 0)
