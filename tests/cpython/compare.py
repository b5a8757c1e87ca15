"""CPython's own test suite, with and without rprof in every process: the same results?

    python compare.py PYTHON --wheel WHEEL [--modules test_gc ...] [--all] [--rate 1000]
                      [--option memory=true --option task_steps=true --option locks=exact]

README
======

What it does. A scratch environment is made from PYTHON and the wheel is installed into it, along
with a ``.pth`` file that imports ``rprof.auto`` if one environment variable says so. Thus every
process that runs this environment's interpreter (the test runner, the children that tests spawn,
the workers of multiprocessing) starts rprof before the first line of a test. Forked children keep
it by rprof's own fork handling. Each module of the test suite is then run twice by ``python -m
test``, with that variable off and on; nothing else differs between the two runs.

What is compared. The outcome of each test by its name: passed, skipped, failed, or not reached.
The module as a whole counts as one more test, ``<module>``: a crash, a hang, and an altered
execution environment (threads or files left over) appear there. Whatever passes plain and does
not pass with rprof is a *difference*, and the exit code is 1. A module with a difference is run
again both ways, up to ``--reruns`` times; a test that then does not pass plain either, or passes
with rprof, is listed as *flaky* with its counts and is not a difference. A process killed by a
signal under rprof, and never without, stays a difference whatever the re-runs say. Tests that
fail plain and pass with rprof are listed and change nothing.

With ``--by-command`` the suite is run by ``rprof run --follow-children`` instead, as a program of
a user is.

What proves that rprof ran. The profiles that each module left behind are counted; a module that
left none was not compared, and the exit code is 2.

What it cannot see. Children started with ``-S`` or with an environment emptied by the test do not
start rprof. The suite runs without its optional resources (network, large files, sound).

PYTHON must have the ``test`` package: pyenv and python.org builds do; Debian puts it into
``libpython3.X-testsuite``. To run an interpreter that lives in a Debian folder, run this script
inside that folder; it needs the standard library only. ``.ci/compare-cpython`` does either::

    .ci/compare-cpython 3.13 --wheel dist/rprof-....whl
    .ci/compare-cpython 3.15 --wheel dist/rprof-....whl --modules test_gc test_threading

Exit codes: 0 the same, 1 differences, 2 the comparison could not be made.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from xml.etree import ElementTree

DOCUMENTED = {
    "test_faulthandler": "it compares whole dumps of all threads, and a dump made while a thread "
    "of rprof waits for the GIL lists that thread, as one without a Python frame (docs, What it "
    "cannot see)",
}
"""Modules and tests that see rprof at work, and why that is as it should be."""

DEFAULT_MODULES = (
    "test_threading",
    "test_thread",
    "test_threadsignals",
    "test_fork1",
    "test_subprocess",
    "test_signal",
    "test_gc",
    "test_weakref",
    "test_generators",
    "test_coroutines",
    "test_frame",
    "test_sys",
    "test_faulthandler",
    "test_tracemalloc",
    "test_asyncio",
    "test_concurrent_futures",
    "test_multiprocessing_fork",
    "test_multiprocessing_spawn",
    "test_multiprocessing_forkserver",
    # Each sub-interpreter runs the .pth file too; the names are those of 3.10-3.12 and of 3.13.
    "test_interpreters",
    "test__xxsubinterpreters",
    "test__interpreters",
    # What an interpreter has imported before the program says so.
    "test_import",
    "test_site",
)

# Not RPROF_something: rprof would warn of an option that it does not know.
SWITCH = "COMPARE_WITH_RPROF"
PTH_LINE = f'import os; os.environ.get("{SWITCH}") == "1" and __import__("rprof.auto")\n'

PASSED = "passed"
SKIPPED = "skipped"
FAILED = "failed"
NOT_REACHED = "not reached"
MODULE = "<module>"

# What `python -m test` says by its exit code, the same on 3.10-3.15.
EXIT_OUTCOMES = {0: PASSED, 2: FAILED, 3: "environment altered", 4: SKIPPED}
TIMED_OUT = "timed out"
KILLED = "killed by"

EXIT_SAME = 0
EXIT_DIFFERENT = 1
EXIT_NOT_COMPARED = 2


@dataclass
class Run:
    """What one module did in one process tree."""

    outcomes: dict[str, str]
    module_outcome: str
    seconds: float
    profiles: int
    log: str

    def outcome(self, name: str) -> str:
        if name == MODULE:
            return self.module_outcome
        return self.outcomes.get(name, NOT_REACHED)

    def count(self, outcome: str) -> int:
        return sum(1 for found in self.outcomes.values() if found == outcome)

    def counts(self) -> str:
        return f"{self.count(PASSED)}/{self.count(FAILED)}/{self.count(SKIPPED)}"

    def ended_abruptly(self) -> bool:
        return self.module_outcome.startswith((TIMED_OUT, KILLED))


@dataclass
class Comparison:
    """One module: every run of either kind, and what sets the two kinds apart."""

    module: str
    plain: list[Run] = field(default_factory=list)
    rprof: list[Run] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    flaky: list[str] = field(default_factory=list)
    better: list[str] = field(default_factory=list)
    documented: list[str] = field(default_factory=list)

    def history(self, name: str) -> str:
        plain = ", ".join(run.outcome(name) for run in self.plain)
        with_rprof = ", ".join(run.outcome(name) for run in self.rprof)
        return f"{name}: plain {plain}; with rprof {with_rprof}"

    def profiled(self) -> bool:
        """Whether rprof left a sign of life; a killed process need not have."""
        return all(run.profiles or run.ended_abruptly() for run in self.rprof)

    def judge(self) -> None:
        """Sorts the tests that the two kinds of run disagree on."""
        first_plain, first_rprof = self.plain[0], self.rprof[0]
        worse = worse_tests(first_plain, first_rprof)
        self.flaky = [name for name in worse if self.is_flaky(name)]
        self.differences = [name for name in worse if name not in self.flaky]
        if not any(run.ended_abruptly() for run in self.rprof):
            known = [name for name in worse if self.module in DOCUMENTED or name in DOCUMENTED]
            self.documented = [name for name in self.differences if name in known]
            # A module that fails only for documented tests fails for no other reason.
            others = [name for name in self.differences if name not in known]
            self.differences = [] if others == [MODULE] and self.documented else others
        self.better = [name for name in worse_tests(first_rprof, first_plain) if name != MODULE]

    def is_flaky(self, name: str) -> bool:
        if name == MODULE and any(run.module_outcome.startswith(KILLED) for run in self.rprof):
            return any(run.module_outcome.startswith(KILLED) for run in self.plain)
        return any(run.outcome(name) != self.plain[0].outcome(name) for run in self.plain) or any(
            not is_worse(self.plain[0].outcome(name), run.outcome(name)) for run in self.rprof
        )


def is_worse(before: str, after: str) -> bool:
    """Losing a pass is worse; so is failing, or not being reached, where a test was skipped."""
    if before == PASSED:
        return after != PASSED
    if before == SKIPPED:
        return after not in (PASSED, SKIPPED)
    return after.startswith(KILLED) and not before.startswith(KILLED)


def worse_tests(before: Run, after: Run) -> list[str]:
    names = sorted({*before.outcomes, *after.outcomes})
    # A test that only one run knows (a test may be generated) is a loss only if it was there.
    worse = [name for name in names if is_worse(before.outcome(name), after.outcome(name))]
    if is_worse(before.module_outcome, after.module_outcome):
        if after.ended_abruptly():
            # The end of the module says it all; the hundreds it did not reach would bury it.
            worse = [name for name in worse if after.outcome(name) != NOT_REACHED]
            return [MODULE, *worse]
        if not worse:
            return [MODULE]
    return worse


class Suite:
    """One interpreter's test suite in a scratch environment."""

    def __init__(
        self,
        python: str,
        wheel: Path,
        scratch: Path,
        rate: int,
        timeout: float,
        *,
        by_command: bool,
        options: dict[str, str],
    ) -> None:
        self.options = options
        self.scratch = scratch
        self.by_command = by_command
        self.timeout = timeout
        self.rate = rate
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "RPROF_")) and name != "VIRTUAL_ENV"
        }
        self.running: set[int] = set()
        self.ended = False
        self.lock = Lock()
        self.python = self._make_environment(python, wheel)
        self.version = self._ask("import platform; print(platform.python_version())")

    def _make_environment(self, python: str, wheel: Path) -> str:
        home = self.scratch / "venv"
        self._check([python, "-m", "venv", str(home)])
        inside = str(home / "bin" / "python")
        install = ["install", "--quiet", "--no-index", "--no-deps", str(wheel)]
        self._check([inside, "-m", "pip", *install])
        packages = self._check(
            [inside, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        ).strip()
        Path(packages, "rprof_compare.pth").write_text(PTH_LINE, encoding="utf-8")
        return inside

    def _check(self, command: list[str]) -> str:
        """Output of a set-up command; its own words if it fails."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit2(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def _ask(self, code: str) -> str:
        return self._check([self.python, "-c", code]).strip()

    def shipped(self) -> list[str]:
        """The test modules at hand; packages count as one module, as `python -m test` takes it."""
        code = """
            import os, test
            for entry in os.scandir(os.path.dirname(test.__file__)):
                name, extension = os.path.splitext(entry.name)
                package = os.path.exists(os.path.join(entry.path, "__init__.py"))
                if name.startswith("test_") and (extension == ".py" or package):
                    print(name)
        """
        return sorted(self._ask(textwrap.dedent(code)).split())

    def run(self, module: str, with_rprof: bool, attempt: int) -> Run:
        name = f"{module}-{'rprof' if with_rprof else 'plain'}-{attempt}"
        # Short names: test suites put Unix sockets, at most 108 bytes long, below TMPDIR.
        place = self.scratch / name
        temporary = place / "t"
        profiles = place / "profiles"
        report = place / "junit.xml"
        log = place / "log"
        temporary.mkdir(parents=True)
        environment = {
            **self.environment,
            "TMPDIR": str(temporary),
            "RPROF_OUTPUT": f"{profiles}/",
            "RPROF_RATE": str(self.rate),
            **self.options,
            SWITCH: "1" if with_rprof and not self.by_command else "0",
        }
        # -u: a crash must not take the last lines of the log with it.
        command = [self.python, "-u"]
        if with_rprof and self.by_command:
            command += ["-m", "rprof", "run", "-q", "--follow-children", "-o", f"{profiles}/"]
        command += ["-m", "test", "-v", "--fail-env-changed"]
        command += ["--junit-xml", str(report), "--tempdir", str(temporary), module]
        began = time.monotonic()
        with log.open("wb") as output:
            code = self._run_tree(command, environment, place, output.fileno())
        seconds = time.monotonic() - began
        text = log.read_text(encoding="utf-8", errors="replace")
        outcomes = outcomes_of(report, text)
        return Run(
            outcomes=outcomes,
            module_outcome=module_outcome(code, text, ran_tests=bool(outcomes)),
            seconds=seconds,
            profiles=sum(1 for _ in profiles.rglob("*.pb.gz")) if profiles.is_dir() else 0,
            log=str(log),
        )

    def _run_tree(
        self, command: list[str], environment: dict[str, str], place: Path, output: int
    ) -> int | None:
        """Runs a command in a session of its own and ends whatever is left of it."""
        with self.lock:
            if self.ended:
                raise CancelledError
            process = subprocess.Popen(
                command,
                env=environment,
                cwd=place,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self.running.add(process.pid)
        try:
            return process.wait(self.timeout)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with self.lock:
                self.running.discard(process.pid)
                end_group(process.pid)
            process.wait()

    def end(self) -> None:
        """Ends what runs, for a comparison that is broken off; nothing starts afterwards."""
        with self.lock:
            self.ended = True
            for group in self.running:
                end_group(group)


def end_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


class SystemExit2(SystemExit):
    """The comparison could not be made."""

    def __init__(self, message: str) -> None:
        print(f"compare: {message}", file=sys.stderr)
        super().__init__(EXIT_NOT_COMPARED)


# ---------------------------------------------------------------------------------------------
# Reading what `python -m test` leaves
# ---------------------------------------------------------------------------------------------

# "test_x (test.test_gc.GCTests.test_x)"; CPython 3.10 leaves out the last ".test_x".
_TEST = r"(?P<method>\w+) \((?P<where>[\w.<>]+)\)"
_HEADING = re.compile(rf"^(?:FAIL|ERROR): {_TEST}", re.MULTILINE)
_OUTCOME = r"\.\.\. (?:(?P<ok>ok|expected failure)|(?P<skip>skipped\b.*)|(?P<bad>FAIL|ERROR))$"
_LINE = re.compile(rf"^{_TEST}(?:\n.*?)?\s{_OUTCOME}", re.MULTILINE)
_BEGUN = re.compile(rf"^{_TEST}(?:\n.*?)? \.\.\.", re.MULTILINE)


def _name(match: re.Match[str]) -> str:
    method, where = match.group("method", "where")
    return where if where.endswith(f".{method}") else f"{where}.{method}"


def outcomes_of(report: Path, log: str) -> dict[str, str]:
    """Each test's outcome: the report's, where it was written, and the log's."""
    outcomes: dict[str, str] = {}
    try:
        cases = list(ElementTree.parse(report).iter("testcase"))
    except (OSError, ElementTree.ParseError):
        # No report: the runner died. The log tells how far it came.
        for match in _LINE.finditer(log):
            found = PASSED if match["ok"] else SKIPPED if match["skip"] else FAILED
            _note(outcomes, _name(match), found)
    else:
        for case in cases:
            # A test whose subtests failed leaves a case without a name; the log has its heading.
            if name := case.get("name"):
                _note(outcomes, name, _case_outcome(case))
    for match in _HEADING.finditer(log):
        _note(outcomes, _name(match), FAILED)
    return outcomes


def _case_outcome(case: ElementTree.Element) -> str:
    children = {child.tag for child in case}
    if children & {"failure", "error"} or case.get("outcome") == "UNEXPECTED_SUCCESS":
        return FAILED
    return SKIPPED if "skipped" in children else PASSED


def _note(outcomes: dict[str, str], name: str, outcome: str) -> None:
    """A test may report more than once (subtests): the worst counts."""
    severity = (PASSED, SKIPPED, FAILED)
    if severity.index(outcome) >= severity.index(outcomes.get(name, PASSED)):
        outcomes[name] = outcome


def module_outcome(code: int | None, log: str, *, ran_tests: bool) -> str:
    if code is None:
        return TIMED_OUT + _last_begun(log)
    if code < 0:
        return f"{KILLED} {signal.Signals(-code).name}{_last_begun(log)}"
    if code == 0 and not ran_tests:
        # A module that skips itself while it is imported is a success to the runner.
        return SKIPPED
    return EXIT_OUTCOMES.get(code, f"exit code {code}")


def _last_begun(log: str) -> str:
    begun = [_name(match) for match in _BEGUN.finditer(log)]
    return f" in {begun[-1]}" if begun else ""


# ---------------------------------------------------------------------------------------------
# Comparing and telling
# ---------------------------------------------------------------------------------------------


class Progress:
    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.lock = Lock()

    def say(self, text: str) -> None:
        with self.lock:
            print(text, flush=True)

    def finished(self, comparison: Comparison) -> None:
        with self.lock:
            self.done += 1
            verdict = f"{len(comparison.differences)} DIFFERENCES"
            if not comparison.differences:
                verdict = f"same, {len(comparison.flaky)} flaky" if comparison.flaky else "same"
            if comparison.documented:
                verdict = f"{len(comparison.documented)} documented differences"
            if not comparison.profiled():
                verdict = "NOT PROFILED"
            print(f"[{self.done:3}/{self.total}] {comparison.module}: {verdict}", flush=True)


def compare(suite: Suite, module: str, reruns: int, progress: Progress) -> Comparison:
    comparison = Comparison(module)
    for attempt in range(1 + reruns):
        for with_rprof, runs in ((False, comparison.plain), (True, comparison.rprof)):
            kind = "with rprof" if with_rprof else "plain"
            again = f", re-run {attempt}" if attempt else ""
            run = suite.run(module, with_rprof, attempt)
            runs.append(run)
            profiles = f", {run.profiles} profiles" if with_rprof else ""
            progress.say(
                f"          {module} {kind}{again}: {run.module_outcome}, {run.counts()}"
                f" passed/failed/skipped, {run.seconds:.1f} s{profiles}"
            )
        comparison.judge()
        if not comparison.differences and not comparison.documented:
            break
    progress.finished(comparison)
    return comparison


def table(comparisons: Sequence[Comparison]) -> str:
    heading = ("module", "plain p/f/s", "with rprof", "differences")
    rows = [
        (
            comparison.module,
            comparison.plain[0].counts(),
            comparison.rprof[0].counts(),
            str(len(comparison.differences)) if comparison.profiled() else "not profiled",
        )
        for comparison in comparisons
    ]
    plain, with_rprof = (_sum_counts([row[column] for row in rows]) for column in (1, 2))
    differences = sum(len(comparison.differences) for comparison in comparisons)
    rows.append(("total", plain, with_rprof, str(differences)))
    widths = [max(len(row[i]) for row in (heading, *rows)) for i in range(len(heading))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in (heading, *rows)
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _sum_counts(cells: Sequence[str]) -> str:
    columns = zip(*(map(int, cell.split("/")) for cell in cells), strict=True)
    return "/".join(str(sum(column)) for column in columns)


def by_name(comparisons: Sequence[Comparison]) -> str:
    lines: list[str] = []
    sections = {
        "Differences": [(each, each.differences) for each in comparisons],
        "Documented differences": [(each, each.documented) for each in comparisons],
        "Flaky (runs of one kind disagree)": [(each, each.flaky) for each in comparisons],
        "Pass with rprof only": [(each, each.better) for each in comparisons],
    }
    for title, section in sections.items():
        listed = [
            f"  {comparison.module}: {comparison.history(name)}"
            for comparison, names in section
            for name in names
        ]
        if listed:
            lines += ["", f"{title}:", *listed]
    lines += [
        f"  why {name} differs: {DOCUMENTED[name]}"
        for name in DOCUMENTED
        if any(name in (each.module, *each.documented) for each in comparisons if each.documented)
    ]
    for comparison in comparisons:
        if comparison.differences:
            lines.append(f"  log of {comparison.module} with rprof: {comparison.rprof[0].log}")
    return "\n".join(lines)


def variable(text: str) -> tuple[str, str]:
    """The environment variable that stands for an option, and its value."""
    name, sign, value = text.partition("=")
    if not sign or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r}: want NAME=VALUE, as memory=true")
    return f"RPROF_{name.upper()}", value


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog="The docstring of this file is its README.",
    )
    parser.add_argument("python", metavar="PYTHON", help="the interpreter, a path or a command")
    parser.add_argument("--wheel", type=Path, required=True, help="the rprof wheel to install")
    parser.add_argument("--modules", nargs="+", metavar="NAME", help="instead of the default ones")
    parser.add_argument("--all", action="store_true", help="every module that PYTHON ships")
    parser.add_argument(
        "--by-command", action="store_true", help="by `rprof run`, not from a .pth file"
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        type=variable,
        metavar="NAME=VALUE",
        help="an option of rprof.start(), as --option memory=true --option locks=exact",
    )
    parser.add_argument("--rate", type=int, default=1000, help="samples per second (%(default)s)")
    parser.add_argument(
        "--timeout", type=float, default=900, help="seconds for one module (%(default)s)"
    )
    parser.add_argument(
        "--reruns", type=int, default=2, help="of a module that differs (%(default)s)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="modules at a time (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write everything there")
    parser.add_argument("--keep", action="store_true", help="keep the scratch directory")
    options = parser.parse_args(given)
    if options.modules and options.all:
        parser.error("--modules and --all exclude each other")
    if not options.wheel.is_file():
        parser.error(f"no wheel at {options.wheel}")
    return options


def main(given: Sequence[str] | None = None) -> int:
    options = arguments(given)
    signal.signal(signal.SIGTERM, break_off)
    # Started in the background of a shell, this process ignores SIGINT, and so would the tests,
    # some of which wait for it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    python = shutil.which(options.python)
    if python is None:
        raise SystemExit2(f"no interpreter {options.python}")
    scratch = Path(tempfile.mkdtemp(prefix="rprof-cmp-"))
    keep = options.keep
    try:
        suite = Suite(
            python,
            options.wheel.resolve(),
            scratch,
            options.rate,
            options.timeout,
            by_command=options.by_command,
            options=dict(options.option),
        )
        shipped = suite.shipped()
        wanted = shipped if options.all else list(options.modules or DEFAULT_MODULES)
        # A module inside a package, "test.test_asyncio.test_locks", is for the runner to find.
        modules = [name for name in wanted if "." in name or name in shipped]
        missing = [name for name in wanted if name not in modules]
        if not modules:
            raise SystemExit2(f"CPython {suite.version} ships none of: {' '.join(wanted)}")
        said = "".join(f", {name}={value}" for name, value in suite.options.items())
        print(f"CPython {suite.version}, {len(modules)} modules, rprof at {options.rate} Hz{said}")
        if missing:
            print(f"not shipped with this interpreter: {' '.join(missing)}")
        progress = Progress(len(modules))
        comparisons = compare_all(suite, modules, options.reruns, options.jobs, progress)
        unprofiled = [comparison.module for comparison in comparisons if not comparison.profiled()]
        different = any(comparison.differences for comparison in comparisons)
        print(f"\n{table(comparisons)}\n{by_name(comparisons)}")
        if missing:
            print(f"not shipped with this interpreter: {' '.join(missing)}")
        if unprofiled:
            print(f"NOT COMPARED, rprof left no profile in: {' '.join(unprofiled)}")
        if options.json:
            document = {
                "python": suite.version,
                "rate": options.rate,
                "missing": missing,
                "unprofiled": unprofiled,
                "modules": [asdict(comparison) for comparison in comparisons],
            }
            options.json.write_text(json.dumps(document, indent=1), encoding="utf-8")
        keep = keep or different or bool(unprofiled)
    finally:
        if keep:
            print(f"kept: {scratch}")
        else:
            shutil.rmtree(scratch, ignore_errors=True)
    if different:
        return EXIT_DIFFERENT
    return EXIT_NOT_COMPARED if unprofiled else EXIT_SAME


def compare_all(
    suite: Suite, modules: Sequence[str], reruns: int, jobs: int, progress: Progress
) -> list[Comparison]:
    with ThreadPoolExecutor(jobs) as pool:
        futures: list[Future[Comparison]] = [
            pool.submit(compare, suite, module, reruns, progress) for module in modules
        ]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            suite.end()
            raise


def break_off(number: int, _frame: object) -> None:
    """Lets SIGTERM end the test processes too: they are in sessions of their own."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
