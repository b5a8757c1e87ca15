"""Options: arguments, environment, defaults, and what is said about wrong ones."""

from __future__ import annotations

import os

import pytest
from rprof import RprofError, RprofTypeError, RprofValueError, profile, start
from rprof._config import OPTIONS, program_name, resolve, unknown_variables


def test_an_argument_beats_the_environment_beats_the_default():
    environment = {"RPROF_RATE": "50", "RPROF_WINDOW": "5"}
    config = resolve({"rate": 20}, environment=environment)
    assert (config.rate, config.window, config.max_depth) == (20, 5, 512)


def test_every_option_has_a_variable():
    texts = {
        "output": "x/",
        "rate": "7",
        "window": "8.5",
        "engine": "gil",
        "max_overhead": "0.5",
        "keep_files": "9",
        "keep_bytes": "10",
        "max_nodes": "1000",
        "max_depth": "11",
        "threads": "a, b*",
        "recent": "60",
        "recent_bytes": "70000",
        "exit_hooks": "false",
    }
    assert set(texts) == set(OPTIONS)
    environment = {"RPROF_" + name.upper(): text for name, text in texts.items()}
    config = resolve({}, environment=environment)
    assert config == ("x/", 7, 8.5, "gil", 0.5, 9, 10, 1000, 11, ("a", "b*"), 60, 70_000, False)
    assert resolve({}, environment={"RPROF_OUTPUT": "none"}).output is None


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"rate": 0}, RprofValueError, ["rate=0", "0.01", "10000", "Hz"]),
        ({"rate": 10_001}, RprofValueError, ["rate=10001", "10000"]),
        ({"rate": "fast"}, RprofTypeError, ["rate", "'fast'", "number"]),
        ({"rate": True}, RprofTypeError, ["rate", "True"]),
        ({"rate": float("nan")}, RprofValueError, ["rate=nan"]),
        ({"window": 0.001}, RprofValueError, ["window=0.001", "seconds"]),
        ({"max_overhead": 1.5}, RprofValueError, ["max_overhead=1.5", "core"]),
        ({"keep_files": 0}, RprofValueError, ["keep_files=0"]),
        ({"keep_files": 1.5}, RprofTypeError, ["keep_files", "1.5"]),
        ({"max_nodes": 1}, RprofValueError, ["max_nodes=1"]),
        ({"max_depth": 1}, RprofValueError, ["max_depth=1"]),
        ({"engine": "turbo"}, RprofValueError, ["turbo", "'direct'"]),
        ({"engine": 3}, RprofTypeError, ["engine", "3"]),
        ({"threads": "worker"}, RprofValueError, ["threads='worker'", "['worker']"]),
        ({"threads": [1]}, RprofTypeError, ["threads", "[1]"]),
        ({"threads": []}, RprofTypeError, ["threads"]),
        ({"exit_hooks": 1}, RprofTypeError, ["exit_hooks", "1", "True or False"]),
        ({"output": 3}, RprofTypeError, ["output", "3"]),
        ({"output": b"x"}, RprofTypeError, ["output", "b'x'"]),
        ({"output": ""}, RprofValueError, ["output"]),
        ({"output": "a\0b"}, RprofValueError, ["output"]),
        ({"rte": 3}, RprofTypeError, ["rte", "rate"]),
    ],
)
def test_a_wrong_option_is_named_with_its_value_and_the_remedy(options, kind, words):
    with pytest.raises(kind) as caught:
        start(**options)
    assert isinstance(caught.value, RprofError)
    for word in words:
        assert word in str(caught.value)


def test_a_wrong_variable_is_named():
    with pytest.raises(RprofValueError, match="RPROF_RATE='often'"):
        resolve({}, environment={"RPROF_RATE": "often"})
    with pytest.raises(RprofValueError, match="RPROF_RATE=-5"):
        resolve({}, environment={"RPROF_RATE": "-5"})
    assert unknown_variables({"RPROF_RTE": "1", "RPROF_RATE": "1", "PATH": ""}) == ["RPROF_RTE"]


def test_what_a_block_does_not_take():
    with pytest.raises(RprofValueError, match="window"):
        profile(window=5)
    with pytest.raises(RprofValueError, match=r"rprof/.*rprof\.pb\.gz"):
        profile("rprof/")
    with pytest.raises(RprofTypeError, match="colour"):
        profile(colour="red")


def test_continuous_profiling_takes_no_callable():
    with pytest.raises(RprofValueError, match="profile"):
        start(threads=lambda info: True)


@pytest.mark.parametrize(
    ("argv0", "name"),
    [
        ("/srv/app.py", "app"),
        ("", "python"),
        ("-c", "python"),
        ("-m", "python"),
        (os.path.join("pkg", "__main__.py"), "pkg"),
        ("/usr/bin/gunicorn", "gunicorn"),
    ],
)
def test_the_program_is_named_after_what_was_started(monkeypatch, argv0, name):
    monkeypatch.setattr("sys.argv", [argv0])
    monkeypatch.setattr("sys.orig_argv", ["python"])
    assert program_name() == name


def test_a_module_that_is_still_being_found_has_its_name_in_the_interpreters_arguments(monkeypatch):
    monkeypatch.setattr("sys.argv", ["-m", "x"])
    monkeypatch.setattr("sys.orig_argv", ["python", "-X", "dev", "-m", "pkg.tool", "x"])
    assert program_name() == "tool"
