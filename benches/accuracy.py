"""How far what a profiler says is from what happened.

Run:  python benches/accuracy.py [--seconds N] [--rate HZ] [--json FILE]

A workload of known cost is run under each profiler in turn: loops in Python, one long big-integer
multiplication by an operator and a trivial call on the next line, sorting in C by a call, hashing
and sleeping without the GIL. The workload itself measures what each function and each line of one
function really took, by the wall clock and by its thread's CPU clock. What the profiler says is
compared by the total variation distance: the share of all time that is in the wrong place, in
percent (0: all right, 100: all wrong).

The noise floor is what an ideal sampler of as many samples would show by chance. `sleep` is the CPU
time given to the sleeping line beyond the truth, in points. Profilers that are not installed are
named; what a profiler does not tell (pyinstrument: CPU, other threads) is left out.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import rprof

FACTOR = 3**40_000
NUMBERS = list(range(30_000))
BLOB = bytes(4 << 20)

local = threading.local()


class Truth:
    """What the functions and lines of one thread took: wall and CPU seconds."""

    def __init__(self) -> None:
        self.wall: Counter[str] = Counter()
        self.cpu: Counter[str] = Counter()

    def add(self, name: str, wall: float, cpu: float) -> None:
        self.wall[name] += wall
        self.cpu[name] += cpu


@contextmanager
def _measured(name: str):
    wall, cpu = time.perf_counter(), time.thread_time()
    yield
    local.truth.add(name, time.perf_counter() - wall, time.thread_time() - cpu)


def count_up(rounds: int) -> None:
    with _measured("count_up"):
        total = 0
        for k in range(rounds * 4_000):
            total += k


def add_words(rounds: int) -> None:
    with _measured("add_words"):
        words: dict[int, int] = {}
        for k in range(rounds * 2_000):
            words[k & 255] = words.get(k & 255, 0) + 1


def multiply(rounds: int) -> None:
    clock, cpu_clock, add = time.perf_counter, time.thread_time, local.truth.add
    # The wall clock comes last: a thread that is told to give the GIL away does so after the first
    # call, in this function.
    for _ in range(rounds):
        a, b = clock(), cpu_clock()
        _ = FACTOR * FACTOR
        d, c = cpu_clock(), clock()
        nothing()
        f, e = cpu_clock(), clock()
        add("multiply", c - a, d - b)
        add("nothing", e - c, f - d)


def nothing() -> None:
    """Called after the multiplication: a sampler that needs the GIL sees the time here."""


def sort_numbers(rounds: int) -> None:
    with _measured("sort_numbers"):
        for _ in range(rounds):
            sorted(NUMBERS, reverse=True)


def digest(rounds: int) -> None:
    with _measured("digest"):
        for _ in range(max(1, rounds // 4)):
            hashlib.sha256(BLOB).digest()


def rest(rounds: int) -> None:
    with _measured("rest"):
        for _ in range(rounds):
            time.sleep(0.0007)


def lines(rounds: int) -> None:
    """Each statement that takes time has a line, and its truth, of its own."""
    clock, cpu_clock, add = time.perf_counter, time.thread_time, local.truth.add
    for _ in range(max(1, rounds // 4)):
        a, b = clock(), cpu_clock()
        _ = FACTOR * FACTOR  # line: multiply
        d, c = cpu_clock(), clock()
        sum(range(40_000))  # line: sum
        f, e = cpu_clock(), clock()
        sorted(NUMBERS, reverse=True)  # line: sort
        h, g = cpu_clock(), clock()
        time.sleep(0.0005)  # line: sleep
        j, i = cpu_clock(), clock()
        add("line multiply", c - a, d - b)
        add("line sum", e - c, f - d)
        add("line sort", g - e, h - f)
        add("line sleep", i - g, j - h)


FUNCTIONS = (count_up, add_words, multiply, sort_numbers, digest, rest)
NAMES = {function.__name__ for function in FUNCTIONS} | {"nothing"}
LINES = {
    number: text.rpartition("line: ")[2].strip()
    for number, text in enumerate(Path(__file__).read_text(encoding="utf-8").splitlines(), 1)
    if "# " in text and "line: " in text and "text" not in text
}


def work(seconds: float, seed: int) -> Truth:
    """Call the functions in random order and amounts."""
    local.truth = truth = Truth()
    chance = random.Random(seed)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        chance.choice((*FUNCTIONS, lines))(chance.randint(1, 24))
    return truth


def several(seconds: float, seed: int) -> list[Truth]:
    """The same in three threads at once, which want the GIL from each other."""
    truths: list[Truth] = []
    threads = [
        threading.Thread(
            target=lambda n=n: truths.append(work(seconds, seed + n)), name=f"worker {n}"
        )
        for n in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return truths


class Said:
    """What a profiler says, in any unit: by function and by line of `lines`."""

    def __init__(self) -> None:
        self.function: dict[str, Counter[str]] = {}
        self.line: dict[str, Counter[str]] = {}
        self.samples = 0

    def add(self, kind: str, stack: list[tuple[str, int]], value: float) -> None:
        """Charge the innermost function of the workload; `stack` is outermost first."""
        functions = self.function.setdefault(kind, Counter())
        for name, line in reversed(stack):
            if name == "lines":
                self.line.setdefault(kind, Counter())[LINES.get(line, "elsewhere")] += value
                functions["lines"] += value
                return
            if name in NAMES:
                functions[name] += value
                return
        functions["elsewhere"] += value


def last_name(function: str) -> str:
    return function.rpartition(".")[2]


def run_rprof(engine: str, rate: int, body: Callable[[], object]) -> tuple[object, Said]:
    with rprof.profile(rate=rate, engine=engine, max_overhead=1.0) as block:
        result = body()
    said = Said()
    for kind in ("wall", "cpu"):
        for stack, value in block.profile.stacks(kind):
            said.add(kind, [(last_name(frame.name), frame.line) for frame in stack], value)
    said.samples = block.profile.totals["samples"]
    return result, said


class PythonSampler:
    """The sampler that everybody writes first."""

    def __init__(self, rate: int) -> None:
        self.period = 1 / rate
        self.said = Said()
        self.done = False
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        own, main = threading.get_ident(), threading.main_thread().ident
        before = time.perf_counter()
        while not self.done:
            time.sleep(self.period)
            now = time.perf_counter()
            for ident, leaf in sys._current_frames().items():
                if ident == own or (ident == main and threading.active_count() > 2):
                    continue
                stack, frame = [], leaf
                while frame is not None:
                    stack.append((frame.f_code.co_name, frame.f_lineno))
                    frame = frame.f_back
                self.said.add("wall", stack[::-1], now - before)
                self.said.samples += 1
            before = now


def run_python_thread(rate: int, body: Callable[[], object]) -> tuple[object, Said]:
    sampler = PythonSampler(rate)
    sampler.thread.start()
    try:
        result = body()
    finally:
        sampler.done = True
        sampler.thread.join()
    return result, sampler.said


def run_pyinstrument(rate: int, body: Callable[[], object]) -> tuple[object, Said]:
    from pyinstrument import Profiler

    profiler = Profiler(interval=1 / rate)
    profiler.start()
    result = body()
    session = profiler.stop()
    said = Said()
    for frames, seconds in session.frame_records:
        stack = []
        for frame in frames:
            name, _, rest = frame.partition("\x00")
            stack.append((name, int(rest.split("\x00")[1].split("\x01")[0] or 0)))
        said.add("wall", stack, seconds)
        said.samples += 1
    return result, said


def run_py_spy(rate: int, body: Callable[[], object]) -> tuple[object, Said]:
    said = Said()
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "raw")
        command = ["py-spy", "record", "--format", "raw", "--rate", str(rate), "--idle"]
        command += ["--nonblocking", "--output", str(file), "--pid", str(os.getpid())]
        recorder = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        result = body()
        recorder.send_signal(2)
        recorder.wait(30)
        text = file.read_text() if file.exists() else ""
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = []
        for frame in stack.split(";"):
            name, _, place = frame.partition(" (")
            number = place.rstrip(")").rpartition(":")[2]
            frames.append((last_name(name), int(number) if number.isdigit() else 0))
        said.add("wall", frames, int(count))
        said.samples += int(count)
    return result, said


def distance(truth: Counter[str], said: Counter[str]) -> float:
    """Total variation distance in percent, over what the truth knows of."""
    whole, told = sum(truth.values()), sum(said.values())
    if not told:
        return 100.0
    names = {*truth, *said}
    return 50 * sum(abs(truth[name] / whole - said[name] / told) for name in names)


def noise_floor(truth: Counter[str], samples: float) -> float:
    """The mean distance of `samples` independent draws from the truth, in percent."""
    whole = sum(truth.values())
    shares = [value / whole for value in truth.values()]
    return 50 * sum(math.sqrt(2 * p * (1 - p) / math.pi / max(samples, 1)) for p in shares)


def functions_of(truths: list[Truth], kind: str) -> Counter[str]:
    merged: Counter[str] = Counter()
    for truth in truths:
        for name, value in getattr(truth, kind).items():
            merged["lines" if name.startswith("line ") else name] += value
    return merged


def lines_of(truths: list[Truth], kind: str) -> Counter[str]:
    merged: Counter[str] = Counter()
    for truth in truths:
        for name, value in getattr(truth, kind).items():
            if name.startswith("line "):
                merged[name.removeprefix("line ")] += value
    return merged


def compare(truths: list[Truth], said: Said) -> dict[str, float]:
    row: dict[str, float] = {"samples": said.samples}
    for kind in ("wall", "cpu"):
        truth = functions_of(truths, kind)
        if kind in said.function:
            told = said.function[kind].copy()
            told.pop("elsewhere", None)
            row[f"function {kind}"] = distance(truth, told)
            row[f"floor {kind}"] = noise_floor(
                truth,
                said.samples
                * sum(value for value in truth.values())
                / max(sum(functions_of(truths, "wall").values()), 1e-9),
            )
        if kind in said.line:
            told = said.line[kind].copy()
            told.pop("elsewhere", None)
            row[f"line {kind}"] = distance(lines_of(truths, kind), told)
    if "cpu" in said.function:
        truth, told = functions_of(truths, "cpu"), said.function["cpu"]
        real = truth["rest"] / sum(truth.values())
        row["sleep"] = 100 * (told["rest"] / max(sum(told.values()), 1) - real)
    return row


COLUMNS = (
    "function wall",
    "floor wall",
    "function cpu",
    "floor cpu",
    "line wall",
    "line cpu",
    "sleep",
)


NOT_DRIVEN = ("ddtrace", "Scalene", "austin", "pyroscope-io", "profiling.sampling")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=8, help="each run (%(default)s)")
    parser.add_argument("--rate", type=int, default=1_000, help="Hz (%(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    profilers: dict[str, Callable[[Callable[[], object]], tuple[object, Said]]] = {
        "rprof direct": lambda body: run_rprof("direct", options.rate, body),
        "rprof gil": lambda body: run_rprof("gil", options.rate, body),
        "Python thread": lambda body: run_python_thread(options.rate, body),
    }
    absent = [
        f"{name} (this script does not drive it)"
        for name in ("ddtrace", "Scalene", "austin", "pyroscope-io", "profiling.sampling")
    ]
    if importlib.util.find_spec("pyinstrument"):
        profilers["pyinstrument"] = lambda body: run_pyinstrument(options.rate, body)
    else:
        absent.append("pyinstrument (not installed)")
    if shutil.which("py-spy"):
        profilers["py-spy"] = lambda body: run_py_spy(options.rate, body)
    else:
        absent.append("py-spy (not installed)")
    print(
        f"CPython {sys.version.split()[0]}, {options.rate} Hz, {options.seconds} s each, in percent"
    )
    rows = []
    for threads in (1, 3):
        print(f"\n{threads} thread{'s' * (threads > 1)}")
        print(f"{'profiler':16} {'samples':>8} " + " ".join(f"{name:>13}" for name in COLUMNS))
        for name, run in profilers.items():
            if threads > 1 and name == "pyinstrument":
                continue
            seed = 7
            if threads == 1:
                result, said = run(lambda seed=seed: [work(options.seconds, seed)])
            else:
                result, said = run(lambda seed=seed: several(options.seconds, seed))
            row = compare(result, said)
            rows.append({"profiler": name, "threads": threads, **row})
            cells = (f"{row[key]:13.2f}" if key in row else f"{'-':>13}" for key in COLUMNS)
            print(f"{name:16} {said.samples:8} " + " ".join(cells))
    print("\nnot compared: " + ", ".join(absent))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"python": sys.version, "rate": options.rate, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
