"""The pytest plugin: profile tests, keep the heaviest in view, hold tests to a budget.

* fixture ``rprof``: records its test; afterwards ``rprof.profile``.
* ``--rprof``: records every test, one ``.pb.gz`` each and a merged ``combined.pb.gz``.
* ``--rprof-top N``: the same with a summary at the end.
* ``@pytest.mark.rprof(max_cpu="200ms", max_wall="1s", max_share={"pkg.mod.func": 0.3})``: fails
  the test when it takes more; so do ``max_alloc="10MiB"`` and ``max_growth="1MiB"`` of memory.

The native module is loaded only when a test is recorded. PYTEST_DONT_REWRITE

A test may replace whatever has a name, ``os``, ``pathlib``, ``open``, ``time``, ``__import__``, or
the whole file system, until its fixtures are torn down, and some do so for longer. So what is
needed is found and imported before the first test; from then on to the last report files are
written and read by native code alone, each after its test's teardown.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from gc import collect
from hashlib import sha256
from os import getpid
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from . import _hooks, _recordings
from ._config import program_name
from ._pytest_budget import HeapBudgeted, budget_of, excess_of, explain, memory_of
from ._text import inert
from .errors import RprofError, RprofStateError

if TYPE_CHECKING:
    from ._block import profile as ProfileBlock
    from ._native import Profile as NativeProfile
    from ._native import Recording
    from ._profile import Profile

_RECORDER = pytest.StashKey["_Recorder"]()
_RECORDING = pytest.StashKey["TestRecording"]()
_IN_BODY = pytest.StashKey[bool]()
# Where the report of a test's teardown has what became of its file; a report of an xdist worker
# takes its attributes along.
_ATTRIBUTE = "rprof_kept"
# By which an xdist worker is told the controller's directory.
_DIRECTORY = "rprof_directory"
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


class _Classes(NamedTuple):
    """What a profile is, natively and to Python, and what makes one."""

    native: type[NativeProfile]
    profile: type[Profile]
    block: type[ProfileBlock]


def _load() -> _Classes:
    native = _hooks.native().Profile
    from ._block import profile
    from ._profile import Profile

    return _Classes(native, Profile, profile)


class _Tools:
    """What it takes to record a test."""

    def __init__(self, classes: _Classes, rate: float) -> None:
        self._make_profile = classes.profile
        self._options = _recordings.rehearse(classes.block(rate=rate)._config)
        self._program = program_name()

    def begin(self, memory: float | None = None) -> Recording:
        """Begin a recording; `memory` is the bytes between two samples of the heap, if any."""
        return _recordings.begin_again({**self._options, "memory": memory})

    def end(self, recording: Recording) -> Profile | None:
        """End a recording; None if it has ended with the process, or in the one that forked."""
        ended = _recordings.end_output(recording)
        return None if ended is None else self._make_profile(ended[0])

    def heap_of(self, recording: Recording) -> Profile | None:
        """Return what a recording that has ended tells of the heap, if it looked at that."""
        heap = recording.heap()
        return None if heap is None else self._make_profile(heap)

    def in_use(self) -> int:
        """Return the bytes in use that are known already."""
        if not self.rate():
            return 0
        heap = _hooks.native().heap_profile(self._program)
        return self._make_profile(heap).totals.get("inuse_space", 0)

    def rate(self) -> float:
        """Return the bytes between two samples; 0 if there are none."""
        figures = _hooks.native().heap_figures()
        return 0.0 if figures is None else float(figures["rate"])


class TestRecording:
    """What the fixture ``rprof`` gives: the recording of the test that asked for it."""

    __test__ = False

    def __init__(self, recorder: _Recorder) -> None:
        self._recorder = recorder
        self._pid = 0
        self._owner: Recording | None = None
        self._profile: Profile | None = None
        self._heap: HeapBudgeted | None = None
        # Bytes in use at its begin, and between two samples, if the heap is sampled.
        self._memory: tuple[int, float] | None = None
        self._is_tidied = False

    def start(self, budget: Mapping[str, Any] | None = None) -> None:
        """Begin; called when the body of the test begins."""
        if self._owner is None:
            tools, memory = self._recorder.tools(), memory_of(budget)
            self._is_tidied = "max_growth" in (budget or {})
            before = 0 if memory is None else tools.in_use()
            self._pid = getpid()
            self._owner = tools.begin(memory)
            self._memory = None if memory is None else (before, tools.rate())

    def stop(self) -> Profile:
        """End the recording, if it has not ended, and return the profile."""
        self._finish()
        return self.profile

    def abandon(self) -> None:
        """See to it that nothing is recorded any more, whatever has come in between."""
        if self._owner is not None:
            self._owner.abandon()
            self._owner = None

    def _finish(self) -> Profile | None:
        """End the recording, if it has not ended; None if there is no profile."""
        # In a forked child it is its parent's. A timeout may break this off anywhere: what has
        # ended is forgotten last.
        if self._owner is not None and self._pid == getpid():
            if self._is_tidied:
                # Cycles are no growth; to find them is not the test's time.
                self._owner.pause()
                collect()
            tools = self._recorder.tools()
            self._profile = tools.end(self._owner)
            heap = tools.heap_of(self._owner)
            if heap is not None and self._memory is not None:
                self._heap = HeapBudgeted(heap, *self._memory)
        self._owner = None
        return self._profile

    @property
    def profile(self) -> Profile:
        """The finished profile; there is one after the test, or after ``stop()``.

        Raises:
            RprofStateError: The test is still being recorded.
        """
        if self._profile is None:
            if self._pid in (0, getpid()):
                raise RprofStateError(
                    "there is no profile of this test yet; use rprof.profile after its body"
                )
            raise RprofStateError("the test was begun by the parent of this process")
        return self._profile

    @property
    def heap(self) -> Profile:
        """What the test allocated, and what is in use at its end.

        Raises:
            RprofStateError: The test has not ended, or has no limit of memory and no
                ``@pytest.mark.rprof(memory=True)``.
        """
        if self._heap is None:
            raise RprofStateError(
                "there is no heap profile: mark the test with @pytest.mark.rprof(memory=True), and "
                "use rprof.heap after its body"
            )
        return self._heap.profile


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the command line options and their ini mirrors."""
    group = parser.getgroup("rprof", "profiling with rprof")
    group.addoption(
        "--rprof",
        action="store_true",
        default=None,
        help="profile every test: one .pb.gz per test and a merged combined.pb.gz",
    )
    group.addoption(
        "--rprof-dir", metavar="DIR", help="where the profiles go (default: .rprof below rootdir)"
    )
    group.addoption(
        "--rprof-rate", type=float, metavar="HZ", help="ticks per second (default: 1000)"
    )
    group.addoption(
        "--rprof-top",
        type=int,
        metavar="N",
        help="profile every test and print the N heaviest functions and tests",
    )
    parser.addini("rprof", "profile every test", type="bool", default=False)
    parser.addini("rprof_dir", "where the profiles go", default=".rprof")
    parser.addini("rprof_rate", "ticks per second", default="1000")
    parser.addini("rprof_top", "print the N heaviest functions and tests; 0 for none", default="0")


def pytest_configure(config: pytest.Config) -> None:
    """Check the options, announce the marker, and fix where the files go."""
    config.addinivalue_line(
        "markers",
        "rprof(max_cpu, max_wall, max_share, max_alloc, max_growth, memory): profile the test and "
        'fail it when it uses more CPU or wall time (seconds or "200ms"), spends a larger share of '
        'its CPU time in a function ({"pkg.mod.func": 0.3}), allocates more memory, or leaves more '
        'of it in use (bytes or "10MiB"), than given; memory=True samples it for rprof.heap',
    )
    recorder = config.stash[_RECORDER] = _Recorder(config)
    config.pluginmanager.register(recorder, "rprof-recorder")
    if recorder.every and not config.getoption("collectonly"):
        # Before any module of tests is imported.
        with suppress(RprofError):
            # Else the tests say so.
            recorder.classes()


def _ini_number(config: pytest.Config, name: str, kind: type[float] | type[int]) -> Any:
    text = config.getini(name)
    try:
        return kind(text)
    except ValueError:
        raise pytest.UsageError(f"{name} = {text!r} in the ini file is not a number") from None


def _rate(config: pytest.Config) -> float:
    given = config.getoption("rprof_rate")
    rate = float(_ini_number(config, "rprof_rate", float) if given is None else given)
    if not 0.01 <= rate <= 10_000:
        raise pytest.UsageError(f"--rprof-rate {rate:g} is out of range; choose 0.01 to 10000 (Hz)")
    return rate


def _top(config: pytest.Config) -> int:
    given = config.getoption("rprof_top")
    top = int(_ini_number(config, "rprof_top", int) if given is None else given)
    if top < 0:
        raise pytest.UsageError(f"--rprof-top {top} is negative; choose 0 or more")
    return top


def _directory(config: pytest.Config) -> str:
    told = getattr(config, "workerinput", {}).get(_DIRECTORY)
    if told is not None:
        return os.fsdecode(told)
    given = config.getoption("rprof_dir")
    if given is not None:
        return str(Path(config.invocation_params.dir, given))
    return str(Path(config.rootpath, config.getini("rprof_dir")))


@pytest.fixture
def rprof(request: pytest.FixtureRequest) -> TestRecording:
    """Record this test; afterwards, or after ``rprof.stop()``, see ``rprof.profile``."""
    recording = request.config.stash[_RECORDER].recording_of(request.node)
    if request.node.stash.get(_IN_BODY, False):
        # Asked for by the body itself.
        recording.start()
    return recording


class _Recorder:
    """Records the tests of one session, and knows what became of their files."""

    def __init__(self, config: pytest.Config) -> None:
        self._rate = _rate(config)
        self._top = _top(config)
        self.every = bool(config.getoption("rprof") or config.getini("rprof") or self._top)
        self._is_worker = hasattr(config, "workerinput")
        self._directory = _directory(config)
        self._separator = os.sep
        self._classes: _Classes | None = None
        self._tools: _Tools | None = None
        # By the tests' ids: profiles that wait for the end of the teardown; what became of them,
        # until it is reported; the names of all files; why there is none.
        self._waiting: dict[str, Profile] = {}
        self._outcomes: dict[str, tuple[str, str]] = {}
        self._files: dict[str, str] = {}
        self._problems: dict[str, str] = {}
        self._combined: Profile | None = None
        self._totals: dict[str, dict[str, int]] = {}

    def tools(self) -> _Tools:
        """Return what it takes to record.

        Raises:
            RprofError: Recording is not possible here.
        """
        if self._tools is None:
            try:
                self._tools = _Tools(self.classes(), self._rate)
            except RprofError:
                raise
            except Exception as error:
                # A module of tests may have replaced anything already; this is what came of it.
                raise RprofStateError(f"recording is not possible here: {error!r}") from error
        return self._tools

    def classes(self) -> _Classes:
        """Return what a profile is; all that a session needs in which others run the tests."""
        if self._classes is None:
            self._classes = _load()
        return self._classes

    def recording_of(self, item: pytest.Item) -> TestRecording:
        """Return the recording of a test, a new one if it is run again."""
        recording = item.stash.get(_RECORDING, None)
        if recording is None:
            recording = item.stash[_RECORDING] = TestRecording(self)
        return recording

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Try all of it while no test can have replaced anything."""
        if session.config.getoption("collectonly"):
            return
        if any(
            self.every
            or "rprof" in getattr(item, "fixturenames", ())
            or item.get_closest_marker("rprof") is not None
            for item in session.items
        ):
            with suppress(RprofError):
                # Else the tests say so.
                self.tools()

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Record the body of a test that wants it, and hold it to its budget."""
        budget = budget_of(item)
        if budget is not None or _RECORDING in item.stash:
            self.recording_of(item).start(budget)
        elif self.every:
            try:
                self.recording_of(item).start()
            except RprofError as error:
                # Nobody but the command line has asked.
                self._outcomes[item.nodeid] = "", str(error)
        item.stash[_IN_BODY] = True
        try:
            result = yield
        finally:
            del item.stash[_IN_BODY]
            self._end(item)
        if budget is not None:
            profile = item.stash[_RECORDING].profile
            excess = excess_of(budget, profile, item.stash[_RECORDING]._heap)
            if excess:
                pytest.fail(explain(item, excess, profile), pytrace=False)
        return result

    def _end(self, item: pytest.Item) -> None:
        recording = item.stash.get(_RECORDING, None)
        if recording is None:
            return
        try:
            profile = recording._finish()
        except RprofError as error:
            # The outcome of the test stands.
            self._outcomes[item.nodeid] = "", str(error)
            return
        if self.every and profile is not None:
            self._waiting[item.nodeid] = profile

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Let go of the recording once the fixtures have seen it, and write it."""
        try:
            return (yield)
        finally:
            if _RECORDING in item.stash:
                # A timeout may have broken off its begin or its end.
                item.stash[_RECORDING].abandon()
                del item.stash[_RECORDING]
            if item.nodeid in self._waiting:
                self._outcomes[item.nodeid] = self._keep(item.nodeid)

    def _keep(self, nodeid: str) -> tuple[str, str]:
        """Write a profile and return the name of its file, or an empty one and the reason."""
        name = _file_name(nodeid)
        try:
            self._waiting.pop(nodeid)._native.keep(self._path(name))
        except RprofError as error:
            return "", str(error)
        return name, ""

    def _path(self, name: str) -> str:
        return self._directory + self._separator + name

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, Any, Any]:
        """Have the report of the teardown tell what became of the file."""
        report = yield
        if call.when == "teardown" and item.nodeid in self._outcomes:
            setattr(report, _ATTRIBUTE, self._outcomes.pop(item.nodeid))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what became of a test's file; under xdist this runs in the controller."""
        outcome = getattr(report, _ATTRIBUTE, None)
        if outcome is not None:
            self._note(report.nodeid, *outcome)

    def _note(self, nodeid: str, name: str, problem: str) -> None:
        # What is known of a test that is run again is what its last run has left.
        self._files.pop(nodeid, None)
        self._problems.pop(nodeid, None)
        if name:
            self._files[nodeid] = name
        else:
            self._problems[nodeid] = problem

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell an xdist worker, which may be anywhere, where the files go."""
        # Not as text: it may have bytes that are none.
        node.workerinput[_DIRECTORY] = os.fsencode(self._directory)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self) -> Generator[None, Any, Any]:
        """Merge the profiles of all tests; under xdist only the controller does."""
        result = yield
        # A test that was interrupted has no report.
        for nodeid in list(self._waiting):
            self._note(nodeid, *self._keep(nodeid))
        if self._files and not self._is_worker:
            self._merge()
        return result

    def _merge(self) -> None:
        try:
            classes = self.classes()
            merged = classes.native.merge(self._kept(classes))
            self._combined = classes.profile(merged)
            merged.keep(self._path(_COMBINED))
        except RprofError as error:
            self._problems[_COMBINED] = str(error)

    def _kept(self, classes: _Classes) -> Iterator[NativeProfile]:
        """Read what was written; a file that has gone since then is a problem of its test."""
        for nodeid, name in list(self._files.items()):
            try:
                profile = classes.native.kept(self._path(name))
            except RprofError as error:
                self._note(nodeid, "", str(error))
                continue
            self._totals[nodeid] = classes.profile(profile).totals
            yield profile

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print where the profiles are and, with ``--rprof-top``, what is heavy."""
        if not self._files and not self._problems:
            return
        write = terminalreporter.write_line
        terminalreporter.section("rprof")
        if self._files:
            write(f"profiles of {len(self._files)} tests in {self._directory}")
        if self._combined is not None and _COMBINED not in self._problems:
            write(f"all together: go tool pprof -top {self._path(_COMBINED)}")
        if self._problems:
            first = inert(next(iter(self._problems.values())))
            write(f"profiles missing: {len(self._problems)}; {first}")
        if not self._top or self._combined is None:
            return
        for kind in ("cpu", "wall"):
            write("")
            write(f"heaviest functions by {kind}: {self._combined.top(self._top, by=kind)}")
        heaviest = sorted(self._totals.items(), key=lambda pair: -pair[1]["cpu"])[: self._top]
        write("")
        write("heaviest tests by cpu:")
        for test, total in heaviest:
            cpu, wall = total["cpu"] / 1e6, total["wall"] / 1e6
            write(f"{cpu:>10,.1f} ms cpu {wall:>10,.1f} ms wall  {test}")


_COMBINED = "combined.pb.gz"


def _file_name(nodeid: str) -> str:
    """Return a file name that is safe everywhere, readable, and different for every test."""
    safe = _UNSAFE.sub("-", nodeid.replace("::", ".")).strip("-.")
    digest = sha256(nodeid.encode("utf-8", "backslashreplace")).hexdigest()[:8]
    return f"{safe[:120]}-{digest}.pb.gz"
