"""What importing and starting rprof brings into a process, and what it needs of it later."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import rprof
from support import ENGINE

# `-S` leaves site and with it os out; the package is then found by a path of its own.
PACKAGES = str(Path(rprof.__file__).parent.parent)
NEW = f"""
import sys
sys.path.append({PACKAGES!r})
before = set(sys.modules)
{{code}}
new = {{{{name for name in set(sys.modules) - before if name.partition(".")[0] != "rprof"}}}}
"""
# atexit is part of the interpreter, not a file.
START_NEEDS = {"atexit"}


def environment(**variables):
    kept = {name: text for name, text in os.environ.items() if not name.startswith("RPROF_")}
    return {**kept, **variables}


def check(code, *options, **variables):
    done = subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(code)],
        env=environment(RPROF_OUTPUT="none", RPROF_ENGINE=ENGINE, **variables),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("options", [(), ("-I",), ("-S",), ("-I", "-S")], ids=" ".join)
def test_importing_brings_nothing_along(options):
    check(NEW.format(code="import rprof") + "assert not new, new", *options)


@pytest.mark.parametrize("engine", ["direct", "gil"])
def test_starting_brings_nothing_along(engine):
    check(
        NEW.format(
            code=f"""
import rprof
rprof.start(None, engine={engine!r})
sum(range(10**6))
with rprof.profile(engine={engine!r}) as block: sum(range(10**6))
rprof.status(); rprof.dump(); rprof.recent(60)
assert rprof.stop().top(3) and block.profile.threads[0].name == "MainThread"
"""
        )
        + f"assert new == {START_NEEDS!r}, new"
    )


@pytest.mark.parametrize("variables", [{}, {"RPROF_NO_SUCH_OPTION": "1"}], ids=["", "and warns"])
def test_starting_from_the_environment_brings_nothing_along(variables):
    check(
        NEW.format(code="import rprof.auto")
        + f"assert new == {START_NEEDS!r}, new; import rprof; assert rprof.is_running()",
        **variables,
    )


def test_an_endpoint_brings_no_threading():
    code = "import rprof.auto, sys; assert 'threading' not in sys.modules; import rprof"
    check(f"{code}; assert rprof.status().endpoint", RPROF_SERVE="127.0.0.1:0")


SUBINTERPRETER = """
import sys
try: import _interpreters as interpreters
except ImportError: import _xxsubinterpreters as interpreters
from concurrent import futures
where = interpreters.create()
def run(code):
    failed = interpreters.run_string(where, code)
    assert failed is None, failed
"""


@pytest.mark.parametrize("in_main", ["import rprof.auto", "pass"])
def test_a_sub_interpreter_is_left_alone(in_main):
    check(
        SUBINTERPRETER
        + f"""
{in_main}
run(
    "import sys; before = set(sys.modules)\\n"
    "import rprof.auto\\n"
    "new = [name for name in set(sys.modules) - before if not name.startswith('rprof')]\\n"
    "assert not new, new\\n"
    "assert 'rprof._continuous' not in sys.modules\\n"
)
interpreters.destroy(where)
"""
    )


def test_a_sub_interpreter_is_told_when_it_asks():
    check(
        SUBINTERPRETER
        + """
run(
    "import rprof\\n"
    "try: rprof.start(None)\\n"
    "except rprof.RprofStateError as error: assert 'sub-interpreter' in str(error), error\\n"
    "else: raise SystemExit('started')\\n"
)
interpreters.destroy(where)
"""
    )


def test_children_of_multiprocessing_keep_their_last_window(programs):
    """It is imported after rprof was started, and threading with it."""
    programs.check(
        """
        import sys, rprof
        rprof.start("out/", window=60)
        assert "threading" not in sys.modules
        import multiprocessing
        from burning import burn
        process = multiprocessing.get_context("fork").Process(target=burn, args=(0.2,))
        process.start(); process.join()
        assert process.exitcode == 0
        """
    )
    assert len(programs.profiles("out")) == 2


@pytest.mark.parametrize("then", ["import logging", "pass"])
def test_a_fork_does_not_warn_whenever_logging_is_imported(programs, then):
    programs.check(
        f"""
        import os, rprof
        rprof.start(None)
        {then}
        for _ in range(5):
            child = os.fork()
            if child == 0: os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        assert rprof.stop().totals
        """,
        "-W",
        "error",
    )


# The files of rprof go, and nothing else can be imported either.
NO_FILES = """
import os, sys
def leave():
    import shutil
    shutil.rmtree(os.path.join(sys.path[0], "rprof"))
    sys.path[:] = []
    sys.path_importer_cache.clear()
    # What is built in or frozen is there as ever.
    kept = ("BuiltinImporter", "FrozenImporter")
    finders = [finder for finder in sys.meta_path if getattr(finder, "__name__", "") in kept]
    sys.meta_path[:] = finders
"""


@pytest.fixture
def moved(programs):
    """A program whose own copy of rprof lies beside it."""
    shutil.copytree(
        Path(rprof.__file__).parent,
        programs.directory / "rprof",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    return programs


LATE = {
    "a block": """
        with rprof.profile("x.pb.gz") as block: leave(); burn(0.1)
        assert block.profile.top(3) and os.path.exists("x.pb.gz")
    """,
    "a decorated function": """
        @rprof.profile()
        def work(): burn(0.1); return 42
        leave()
        assert work() == 42 and work.profiler.profile.top(3)
    """,
    "a recording": """
        rprof.start("out/", window=0.1)
        leave()
        burn(0.3)
        assert rprof.recent(60).top(3) and rprof.status().running and rprof.dump()
        profile = rprof.stop()
        assert profile.top(3) and profile.tree() and profile.to_collapsed() and profile.to_bytes()
    """,
    "a file in between": """
        rprof.start("out/")
        leave()
        burn(0.1)
        try: path = rprof.flush()
        except rprof.RprofStateError as error: path = str(error)
        assert ".pb.gz" in str(path)
        rprof.stop()
    """,
    "a fork": """
        rprof.start("out/")
        leave()
        child = os.fork()
        if child == 0: rprof.stop(); os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    """,
    "the end": """
        rprof.start("out/")
        leave()
        burn(0.1)
    """,
    "an endpoint": """
        endpoint = rprof.serve("127.0.0.1:0")
        leave()
        endpoint.stop()
    """,
    "labels": """
        rprof.labels
        leave()
        with rprof.labels(a="b"): assert rprof.current_labels() == {"a": "b"}
    """,
    "labels and requests of a started program": """
        rprof.start(None)
        leave()
        with rprof.labels(a="b"): assert rprof.current_labels() == {"a": "b"}
        with rprof.request("one", route="/x"): burn(0.1)
        with rprof.request("two", slow_after=0.05): burn(0.1)
        assert "slow requests are not told" in rprof.status().last_error
        assert rprof.stop().only_labels(route="/x").totals["cpu"] > 0.05e9
    """,
    "a report page": """
        with rprof.profile() as block: burn(0.1)
        leave()
        try: block.profile.to_html()
        except rprof.RprofStateError as error: assert "write the profile" in str(error), error
        else: raise SystemExit("a page")
    """,
    "a first start": """
        leave()
        try: rprof.start
        except ImportError: pass
    """,
    "a start after a block": """
        with rprof.profile() as block: burn(0.05)
        block.profile.write("x.pb.gz")
        leave()
        assert rprof.load("x.pb.gz").totals == block.profile.totals
        rprof.start(None)
        burn(0.05)
        assert rprof.status().running and rprof.dump() and rprof.stop().top(3)
    """,
    "a late start": """
        rprof.start
        leave()
        try: rprof.start(None)
        except rprof.RprofStateError as error: assert "is not there any more" in str(error), error
        else: raise SystemExit("started")
    """,
}


@pytest.mark.parametrize("what", LATE)
def test_nothing_is_imported_late(moved, what):
    prologue = "import rprof\nfrom burning import burn\n"
    moved.check(NO_FILES + prologue + textwrap.dedent(LATE[what]))


@pytest.mark.skipif(ENGINE != "direct", reason="the watcher looks without the GIL")
def test_a_slow_request_is_told_without_files(moved):
    printed = moved.check(
        NO_FILES
        + textwrap.dedent("""
        import logging, threading, rprof
        from burning import burn
        from rprof.middleware.wsgi import WSGIMiddleware
        told = threading.Event()
        class Lines(logging.Handler):
            def emit(self, record):
                print(record.getMessage(), flush=True)
                if "took" in record.getMessage(): told.set()
        logging.getLogger("rprof.slow").addHandler(Lines())
        def application(environ, start_response):
            burn(0.3)
            return [b"x"]
        serve = WSGIMiddleware(application, slow_after=0.1)
        leave()
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/a", "SCRIPT_NAME": ""}
        assert b"".join(serve(environ, lambda *_: None)) == b"x"
        assert told.wait(20)
        """)
    )
    assert "is slow" in printed
    assert "/rprof/slow-" in printed


def test_a_package_in_an_archive_says_what_to_do(programs):
    archive = shutil.make_archive(
        str(programs.directory / "bundle"), "zip", Path(rprof.__file__).parent.parent, "rprof"
    )
    programs.check(
        f"""
        import sys
        sys.path.insert(0, {archive!r})
        import rprof
        assert rprof.__file__.startswith({archive!r}), rprof.__file__
        for call in (lambda: rprof.start(None), rprof.dump, lambda: rprof.profile().__enter__()):
            try: call()
            except rprof.RprofStateError as error:
                assert {archive!r} in str(error) and "unpack it" in str(error), error
                assert "sub-interpreter" not in str(error)
            else: raise SystemExit("started from an archive")
        import rprof.auto
        """
    )


def test_a_missing_library_is_told_as_such(moved):
    for library in (moved.directory / "rprof").glob("_native*.so"):
        library.unlink()
    moved.check(
        """
        import rprof
        try: rprof.start(None)
        except rprof.RprofStateError as error:
            assert "_native" in str(error) and "install" in str(error), error
            assert "sub-interpreter" not in str(error)
        else: raise SystemExit("started")
        """
    )


def test_data_files_are_not_needed(moved):
    """What freezes programs takes modules along, and leaves other files out."""
    for path in (moved.directory / "rprof").rglob("*"):
        if path.is_file() and path.suffix not in (".py", ".so"):
            path.unlink()
    moved.check(
        """
        import os, rprof
        assert rprof.__file__.startswith(os.getcwd())
        with rprof.profile() as block: sum(range(10**6))
        assert "<html" in block.profile.to_html()
        with rprof.serve("127.0.0.1:0") as endpoint: assert endpoint.address
        """
    )
