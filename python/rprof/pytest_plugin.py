"""The pytest plugin: profile tests, keep the heaviest in view, hold tests to a budget.

* fixture ``rprof``: records its test; afterwards ``rprof.profile``.
* ``--rprof``: records every test, one ``.pb.gz`` each and a merged ``combined.pb.gz``.
* ``--rprof-top N``: the same with a summary at the end.
* ``@pytest.mark.rprof(max_cpu="200ms", max_wall="1s", max_share={"pkg.mod.func": 0.3})``: fails
  the test when it takes more.

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
from hashlib import sha256
from os import getpid
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from . import _session
from ._text import inert
from .errors import RprofError, RprofStateError

if TYPE_CHECKING:
    from ._block import profile as ProfileBlock
    from ._native import Profile as NativeProfile
    from ._profile import Profile

_RECORDER = pytest.StashKey["_Recorder"]()
_RECORDING = pytest.StashKey["TestRecording"]()
_IN_BODY = pytest.StashKey[bool]()
# Where the report of a test's teardown has what became of its file; a report of an xdist worker
# takes its attributes along.
_ATTRIBUTE = "rprof_kept"
# By which an xdist worker is told the controller's directory.
_DIRECTORY = "rprof_directory"
_MARKER_OPTIONS = ("max_cpu", "max_wall", "max_share")
_DURATION = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*(ns|us|ms|s|min)\s*")
_NANOSECONDS = {"ns": 1, "us": 1e3, "ms": 1e6, "s": 1e9, "min": 60e9}
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


class _Classes(NamedTuple):
    """What a profile is, natively and to Python, and what makes one."""

    native: type[NativeProfile]
    profile: type[Profile]
    block: type[ProfileBlock]


def _load() -> _Classes:
    native = _session.native().Profile
    from ._block import profile
    from ._profile import Profile

    return _Classes(native, Profile, profile)


class _Tools:
    """What it takes to record a test."""

    def __init__(self, classes: _Classes, rate: float) -> None:
        self._make_profile = classes.profile
        self._options = _session.rehearse(classes.block(rate=rate)._config)

    def begin(self) -> _session.Recording:
        return _session.begin_again(self._options)

    def end(self, recording: _session.Recording) -> Profile | None:
        """End a recording; None if it has ended with the process, or in the one that forked."""
        ended = _session.end_output(recording)
        return None if ended is None else self._make_profile(ended[0])


class TestRecording:
    """What the fixture ``rprof`` gives: the recording of the test that asked for it."""

    __test__ = False

    def __init__(self, recorder: _Recorder) -> None:
        self._recorder = recorder
        self._pid = 0
        self._owner: _session.Recording | None = None
        self._profile: Profile | None = None

    def start(self) -> None:
        """Begin; called when the body of the test begins."""
        if self._owner is None:
            self._pid = getpid()
            self._owner = self._recorder.tools().begin()

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
            self._profile = self._recorder.tools().end(self._owner)
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
        "rprof(max_cpu, max_wall, max_share): profile the test and fail it when it uses more CPU "
        'or wall time (seconds or "200ms"), or spends a larger share of its CPU time in a '
        'function ({"pkg.mod.func": 0.3}), than given',
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
        budget = _budget(item)
        if budget is not None or _RECORDING in item.stash:
            self.recording_of(item).start()
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
            excess = _excess(budget, profile)
            if excess:
                pytest.fail(_explain(item, excess, profile), pytrace=False)
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


def _budget(item: pytest.Item) -> dict[str, Any] | None:
    marker = item.get_closest_marker("rprof")
    if marker is None:
        return None
    unknown = sorted(set(marker.kwargs) - set(_MARKER_OPTIONS))
    if marker.args or unknown:
        what = ", ".join(unknown) or f"positional arguments {marker.args!r}"
        raise pytest.UsageError(
            f"{item.nodeid}: @pytest.mark.rprof does not take {what}; it takes "
            f"{', '.join(name + '=' for name in _MARKER_OPTIONS)}"
        )
    budget: dict[str, Any] = {}
    for name in ("max_cpu", "max_wall"):
        if marker.kwargs.get(name) is not None:
            budget[name] = _nanoseconds(item, name, marker.kwargs[name])
    shares = marker.kwargs.get("max_share") or {}
    if not isinstance(shares, Mapping) or not all(
        isinstance(share, (int, float)) and 0 <= share <= 1 for share in shares.values()
    ):
        raise pytest.UsageError(
            f"{item.nodeid}: max_share={shares!r} must be a dict of function names and fractions "
            'from 0 to 1, for example {"pkg.mod.func": 0.3}'
        )
    budget["max_share"] = dict(shares)
    return budget


def _nanoseconds(item: pytest.Item, name: str, value: Any) -> int:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
        return round(value * 1e9)
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise pytest.UsageError(
            f"{item.nodeid}: {name}={value!r} is no duration; give seconds as a number or text "
            'such as "200ms", "1.5s" or "2min"'
        )
    return round(float(match[1]) * _NANOSECONDS[match[2]])


def _excess(budget: Mapping[str, Any], profile: Profile) -> list[str]:
    """Return what went over the budget, one sentence each."""
    excess = []
    used = {"max_cpu": profile.totals["cpu"], "max_wall": profile.duration_ns}
    words = {"max_cpu": "CPU time of all threads", "max_wall": "wall time"}
    for name, nanoseconds in used.items():
        allowed = budget.get(name)
        if allowed is not None and nanoseconds > allowed:
            excess.append(
                f"{words[name]}: {nanoseconds / 1e6:,.1f} ms, more than "
                f"{name} = {allowed / 1e6:,.1f} ms"
            )
    if budget["max_share"]:
        rows = profile.top(1_000_000, by="cpu")
        for function, allowed in budget["max_share"].items():
            share = sum(row.total_fraction for row in rows if _is_named(row.name, function))
            if share > allowed:
                excess.append(
                    f"{function} and what it calls: {share:.1%} of the CPU time, more than "
                    f"max_share = {allowed:.1%}"
                )
    return excess


def _is_named(name: str, wanted: str) -> bool:
    return name == wanted or name.endswith("." + wanted)


def _explain(item: pytest.Item, excess: list[str], profile: Profile) -> str:
    return "\n".join(
        [f"{item.nodeid} went over its rprof budget:"]
        + [f"  {sentence}" for sentence in excess]
        + ["", profile.tree(by="cpu", min_fraction=0.02)]
    )
