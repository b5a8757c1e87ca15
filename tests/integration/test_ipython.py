"""The magics of IPython."""

from __future__ import annotations

import pytest
import rprof

interactiveshell = pytest.importorskip(
    "IPython.core.interactiveshell", reason="IPython is not installed"
)


@pytest.fixture
def shell(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    shell = interactiveshell.InteractiveShell()
    shell.run_line_magic("load_ext", "rprof")
    shell.run_cell("from burning import burn_one, burn_two")
    return shell


def names(profile):
    return {row.name for row in profile.top(100, "cpu")}


def test_a_statement(shell):
    profile = shell.run_line_magic("rprof", "burn_one(0.1)")
    assert isinstance(profile, rprof.Profile)
    assert "burning.burn_one" in names(profile)
    assert shell.user_ns["_rprof"] is profile


def test_a_cell_keeps_its_variables_and_its_errors(shell, capsys, tmp_path):
    path = tmp_path / "cell.pb.gz"
    cell = "found = burn_two(0.05)\nburn_one(0.05)\n1 / 0\n"
    profile = shell.run_cell_magic("rprof", f"-r 500 -a -o {path}", cell)
    assert "found" in shell.user_ns
    assert "ZeroDivisionError" in capsys.readouterr().out
    assert {"burning.burn_one", "burning.burn_two"} <= names(profile)
    assert profile.period_ns == 2_000_000
    assert rprof.load(path).totals == profile.totals


def test_the_tree_as_text(shell, capsys):
    assert shell.run_line_magic("rprof", "-t burn_one(0.1)") is None
    assert "burning.burn_one" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "said"),
    [("", "nothing to profile"), ("-x f()", "-x is no option"), ("-r fast f()", "no number of Hz")],
)
def test_slips_are_explained(shell, capsys, line, said):
    assert shell.run_line_magic("rprof", line) is None
    assert said in capsys.readouterr().out
