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


def test_the_pages_have_the_tables_of_the_committed_figures(table):
    figures = table.committed()
    assert {f["benchmark"] for f in figures} == set(table.BENCHMARKS)
    page = table.PAGE.read_text(encoding="utf-8")
    assert table.between(page, table.TABLES, table.render(figures)) == page
    readme = table.README.read_text(encoding="utf-8")
    assert table.between(readme, table.COST, table.short_cost(figures)) == readme


def test_the_short_row_has_the_cost_of_the_direct_engine(table):
    lines = table.short_cost(table.committed()).splitlines()
    assert len(lines) == 3
    assert lines[2].startswith(f"| {table.OURS} |")
    assert lines[0].count("|") == len(table.SHORT) + 2


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
    page = "before\n<a>\nold\n</a>\nafter\n"
    new = table.between(page, ("<a>", "</a>"), "new")
    assert new == "before\n<a>\n\nnew\n\n</a>\nafter\n"
    assert table.between(new, ("<a>", "</a>"), "new") == new


def test_a_page_without_marks_is_refused(table):
    with pytest.raises(SystemExit, match="lacks"):
        table.between("text", ("<a>", "</a>"), "new")


def test_figures_are_kept_by_benchmark_and_version(table, tmp_path, monkeypatch):
    monkeypatch.setattr(table, "RESULTS", tmp_path / "results")
    file = tmp_path / "any.json"
    figures = accuracy("3.13.0", [{"profiler": "rprof direct", "function wall": 1.0}])
    file.write_text(json.dumps(figures), encoding="utf-8")
    table.keep(file)
    assert table.committed() == [figures]
    assert [f.name for f in (tmp_path / "results").iterdir()] == ["accuracy-3.13.json"]
