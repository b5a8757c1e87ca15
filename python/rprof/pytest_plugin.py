"""The pytest plugin: profile tests, keep the heaviest in view, hold tests to a budget.

* fixture ``rprof``: records its test; afterwards ``rprof.profile``.
* ``--rprof``: records every test, one ``.pb.gz`` each and a merged ``combined.pb.gz``.
* ``--rprof-top N``: the same with a summary at the end.
* ``@pytest.mark.rprof(max_cpu="200ms", max_wall="1s", max_share={"pkg.mod.func": 0.3})``: fails
  the test when it takes more.

The native module is loaded only when a test is recorded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ._block import profile as ProfileBlock
    from ._profile import Profile

_PROPERTY = "rprof_profile"
_RECORDING = pytest.StashKey["TestRecording"]()
_SESSION = pytest.StashKey["_SessionProfiles"]()
_MARKER_OPTIONS = ("max_cpu", "max_wall", "max_share")
_DURATION = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*(ns|us|ms|s|min)\s*")
_NANOSECONDS = {"ns": 1, "us": 1e3, "ms": 1e6, "s": 1e9, "min": 60e9}


class TestRecording:
    """What the fixture ``rprof`` gives: the recording of the test that asked for it."""

    __test__ = False

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._block: ProfileBlock | None = None

    def start(self) -> None:
        """Begin; called when the body of the test begins."""
        from ._block import profile

        self._block = profile(rate=self._rate)
        self._block.__enter__()

    def stop(self) -> Profile:
        """End the recording, if it has not ended, and return the profile."""
        if self._block is not None and self._block._recording is not None:
            self._block.__exit__(None, None, None)
        return self.profile

    def abandon(self) -> None:
        """See to it that nothing is recorded any more, whatever has come in between."""
        if self._block is not None:
            self._block.abandon()

    @property
    def profile(self) -> Profile:
        """The finished profile; there is one after the test, or after ``stop()``.

        Raises:
            RprofStateError: The test is still being recorded.
        """
        if self._block is None:
            from .errors import RprofStateError

            raise RprofStateError("the test has not begun; use rprof.profile after its body")
        return self._block.profile


class _SessionProfiles:
    """Where the profiles of this test session are, as far as this process was told."""

    def __init__(self) -> None:
        self.by_test: dict[str, Path] = {}


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
    """Check the options and announce the marker."""
    config.addinivalue_line(
        "markers",
        "rprof(max_cpu, max_wall, max_share): profile the test and fail it when it uses more CPU "
        'or wall time (seconds or "200ms"), or spends a larger share of its CPU time in a '
        'function ({"pkg.mod.func": 0.3}), than given',
    )
    rate = _rate(config)
    if not 0.01 <= rate <= 10_000:
        raise pytest.UsageError(f"--rprof-rate {rate:g} is out of range; choose 0.01 to 10000 (Hz)")
    if _top(config) < 0:
        raise pytest.UsageError(f"--rprof-top {_top(config)} is negative; choose 0 or more")
    config.stash[_SESSION] = _SessionProfiles()


def _ini_number(config: pytest.Config, name: str, kind: type[float] | type[int]) -> Any:
    text = config.getini(name)
    try:
        return kind(text)
    except ValueError:
        raise pytest.UsageError(f"{name} = {text!r} in the ini file is not a number") from None


def _rate(config: pytest.Config) -> float:
    given = config.getoption("rprof_rate")
    return float(_ini_number(config, "rprof_rate", float) if given is None else given)


def _top(config: pytest.Config) -> int:
    given = config.getoption("rprof_top")
    return int(_ini_number(config, "rprof_top", int) if given is None else given)


def _profiles_every_test(config: pytest.Config) -> bool:
    return bool(config.getoption("rprof") or config.getini("rprof") or _top(config))


def _directory(config: pytest.Config) -> Path:
    given = config.getoption("rprof_dir")
    if given is not None:
        return Path(config.invocation_params.dir, given)
    return Path(config.rootpath, config.getini("rprof_dir"))


@pytest.fixture
def rprof(request: pytest.FixtureRequest) -> TestRecording:
    """Record this test; afterwards, or after ``rprof.stop()``, see ``rprof.profile``."""
    return _recording_of(request.node)


def _recording_of(item: pytest.Item) -> TestRecording:
    recording = item.stash.get(_RECORDING, None)
    if recording is None:
        recording = item.stash[_RECORDING] = TestRecording(_rate(item.config))
    return recording


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Record the body of a test that wants it, and hold it to its budget."""
    budget = _budget(item)
    every = _profiles_every_test(item.config)
    if not (every or budget is not None or "rprof" in getattr(item, "fixturenames", ())):
        return (yield)
    # A test that is run again gets a new recording; its fixture is set up anew as well.
    recording = _recording_of(item)
    recording.start()
    try:
        result = yield
    finally:
        profile = recording.stop()
        if every:
            _keep(item, profile)
    if budget is not None:
        excess = _excess(budget, profile)
        if excess:
            pytest.fail(_explain(item, excess, profile), pytrace=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    """Let go of the recording once the fixtures have seen it."""
    try:
        return (yield)
    finally:
        if _RECORDING in item.stash:
            # A timeout may have broken off its begin or its end.
            item.stash[_RECORDING].abandon()
            del item.stash[_RECORDING]


def _keep(item: pytest.Item, profile: Profile) -> None:
    directory = _directory(item.config)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = profile.write(directory / _file_name(item.nodeid))
    item.user_properties.append((_PROPERTY, str(path)))


def _file_name(nodeid: str) -> str:
    """Return a file name that is safe everywhere, readable, and different for every test."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", nodeid.replace("::", ".")).strip("-.")
    digest = hashlib.sha256(nodeid.encode("utf-8", "backslashreplace")).hexdigest()[:8]
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


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note where a test's profile is; under xdist this runs in the controller."""
    if report.when == "call" and _active is not None:
        for name, value in report.user_properties:
            if name == _PROPERTY:
                _active.by_test[report.nodeid] = Path(str(value))


# pytest_runtest_logreport gets no config, and pytester runs one session inside another.
_active: _SessionProfiles | None = None


@pytest.hookimpl(wrapper=True)
def pytest_sessionstart(session: pytest.Session) -> Generator[None, Any, Any]:
    """Make this session the one that reports belong to."""
    global _active
    session.config.stash[_OUTER] = _active
    _active = session.config.stash[_SESSION]
    return (yield)


_OUTER = pytest.StashKey["_SessionProfiles | None"]()


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, Any, Any]:
    """Merge the profiles of all tests; under xdist only the controller does."""
    global _active
    try:
        result = yield
    finally:
        _active = session.config.stash.get(_OUTER, None)
    by_test = session.config.stash[_SESSION].by_test
    if by_test and not hasattr(session.config, "workerinput"):
        _merged(by_test).write(_directory(session.config) / "combined.pb.gz")
    return result


def _merged(by_test: Mapping[str, Path]) -> Profile:
    from ._profile import load

    first, *others = (load(path) for path in by_test.values())
    return first.merge(*others)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print where the profiles are and, with ``--rprof-top``, what is heavy."""
    by_test = config.stash[_SESSION].by_test
    if not by_test:
        return
    from ._profile import load

    combined = _directory(config) / "combined.pb.gz"
    terminalreporter.section("rprof")
    terminalreporter.write_line(f"profiles of {len(by_test)} tests in {combined.parent}")
    terminalreporter.write_line(f"all together: go tool pprof -top {combined}")
    count = _top(config)
    if not count:
        return
    profile = load(combined)
    for kind in ("cpu", "wall"):
        terminalreporter.write_line("")
        terminalreporter.write_line(f"heaviest functions by {kind}: {profile.top(count, by=kind)}")
    totals = {test: load(path).totals for test, path in by_test.items()}
    heaviest = sorted(totals.items(), key=lambda pair: -pair[1]["cpu"])[:count]
    terminalreporter.write_line("")
    terminalreporter.write_line("heaviest tests by cpu:")
    for test, total in heaviest:
        terminalreporter.write_line(
            f"{total['cpu'] / 1e6:>10,.1f} ms cpu {total['wall'] / 1e6:>10,.1f} ms wall  {test}"
        )
