import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def table():
    spec = importlib.util.spec_from_file_location("table", ROOT / "benches" / "table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def accuracy(python, rows, absent=()):
    return {
        "benchmark": "accuracy",
        "date": "2026-01-02",
        "python": python,
        "cpus": 4,
        "machine": "x86_64",
        "load": 0.2,
        "versions": {"rprof direct": "0.1", "austin": "4.0"},
        "rate": 1000,
        "seconds": 8.0,
        "not compared": dict(absent),
        "rows": [{"threads": 1, "function wall floor": 1.0, **row} for row in rows],
    }


def test_the_readme_has_the_tables_of_the_committed_figures(table):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    figures = table.committed()
    assert {f["benchmark"] for f in figures} == set(table.BENCHMARKS)
    assert table.in_readme(readme, table.render(figures)) == readme


def test_a_profiler_that_is_better_by_more_than_chance_is_named(table):
    rows = [
        {"profiler": "rprof direct", "function wall": 2.5},
        {"profiler": "austin", "function wall": 1.5},
        {"profiler": "py-spy", "function wall": 3.5},
    ]
    text = table.render([accuracy("3.13.0", rows)])
    assert "- accuracy, function wall, 1 (CPython 3.13): austin 1.5 against 2.5." in text


def test_a_difference_within_chance_names_nobody(table):
    rows = [
        {"profiler": "rprof direct", "function wall": 1.5},
        {"profiler": "austin", "function wall": 0.5},
    ]
    assert "- nowhere in these runs." in table.render([accuracy("3.13.0", rows)])


def test_a_further_version_adds_what_the_first_does_not_have(table):
    rows = [{"profiler": "rprof direct", "function wall": 1.5}]
    first = accuracy("3.9.1", [*rows, {"profiler": "austin", "function wall": 2.0}])
    second = accuracy(
        "3.15.2",
        [
            *rows,
            {"profiler": "austin", "function wall": 9.9},
            {"profiler": "profiling.sampling", "function wall": 3.0},
        ],
        absent={"py-spy": "not installed"},
    )
    text = table.render([second, first])
    assert "| **rprof direct**, 3.15 | 1.5 |" in text
    assert "| profiling.sampling, 3.15 | 3.0 |" in text
    assert "9.9" not in text
    assert "- py-spy: not installed (CPython 3.15)." in text


def test_only_what_is_between_the_marks_is_replaced(table):
    readme = f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n"
    new = table.in_readme(readme, "new")
    assert new == f"before\n{table.BEGIN}\n\nnew\n\n{table.END}\nafter\n"
    assert table.in_readme(new, "new") == new


def test_a_readme_without_marks_is_refused(table):
    with pytest.raises(SystemExit, match="lacks"):
        table.in_readme("text", "new")


def test_figures_are_kept_by_benchmark_and_version(table, tmp_path, monkeypatch):
    monkeypatch.setattr(table, "RESULTS", tmp_path / "results")
    file = tmp_path / "any.json"
    figures = accuracy("3.13.0", [{"profiler": "rprof direct", "function wall": 1.0}])
    file.write_text(json.dumps(figures), encoding="utf-8")
    table.keep(file)
    assert table.committed() == [figures]
    assert [f.name for f in (tmp_path / "results").iterdir()] == ["accuracy-3.13.json"]
