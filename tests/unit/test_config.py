"""Options: arguments, environment, defaults, and what is said about wrong ones."""

from __future__ import annotations

import inspect
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rprof import RprofError, RprofTypeError, RprofValueError, profile, start
from rprof._config import OPTIONS, PRESETS, Config, program_name, resolve, unknown_variables


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
        "memory": "65536",
        "task_steps": "true",
        "locks": "none",
    }
    assert set(texts) == set(OPTIONS)
    environment = {"RPROF_" + name.upper(): text for name, text in texts.items()}
    config = resolve({}, environment=environment)
    threads = ("a", "b*")
    assert config == (
        *("x/", 7, 8.5, "gil", 0.5, 9, 10, 1000, 11, threads, 60, 70_000, False),
        65_536,
        True,
        None,
    )
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
        ({"memory": 100}, RprofValueError, ["memory=100"]),
        ({"memory": "1"}, RprofTypeError, ["memory", "'1'"]),
        ({"locks": True}, RprofTypeError, ["locks", "True", "'sampled'"]),
        ({"locks": "all"}, RprofValueError, ["locks='all'", "'sampled'", "'exact'"]),
        ({"output": 3}, RprofTypeError, ["output", "3"]),
        ({"output": b"x"}, RprofTypeError, ["output", "b'x'"]),
        ({"output": ""}, RprofValueError, ["output"]),
        ({"output": "a\0b"}, RprofValueError, ["output"]),
        ({"rte": 3}, RprofTypeError, ["rte", "rate"]),
        ({"unknown": 3}, RprofTypeError, ["unknown option unknown"]),
        ({"self": 3}, RprofTypeError, ["unknown option self"]),
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


# What a variable can hold.
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
VALUES = {
    "output": st.none() | TEXTS.filter(bool),
    "rate": st.floats(0.01, 10_000),
    "window": st.floats(0.005, 86_400 * 366),
    "engine": st.sampled_from(["auto", "direct", "gil"]),
    "max_overhead": st.floats(0, 1),
    "keep_files": st.integers(1, 1_000_000),
    "keep_bytes": st.integers(1, 1 << 62),
    "max_nodes": st.integers(100, 50_000_000),
    "max_depth": st.integers(8, 100_000),
    "threads": st.sampled_from(["all", "current", "main"])
    | st.lists(TEXTS | st.sampled_from(["all", "a,b", " a ", "\\", ""]), min_size=1).map(tuple),
    "recent": st.floats(0, 86_400),
    "recent_bytes": st.integers(1 << 16, 1 << 40),
    "exit_hooks": st.booleans(),
    "memory": st.none() | st.just(value=True) | st.integers(1 << 10, 1 << 30),
    "task_steps": st.booleans(),
    "locks": st.sampled_from([None, "sampled", "exact"]),
}


@given(st.fixed_dictionaries(VALUES))
def test_every_value_goes_through_a_variable_unchanged(values):
    """As `rprof run` tells the program that it becomes."""
    config = resolve(values)
    environment = {
        "RPROF_" + name.upper(): option.show(getattr(config, name))
        for name, option in OPTIONS.items()
    }
    again = resolve({}, environment=environment)
    assert again._replace(output=None) == config._replace(output=None)
    outputs = [path if path is None else os.path.normpath(path) for path in (again[0], config[0])]
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a, b* ,c", ("a", "b*", "c")),
        (r"a\,b", ("a,b",)),
        (r"\ a", (" a",)),
        (r"\all", ("all",)),
        ("all,b", ("all", "b")),
        ("two words", ("two words",)),
    ],
)
def test_names_of_threads_are_read_from_text(text, names):
    assert OPTIONS["threads"].parse(text) == names


def test_options_are_the_same_wherever_they_are_named():
    assert list(OPTIONS) == list(Config._fields)
    assert [*inspect.signature(start).parameters] == [*OPTIONS, "unknown"]
    assert {*inspect.signature(profile.__init__).parameters} - {"self", "unknown"} < set(OPTIONS)
    described = re.findall(r"^        (\w+): ", inspect.getdoc(start) or "", re.MULTILINE)
    described = described or re.findall(r"^    (\w+): ", inspect.getdoc(start) or "", re.MULTILINE)
    assert [name for name in described if name in OPTIONS] == list(OPTIONS)


def test_defaults_are_documented_as_they_are():
    text = " ".join((inspect.getdoc(start) or "").split())
    for name in ("rate", "window", "max_overhead", "keep_files", "max_nodes", "max_depth"):
        default = re.search(rf"\b{name}: .*?\(default ([\d.,]+)\)", text)
        assert default, name
        assert float(default[1].replace(",", "")) == OPTIONS[name].default, name
    text = " ".join((inspect.getdoc(profile) or "").split())
    default = re.search(r"max_overhead: .*? default ([\d.]+),", text)
    assert default
    assert float(default[1]) == PRESETS["block"].defaults["max_overhead"]


def test_presets_are_options():
    for name, preset in PRESETS.items():
        assert resolve({}, name, environment={}) == resolve(preset.defaults, environment={})
        assert preset.variables <= set(OPTIONS)
