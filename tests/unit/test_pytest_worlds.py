"""The pytest plugin where tests replace what Python is made of, and where no file can be made."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import rprof

# By name: what a test does to the world before its body goes on. `patch` is pytest's monkeypatch.
WORLDS = """
import builtins, hashlib, io, logging, os, pathlib, re, shutil, sys, tempfile, threading, time
import pytest

def refuse(*_, **__):
    raise PermissionError("not in this test")

def refuse_import(name, *_, **__):
    raise ImportError(f"there is no {name} in this test")

def nothing_is_made(patch, tmp_path):
    for place, name in ((os, "mkdir"), (os, "makedirs"), (pathlib.Path, "mkdir")):
        patch.setattr(place, name, refuse)

def nothing_is_opened(patch, tmp_path):
    for place, name in ((os, "open"), (io, "open"), (builtins, "open"), (pathlib.Path, "open")):
        patch.setattr(place, name, refuse)

def nothing_is_imported(patch, tmp_path):
    patch.setattr(builtins, "__import__", refuse_import)

def nothing_of_rprof_is_there(patch, tmp_path):
    for name in [name for name in sys.modules if name.split(".")[0] == "rprof"]:
        patch.setitem(sys.modules, name, None)

def another_system(patch, tmp_path):
    patch.setattr(os, "name", "nt")
    patch.setattr(os, "sep", "!")

def another_process(patch, tmp_path):
    patch.setattr(os, "getpid", lambda: 1)

def no_environment(patch, tmp_path):
    patch.setattr(os, "environ", {})

def no_time_passes(patch, tmp_path):
    for name in ("time", "time_ns", "monotonic", "perf_counter", "process_time", "thread_time"):
        patch.setattr(time, name, lambda: 0)

def no_directory(patch, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    patch.chdir(gone)
    gone.rmdir()

def another_directory(patch, tmp_path):
    patch.chdir(tmp_path)

def no_paths(patch, tmp_path):
    for name in ("join", "abspath", "exists", "isdir", "dirname", "basename", "split"):
        patch.setattr(os.path, name, refuse)

def no_text(patch, tmp_path):
    patch.setattr(hashlib, "sha256", refuse)
    patch.setattr(re, "sub", refuse)
    patch.setattr(os, "fsencode", refuse)
    patch.setattr(os, "fspath", refuse)

def no_threads(patch, tmp_path):
    patch.setattr(threading, "Thread", refuse)
    patch.setattr(threading, "current_thread", refuse)

def no_log(patch, tmp_path):
    patch.setattr(logging.Logger, "warning", refuse)
    patch.setattr(logging, "NullHandler", refuse)

def another_path(patch, tmp_path):
    patch.setattr(sys, "path", [])
    patch.setattr(sys, "argv", [])

def a_file_system_of_its_own(patch, tmp_path):
    files = {}
    class Handle(io.StringIO):
        def __init__(self, name):
            super().__init__(files.get(str(name), ""))
            self.path = str(name)
        def close(self):
            files[self.path] = self.getvalue()
            super().close()
    fake_open = lambda name, *_, **__: Handle(name)
    for place in (builtins, io):
        patch.setattr(place, "open", fake_open)
    for name in ("stat", "lstat", "open", "mkdir", "rename", "replace", "scandir", "listdir"):
        patch.setattr(os, name, lambda path, *_, **__: files[path])
    for name in ("exists", "isdir", "isfile"):
        patch.setattr(os.path, name, lambda path: str(path) in files)
    patch.setattr(os, "getcwd", lambda: "/nowhere")

ALL = [nothing_is_made, nothing_is_opened, nothing_is_imported, nothing_of_rprof_is_there,
       another_system, another_process, no_environment, no_time_passes, no_directory,
       another_directory, no_paths, no_text, no_threads, no_log, another_path,
       a_file_system_of_its_own]

# Taken along, for in some of these worlds there is no other clock.
thread_time = time.thread_time

def burn(seconds):
    end = thread_time() + seconds
    while thread_time() < end:
        sum(range(500))
"""

TESTS = """
from worlds import *

@pytest.fixture
def world(request, monkeypatch, tmp_path):
    request.param(monkeypatch, tmp_path)

def test_before():
    burn(0.01)

@pytest.mark.parametrize("change", ALL)
def test_in_the_body(change, monkeypatch, tmp_path):
    change(monkeypatch, tmp_path)
    burn(0.01)

@pytest.mark.parametrize("world", ALL, indirect=True)
def test_in_a_fixture(world):
    burn(0.01)

def test_after():
    burn(0.01)
"""


# What is installed beside it, and would only take time.
OTHERS = ("anyio", "hypothesispytest", "fakefs", "pytest_fakefs", "xdist", "xdist.looponfail")


def run(pytester, *arguments, beside="nothing"):
    """Run pytest in a process of its own, with our plugin and those `beside` it."""
    words = ["-p", "no:cacheprovider"]
    for name in OTHERS:
        if beside not in name:
            words += ["-p", f"no:{name}"]
    return pytester.runpytest_subprocess(*words, *arguments)


def piped(pytester, *words):
    """Run Python and read what it prints from pipes."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=pytester.path,
        env={
            **os.environ,
            "RPROF_OUTPUT": "none",
            "PATH": os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"],
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def outcomes(done):
    text = str(done.stdout) + str(done.stderr)
    assert "INTERNALERROR" not in text
    tests = re.findall(r"^(\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL)", text, re.MULTILINE)
    return done.ret, tests


def assert_the_same(pytester, *arguments, beside="nothing"):
    """Check that with the plugin all is as without, and return that session."""
    plain = run(pytester, "-v", "-p", "no:rprof", beside=beside)
    assert outcomes(plain)[1]
    profiled = run(pytester, "-v", *arguments, beside=beside)
    assert outcomes(profiled) == outcomes(plain)
    return profiled


def profiles(directory):
    """Load what was written, without what is merged of all, and check that against its parts."""
    names = sorted(os.listdir(directory))
    names.remove("combined.pb.gz")
    found = [rprof.load(os.path.join(directory, name)) for name in names]
    combined = rprof.load(os.path.join(directory, "combined.pb.gz"))
    assert combined.totals["cpu"] == sum(profile.totals["cpu"] for profile in found)
    return found


def test_no_world_meets_the_plugin(pytester):
    pytester.makepyfile(worlds=WORLDS, test_it=TESTS)
    result = assert_the_same(pytester, "--rprof-top", "3")
    count = len(outcomes(result)[1])
    assert count > 30
    result.stdout.fnmatch_lines([f"profiles of {count} tests in *", "*heaviest tests by cpu:"])
    assert "missing" not in str(result.stdout)
    found = profiles(pytester.path / ".rprof")
    assert len(found) == count
    assert all(profile.duration_ns > 10_000_000 for profile in found)
    assert sum(profile.totals["samples"] for profile in found) > 0


def test_a_fixture_and_a_budget_hold_in_all_worlds(pytester):
    pytester.makepyfile(
        worlds=WORLDS,
        test_it="""
from worlds import *

@pytest.fixture
def afterwards(rprof):
    yield
    assert rprof.profile.duration_ns > 20_000_000

@pytest.mark.parametrize("change", ALL)
@pytest.mark.rprof(max_cpu="1min", max_share={"nobody": 0.1})
def test_fixture(change, afterwards, monkeypatch, tmp_path, rprof):
    change(monkeypatch, tmp_path)
    burn(0.02)
    assert rprof.stop().duration_ns > 20_000_000

@pytest.fixture
def asked(request):
    return request.getfixturevalue("rprof")

@pytest.mark.parametrize("change", ALL)
def test_asked_by_a_fixture(change, asked, monkeypatch, tmp_path):
    change(monkeypatch, tmp_path)
    burn(0.02)
    assert asked.stop().duration_ns > 20_000_000

def test_asked_in_the_body(request):
    recording = request.getfixturevalue("rprof")
    burn(0.02)
    assert recording.stop().duration_ns > 20_000_000

@pytest.mark.parametrize("change", [nothing_is_made, no_paths, another_process])
@pytest.mark.rprof(max_wall="5ms")
def test_too_much(change, monkeypatch, tmp_path):
    change(monkeypatch, tmp_path)
    burn(0.05)
    monkeypatch.undo()
""",
    )
    result = run(pytester)
    result.assert_outcomes(passed=33, failed=3)
    result.stdout.fnmatch_lines(["*wall time: * ms, more than max_wall = 5.0 ms"] * 3)


def test_what_is_never_put_back(pytester):
    """Replaced at the level of the session, or by whoever forgot to put it back."""
    pytester.makepyfile(
        conftest="""
import builtins, io, os, pathlib, pytest

def only_for_pytest(place, name):
    real = getattr(place, name)
    def call(*arguments, **options):
        if any("rprof" in str(argument) for argument in arguments):
            raise PermissionError("not in this session")
        return real(*arguments, **options)
    setattr(place, name, call)

@pytest.fixture(scope="session", autouse=True)
def world():
    for name in ("mkdir", "open", "stat", "lstat", "rename", "replace", "unlink", "scandir"):
        only_for_pytest(os, name)
    for place in (builtins, io):
        only_for_pytest(place, "open")
    only_for_pytest(pathlib.Path, "mkdir")
    only_for_pytest(pathlib.Path, "open")
""",
        test_it="import pytest\n@pytest.mark.parametrize('number', range(3))\n"
        "def test_it(number): pass\n",
    )
    result = assert_the_same(pytester, "--rprof-top", "1", "--rprof-dir", "kept/of/rprof")
    result.stdout.fnmatch_lines(["profiles of 3 tests in *", "*heaviest tests by cpu:"])
    assert len(profiles(pytester.path / "kept" / "of" / "rprof")) == 3


@pytest.mark.parametrize(
    "refused",
    [
        # What is ours; that has been imported.
        "'rprof' in name or (ours and level)",
        # All that is imported by what is ours: nothing is.
        "ours",
    ],
)
def test_what_a_module_of_tests_replaces_when_it_is_imported(pytester, refused):
    pytester.makepyfile(
        test_it="""
import builtins, os

real = builtins.__import__

def without_rprof(name, globals=None, locals=None, fromlist=(), level=0):
    ours = (globals or {}).get("__name__", "").startswith("rprof")
    if REFUSED:
        raise ImportError("not in this session")
    return real(name, globals, locals, fromlist, level)

def nothing_more(*_, **__):
    raise PermissionError("not in this session")

builtins.__import__ = without_rprof
os.mkdir = os.makedirs = os.rename = os.replace = nothing_more

def test_one(): pass
def test_two(): pass
""".replace("REFUSED", refused)
    )
    result = assert_the_same(pytester, "--rprof-top", "1")
    result.stdout.fnmatch_lines(["profiles of 2 tests in *"])


def test_a_fixture_that_cannot_record_says_why(pytester):
    pytester.makepyfile(
        test_it="""
import builtins

real = builtins.__import__

def without_blocks(name, globals=None, locals=None, fromlist=(), level=0):
    if level and name == "_block":
        raise ImportError("not in this session")
    return real(name, globals, locals, fromlist, level)

builtins.__import__ = without_blocks

def test_it(rprof): pass
"""
    )
    result = run(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*recording is not possible here: ImportError*"])


WATCHED = """
import builtins, hashlib, io, logging, os, pathlib, posixpath, re, shutil, sys, tempfile, threading
import time, types
import functools
import pytest

asked = []
PLACES = [os, posixpath, pathlib.Path, pathlib.PurePath, io, time, hashlib, re, shutil, tempfile,
          threading, logging, type(os.environ)]
get_frame = sys._getframe

def watched(where, name, function):
    @functools.wraps(function)
    def call(*arguments, **options):
        frame = get_frame(1)
        while frame is not None:
            caller = frame.f_globals.get("__name__", "").partition(".")[0]
            if caller == "rprof":
                asked.append(f"{where.__name__}.{name} by {frame.f_code.co_name}")
            if caller in ("rprof", "_pytest", "pluggy", "test_it"):
                break
            frame = frame.f_back
        return function(*arguments, **options)
    return call

@pytest.fixture(scope="session", autouse=True)
def world():
    kinds = types.FunctionType, types.BuiltinFunctionType
    for place in PLACES:
        for name, function in list(vars(place).items()):
            if isinstance(function, kinds) and not name.startswith("_"):
                setattr(place, name, watched(place, name, function))
    environment = type(os.environ)
    environment.__getitem__ = watched(environment, "__getitem__", environment.__getitem__)
    for name in ("open", "__import__"):
        setattr(builtins, name, watched(builtins, name, getattr(builtins, name)))
    # That it would be seen.
    exec("import os; os.getcwd(); os.environ.get('X')", {"__name__": "rprof.probe"})
    assert [line.split(" ")[0] for line in asked] == [
        "builtins.__import__", "os.getcwd", "_Environ.__getitem__"
    ]
    asked.clear()

@pytest.hookimpl(trylast=True)
def pytest_unconfigure():
    # After the last report.
    print("ASKED", asked)
"""


@pytest.mark.parametrize("options", [(), ("--rprof-top", "2")])
def test_nothing_is_asked_of_what_a_test_may_replace(pytester, options):
    pytester.makepyfile(
        conftest=WATCHED,
        test_it="""
import pytest

def test_with_the_fixture(rprof):
    sum(range(100_000))
    assert rprof.stop().duration_ns > 0

@pytest.mark.rprof(max_wall="1min", max_share={"x": 1.0})
def test_with_a_budget(): sum(range(100_000))

def test_plain(): sum(range(100_000))
""",
    )
    result = run(pytester, *options)
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["ASKED []"])


@pytest.mark.parametrize("scope", ["fs", "fs_module", "fs_session"])
def test_pyfakefs(pytester, scope):
    pytester.makepyfile(
        test_it=f"""
import os, pathlib, pytest

def test_before(): pass

def test_fake({scope}):
    {scope}.create_dir("/data")
    pathlib.Path("/data/x.txt").write_text("hi")
    assert os.listdir("/data") == ["x.txt"]
    with open("/data/x.txt") as file:
        assert file.read() == "hi"

def test_after(): pass
"""
    )
    result = assert_the_same(pytester, "--rprof-top", "2", beside="fakefs")
    result.stdout.fnmatch_lines(["profiles of 3 tests in *"])
    assert len(profiles(pytester.path / ".rprof")) == 3


def test_pyfakefs_and_the_fixture_asked_for_within(pytester):
    pytester.makepyfile(
        """
import pytest, rprof as package

@pytest.mark.parametrize("number", range(2))
def test_fake(fs, request, number):
    recording = request.getfixturevalue("rprof")
    sum(range(100_000))
    assert recording.stop().duration_ns > 0

def test_after(rprof):
    sum(range(100_000))
    profile = rprof.stop()
    profile.write("x.pb.gz")
    assert package.load("x.pb.gz").totals == profile.totals
"""
    )
    run(pytester, beside="fakefs").assert_outcomes(passed=3)


def test_workers_of_xdist_in_all_worlds(pytester):
    pytester.makepyfile(worlds=WORLDS, test_it=TESTS)
    result = run(pytester, "-n", "2", "--rprof", beside="xdist")
    count = sum(result.parseoutcomes().values())
    result.assert_outcomes(passed=count)
    result.stdout.fnmatch_lines([f"profiles of {count} tests in *"])
    assert len(profiles(pytester.path / ".rprof")) == count


def test_workers_elsewhere_write_where_the_controller_looks(pytester):
    pytester.mkdir("elsewhere")
    project = pytester.mkdir("project")
    (project / "test_it.py").write_text("def test_one(): pass\ndef test_two(): pass\n")
    where = ["--tx", "2*popen//chdir=elsewhere", "-d", "--rsyncdir", str(project)]
    words = ["--rprof", "--rprof-dir", "kept", str(project)]
    run(pytester, *where, *words, beside="xdist").assert_outcomes(passed=2)
    assert len(profiles(pytester.path / "kept")) == 2


MAIN = "import sys, pytest\nsys.exit(pytest.main(sys.argv[1:]))"
# How pytest may be begun after rprof: the words before its own arguments.
BEGUN = {
    "rprof run -m pytest": ["-m", "rprof", "run", "-q", "-o", "x.pb.gz", "-m", "pytest"],
    "rprof run pytest": ["-m", "rprof", "run", "-q", "-o", "x.pb.gz", "pytest"],
    "rprof.auto": ["-c", f"import rprof.auto\n{MAIN}"],
    "rprof.auto, twice": ["-c", f"import rprof.auto\n{MAIN}", "-p", "rprof.auto"],
    "all of it": ["-c", f"import rprof.pytest_plugin\nrprof.profile\n{MAIN}"],
}


@pytest.mark.parametrize("begun", BEGUN)
@pytest.mark.parametrize("strict", ["", "option", "ini"])
def test_pytest_does_not_warn_of_what_is_imported(pytester, begun, strict):
    if strict == "ini":
        pytester.makeini("[pytest]\nfilterwarnings = error\n")
    pytester.makepyfile("def test_one(): assert True\ndef test_two(): assert False\n")
    strictly = ["-W", "error"] if strict == "option" else []
    done = piped(pytester, *BEGUN[begun], "-p", "no:cacheprovider", *strictly)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    assert "already imported" not in done.stdout + done.stderr
    assert re.search(r"^=+ 1 failed, 1 passed in ", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    "directory",
    [
        "a_file",  # is none
        "a_file/below",
        "/proc/rprof",  # where even root can make nothing
        "x" * 300,
    ],
)
def test_a_directory_that_cannot_be_had_changes_no_outcome(pytester, directory):
    pytester.path.joinpath("a_file").write_text("")
    pytester.makepyfile("def test_one(): pass\ndef test_two(): assert False\n")
    result = assert_the_same(pytester, "--rprof-top", "1", "--rprof-dir", directory)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    lines = [line for line in result.outlines if line.startswith("profiles missing: ")]
    assert len(lines) == 1
    assert re.search(r"^profiles missing: 2; cannot (make|open) .+: ", lines[0])


# Not a byte fits into a file. What pytest writes must not be captured, and go to a pipe.
FULL = """
import resource, pytest

@pytest.hookimpl(trylast=True)
def pytest_sessionstart():
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
"""


@pytest.mark.parametrize(
    ("since", "there", "said"),
    [
        ("sessionstart", [], "profiles missing: 2; cannot write test_it.py.test_one"),
        ("sessionfinish", ["one", "two"], "profiles missing: 1; cannot write combined.pb.gz"),
    ],
)
def test_a_full_disk_changes_no_outcome(pytester, since, there, said):
    pytester.makepyfile(
        conftest=FULL.replace("sessionstart", since),
        test_it="def test_one(): pass\ndef test_two(): pass\n",
    )
    done = piped(pytester, "-m", "pytest", "-p", "no:cacheprovider", "-s", "--rprof-top", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 2 passed in " in done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith("profiles missing")]
    assert len(lines) == 1
    assert lines[0].startswith(said)
    assert "File too large" in lines[0]
    names = sorted(os.listdir(pytester.path / ".rprof"))
    assert [name.split("-")[0] for name in names] == [f"test_it.py.test_{n}" for n in there]


def test_files_that_somebody_has_removed(pytester):
    pytester.makepyfile(
        """
import os, shutil

def test_one(): pass
def test_two(): shutil.rmtree(".rprof", ignore_errors=True)
def test_three(): pass
"""
    )
    result = assert_the_same(pytester, "--rprof-top", "5")
    result.stdout.fnmatch_lines(
        ["profiles of 2 tests in *", "profiles missing: 1; cannot read *test_one*"]
    )
    assert len(profiles(pytester.path / ".rprof")) == 2


INTERRUPTED = """
import pytest
def test_one(): pass
def test_two(): raise WHAT
def test_three(): pass
"""


@pytest.mark.parametrize(
    ("what", "options", "kept"),
    [
        ("KeyboardInterrupt", (), 2),
        ("pytest.exit.Exception('enough', 9)", (), 2),
        ("ValueError", ("-x",), 2),
        ("ValueError", ("-p", "no:terminal"), 3),
        ("ValueError", ("--co",), 0),
        ("ValueError", ("-k", "nobody"), 0),
        ("ValueError", ("--setup-only",), 0),
        ("ValueError", ("-p", "no:terminal", "-n", "2"), 3),
    ],
)
def test_sessions_that_end_otherwise(pytester, what, options, kept):
    pytester.makepyfile(INTERRUPTED.replace("WHAT", what))
    beside = "xdist" if "-n" in options else "nothing"
    plain = run(pytester, "-p", "no:rprof", *options, beside=beside)
    profiled = run(pytester, "--rprof", *options, beside=beside)
    assert profiled.ret == plain.ret
    assert "INTERNALERROR" not in str(profiled.stdout) + str(profiled.stderr)
    directory = pytester.path / ".rprof"
    assert (len(profiles(directory)) if directory.exists() else 0) == kept


def test_only_what_failed_last(pytester):
    pytester.makepyfile(INTERRUPTED.replace("WHAT", "ValueError"))
    for kept in (3, 1):
        result = pytester.runpytest_subprocess("--lf", "--rprof", "--rprof-dir", f"kept-{kept}")
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        assert len(profiles(pytester.path / f"kept-{kept}")) == kept


def test_the_report_is_as_without(pytester):
    pytester.makepyfile(
        "def test_one(record_property): record_property('mine', 1)\ndef test_two(): assert False\n"
    )
    texts = []
    for options in (["-p", "no:rprof"], ["--rprof"]):
        run(pytester, "--junit-xml=report.xml", *options)
        text = pytester.path.joinpath("report.xml").read_text(encoding="utf-8")
        texts.append(re.sub(r'(time|timestamp)="[^"]*"', "", text))
    assert texts[0] == texts[1]
    assert 'name="mine"' in texts[0]


def test_where_recording_is_not_possible(pytester):
    """Only who asks for a recording by name is refused."""
    pytester.makepyfile(
        conftest="import os\nos.environ['RPROF_ENGINE'] = 'none such'\n",
        test_it="""
import pytest

def test_plain(): pass
def test_fixture(rprof): pass
@pytest.mark.rprof(max_cpu=1)
def test_budget(): pass
""",
    )
    result = run(pytester, "--rprof", "-k", "plain")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["profiles missing: 1; RPROF_ENGINE='none such' is unknown*"])
    result = run(pytester, "--rprof")
    result.assert_outcomes(passed=1, failed=2)


def test_a_test_that_forks(pytester):
    pytester.makepyfile(
        """
import os

def test_it(rprof):
    child = os.fork()
    if child == 0:
        try:
            rprof.stop()
        except Exception as error:
            os._exit(7 if "the parent" in str(error) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert rprof.stop().duration_ns > 0
"""
    )
    result = run(pytester, "--rprof")
    result.assert_outcomes(passed=1)
    assert len(profiles(pytester.path / ".rprof")) == 1
