"""The benchmark tables of the documentation, made from what the benchmarks wrote.

docs/explanation/benchmarks.md has them all, and README.md one row of the cost.

Run:  python benches/table.py --run          run the benchmarks on this interpreter, then write
      python benches/table.py --from FILE... take these JSON files of theirs, then write
      python benches/table.py                write from the files in benches/results

There is one file for each benchmark and version of CPython in benches/results; --run and --from
replace those of theirs. The first version has all its profilers in the tables, any further one
rprof's direct engine and the profilers that the first does not have.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
PAGE = HERE.parent / "docs" / "explanation" / "benchmarks.md"
RESULTS = HERE / "results"
BENCHMARKS = ("overhead", "accuracy", "torn")
TABLES = "<!-- benchmarks: made by benches/table.py -->", "<!-- /benchmarks -->"
COST = "<!-- cost: made by benches/table.py -->", "<!-- /cost -->"
# The columns of the README's row: what somebody who leaves it on pays.
SHORT = ("100 Hz", "1 kHz", "100 Hz, 1 busy", "100 Hz, 10 busy", "KiB a minute")

OURS = "rprof direct"
# Not to be beaten: nothing, and what does not record.
NOT_PEERS = ("rprof", "no profiler", "waking")
# The main thread is sampled too.
COST_THREADS = 11

# Why another profiler is better in a column, where we know it.
WHY = {
    "KiB a minute": "rprof keeps the stacks of each thread apart, with their lines and five values",
    "100 Hz, 10 busy": "with all threads busy each stack is read anew at each tick",
    "flutter": "rprof neither stops the program nor takes the GIL to read a stack",
    "recursion": (
        "rprof neither stops the program nor takes the GIL, and the stack grows by whole chunks"
        " while it is copied"
    ),
    "generators": (
        "rprof neither stops the program nor takes the GIL, and the memory of a generator is used"
        " again at once"
    ),
}

Figures = dict[str, Any]


class Column:
    """A figure of every profiler: how it is shown, and what counts when they are compared."""

    def __init__(
        self, title: str, cells: dict[str, str], values: dict[str, float], margin: float = 0.0
    ) -> None:
        self.title = title
        self.cells = cells
        self.values = values
        # Up to this value nothing is to be gained: noise, or what there is without a profiler.
        self.margin = margin

    def better(self) -> list[str]:
        """The peers that are better than rprof's direct engine by more than chance."""
        ours = self.values.get(OURS)
        if ours is None or ours <= self.margin:
            return []
        peers = {n: v for n, v in self.values.items() if not n.startswith(NOT_PEERS)}
        return sorted((n for n, v in peers.items() if v < ours), key=lambda name: peers[name])


def cost_columns(figures: Figures) -> list[Column]:
    columns = []
    for rate, busy, title in (
        (100, 0, "100 Hz"),
        (1_000, 0, "1 kHz"),
        (10_000, 0, "10 kHz"),
        (100, 1, "100 Hz, 1 busy"),
        (1_000, 1, "1 kHz, 1 busy"),
        (100, 10, "100 Hz, 10 busy"),
    ):
        cells, values = {}, {}
        for row in figures["cost"]:
            threads = row.get("threads", COST_THREADS - 1)
            if (row["rate"], row["busy"], threads) != (rate, busy, COST_THREADS - 1):
                continue
            part = row["samples per second"] / (COST_THREADS * rate)
            cells[row["profiler"]] = f"{row['percent of core']:.2f}" + (
                f" ({100 * part:.0f} %)" if part else ""
            )
            if part >= 0.95:
                values[row["profiler"]] = row["percent of core"]
        columns.append(Column(title, cells, values))
    pauses = {row["profiler"]: row for row in figures["pauses"]}
    for key, title in (("p99 us", "pause p99, µs"), ("max us", "pause max, µs")):
        values = {name: row[key] for name, row in pauses.items()}
        margin = max((v for n, v in values.items() if n.startswith("no profiler")), default=0.0)
        columns.append(Column(title, {n: f"{v:.0f}" for n, v in values.items()}, values, margin))
    sizes = {row["profiler"]: 60 * row["KiB"] / row["seconds"] for row in figures["size"]}
    cells = {name: f"{value:.0f}" for name, value in sizes.items()}
    return [*columns, Column("KiB a minute", cells, sizes)]


def accuracy_columns(figures: Figures) -> list[Column]:
    columns = []
    for threads in (1, 3):
        rows = {r["profiler"]: r for r in figures["rows"] if r["threads"] == threads}
        for key in ("function wall", "function cpu", "line wall", "line cpu"):
            values = {name: row[key] for name, row in rows.items() if key in row}
            cells = {name: f"{value:.1f}" for name, value in values.items()}
            floor = rows.get(OURS, {}).get(f"{key} floor", 0.0)
            cells["(noise floor)"] = f"{floor:.1f}"
            columns.append(Column(f"{key}, {threads}", cells, values, floor + threads / 2 + 0.5))
        values = {name: abs(row["sleep"]) for name, row in rows.items() if "sleep" in row}
        cells = {name: f"{row['sleep']:+.1f}" for name, row in rows.items() if "sleep" in row}
        columns.append(Column(f"sleep, {threads}", cells, values, 0.5))
    return columns


def torn_columns(figures: Figures) -> list[Column]:
    columns = []
    for program in dict.fromkeys(row["program"] for row in figures["rows"]):
        rows = {r["profiler"]: r for r in figures["rows"] if r["program"] == program}
        cells = {
            name: f"{row['impossible percent']:.2f} / {row['incomplete percent']:.2f}"
            for name, row in rows.items()
        }
        values = {name: row["impossible percent"] for name, row in rows.items()}
        columns.append(Column(program, cells, values))
    return columns


COLUMNS: dict[str, Callable[[Figures], list[Column]]] = {
    "overhead": cost_columns,
    "accuracy": accuracy_columns,
    "torn": torn_columns,
}
TEXT = {
    "overhead": (
        "**Cost**: CPU time in % of one core for 10 threads of 30 frames, all blocked but for the"
        " columns with 1 or all 10 busy, and in brackets the part of the asked samples that came;"
        " how much longer than usual the slowest pieces of work took in a loop at 100 Hz; what is"
        " written at 100 Hz. Where fewer than 95 % of the samples came, the cost is not compared."
        " While all are blocked, rprof's direct engine serves every fourth tick: those between,"
        " at which nobody can have moved, count among its samples."
    ),
    "accuracy": (
        "**Accuracy** at {rate} Hz for {seconds:g} s: % of wall or CPU time charged to a wrong"
        " function, or line of one function, with 1 and with 3 threads; `sleep` is the CPU time"
        " charged to a sleeping function beyond the truth, in points. The noise floor is what an"
        " ideal sampler with as many samples as the direct engine shows by chance."
    ),
    "torn": (
        "**Torn stacks** at {rate} Hz, in % of samples: with a call that cannot be / marked as"
        " incomplete."
    ),
}


def table(figures: list[Figures]) -> list[str]:
    """The rows of one benchmark for all versions of CPython, the first one whole."""
    whole: set[str] = set()
    lines = []
    for number, version in enumerate(figures):
        columns = COLUMNS[version["benchmark"]](version)
        if not number:
            titles = ["", *(column.title for column in columns)]
            lines += [_row(titles), _row(["---"] + ["---:"] * len(columns))]
        for name in dict.fromkeys(name for column in columns for name in column.cells):
            if number and name in whole and name not in (OURS, "(noise floor)"):
                continue
            whole |= {name} if not number else set()
            bold = f"**{name}**" if name == OURS else name
            title = f"{bold}, {_minor(version)}" if number else bold
            lines.append(_row([title, *(column.cells.get(name, "-") for column in columns)]))
    return lines


def where_others_are_better(figures: Iterable[Figures]) -> list[str]:
    lines = []
    for version in figures:
        for column in COLUMNS[version["benchmark"]](version):
            if better := column.better():
                others = ", ".join(f"{name} {column.cells[name]}" for name in better)
                why = f": {WHY[column.title]}" if column.title in WHY else ""
                lines.append(
                    f"- {version['benchmark']}, {column.title} (CPython {_minor(version)}):"
                    f" {others} against {column.cells[OURS]}{why}."
                )
    return lines


def not_compared(figures: Iterable[Figures]) -> list[str]:
    """What was not compared, and why, each once."""
    reasons: dict[str, list[str]] = {}
    for version in figures:
        for name, reason in version["not compared"].items():
            text = f"{version['benchmark']}: {name}" if "," in name else name
            said = reasons.setdefault(f"{reason} (CPython {_minor(version)})", [])
            if text not in said:
                said.append(text)
    return [f"- {'; '.join(names)}: {reason}." for reason, names in reasons.items()]


def render(figures: list[Figures]) -> str:
    """Everything between the marks."""
    versions = sorted({_minor(f) for f in figures}, key=lambda v: [int(n) for n in v.split(".")])
    figures = sorted(
        figures, key=lambda f: (BENCHMARKS.index(f["benchmark"]), versions.index(_minor(f)))
    )
    lines = []
    for version in versions:
        of_version = [f for f in figures if _minor(f) == version]
        dates = " and ".join(sorted({f["date"] for f in of_version}))
        names = {k: v for f in of_version for k, v in f["versions"].items()}
        peers = {k: v for k, v in names.items() if not k.endswith(("as shipped", "--nonblocking"))}
        peers = {k: v for k, v in peers.items() if not k.startswith("rprof")}
        first = of_version[0]
        load = max(f["load"] for f in of_version)
        lines += [
            *([""] if lines else []),
            f"CPython {first['python']}, {first['cpus']} CPUs ({first['machine']}), {dates}, load"
            f" average {load:.1f} before the runs: "
            + ", ".join(f"{name} {number}" for name, number in peers.items())
            + ".",
        ]
    for benchmark in BENCHMARKS:
        chosen = [f for f in figures if f["benchmark"] == benchmark]
        if chosen:
            lines += ["", TEXT[benchmark].format(**chosen[0]), "", *table(chosen)]
    better = where_others_are_better(figures)
    lines += ["", "Where another profiler is better than the direct engine by more than chance:"]
    lines += ["", *(better or ["- nowhere in these runs."])]
    if missing := not_compared(figures):
        lines += ["", "Not compared:", "", *missing]
    return "\n".join(lines)


def short_cost(figures: Iterable[Figures]) -> str:
    """The cost of the direct engine on the first version of CPython, as a table of one row."""
    first = next(f for f in figures if f["benchmark"] == "overhead")
    columns = [column for column in cost_columns(first) if column.title in SHORT]
    titles = [f"CPython {_minor(first)}", *(column.title for column in columns)]
    cells = [OURS, *(column.cells[OURS] for column in columns)]
    return "\n".join([_row(titles), _row(["---"] + ["---:"] * len(columns)), _row(cells)])


def between(text: str, marks: tuple[str, str], new: str) -> str:
    """The text with something else between two marks."""
    begin, end = marks
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"the page lacks {begin} or {end}")
    return f"{before}{begin}\n\n{new}\n\n{end}{after}"


def write() -> None:
    """Write the tables of the committed figures."""
    figures = committed()
    for file, marks, new in ((PAGE, TABLES, render(figures)), (README, COST, short_cost(figures))):
        file.write_text(between(file.read_text("utf-8"), marks, new), encoding="utf-8")


def committed() -> list[Figures]:
    """The figures of the benchmarks that have tables."""
    files = [json.loads(file.read_text("utf-8")) for file in sorted(RESULTS.glob("*.json"))]
    return [figures for figures in files if figures["benchmark"] in BENCHMARKS]


def keep(file: Path) -> None:
    figures = json.loads(file.read_text(encoding="utf-8"))
    RESULTS.mkdir(exist_ok=True)
    name = f"{figures['benchmark']}-{_minor(figures)}.json"
    (RESULTS / name).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _minor(figures: Figures) -> str:
    return ".".join(figures["python"].split(".")[:2])


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--run", action="store_true", help="run the benchmarks first")
    source.add_argument("--from", nargs="+", metavar="FILE", type=Path, default=[], dest="files")
    options = parser.parse_args()
    for file in options.files:
        keep(file)
    if options.run:
        for benchmark in BENCHMARKS:
            with tempfile.TemporaryDirectory() as directory:
                file = Path(directory, "figures.json")
                command = [sys.executable, str(HERE / f"{benchmark}.py"), "--json", str(file)]
                subprocess.run(command, check=True)
                keep(file)
    write()


if __name__ == "__main__":
    main()
