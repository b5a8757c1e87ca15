"""Sampling at top speed for minutes, over a program that does all that is hard on a profiler.

Run:  python tests/soak.py [--seconds 600] [--rate 10000] [--engine direct] [--json FILE]

The program (`workloads/soaking.py`) runs twice side by side, with rprof and without: what its
memory grows by on its own is not rprof's. Each window is read as soon as it is written, and every
stack in it is held against what the program can do. At the end there is a table; the exit code is 1
if something in it is not as it must be.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import types
from collections import Counter, deque
from pathlib import Path
from typing import Any, NamedTuple

import rprof

WORKLOADS = Path(__file__).parent / "workloads"
sys.path.insert(0, str(WORKLOADS))

import soaking  # noqa: E402

MEBIBYTE = 1 << 20
PAGE = os.sysconf("SC_PAGESIZE")
WARM_UP_SECONDS = 2.0
WARM_UP_THREADS = 40
MAX_DEPTH = 64
"""Frames of a stack that are kept: of deep ones, few enough to be looked at one by one in time."""
KEEP_FILES = 60
KEEP_BYTES = 64 * MEBIBYTE
LARGEST_SLOPE = 0.1
"""MiB a minute that memory may grow faster than without rprof, in a run of ten minutes or more."""
SLACK = 2.0
"""MiB that may be more in the last half of a shorter run: so much comes and goes."""
LARGEST_SHARE = 0.5
"""Percent of the samples whose stacks may be incomplete, or torn."""
LARGEST_INCOMPLETE_BEFORE_3_11 = 2.0
"""Percent: each frame is an object of its own there, and a stack cannot be copied as one piece."""
LARGEST_INCOMPLETE_IN_SHORT = 5.0
"""Percent: in seconds, what else the machine does decides how often a stack changes while it is
read. A run of ten minutes holds the limit; a short one finds what is grossly wrong."""
PATIENCE = 30.0
"""Seconds for what takes a moment: threads to end, files to be closed, a process to exit."""

# ---------------------------------------------------------------------------------------------
# The program's side
# ---------------------------------------------------------------------------------------------


def resources() -> tuple[int, int]:
    """Open file descriptors and threads of this process."""
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def play(options: argparse.Namespace) -> None:
    """Run the program, and tell the other side how it went."""
    is_profiled = options.play == "profiled"
    if is_profiled:
        rprof.start(
            options.output,
            rate=options.rate,
            engine=options.engine,
            window=options.window,
            max_overhead=0,
            max_depth=MAX_DEPTH,
            keep_files=KEEP_FILES,
            keep_bytes=KEEP_BYTES,
        )
    soaking.run(WARM_UP_SECONDS, WARM_UP_THREADS)
    before = resources()
    begins = time.monotonic()
    counts = soaking.run(options.seconds, options.threads)
    ends = time.monotonic()
    # What belongs to threads is closed soon after they have ended.
    deadline = time.monotonic() + PATIENCE
    while (after := resources()) != before and time.monotonic() < deadline:
        time.sleep(0.05)
    status = rprof.status() if is_profiled else None
    if is_profiled:
        rprof.stop()
    told = {"begins": begins, "ends": ends, "counts": counts, "resources": [before, after]}
    print(json.dumps({**told, "status": status and status._asdict()}))


# ---------------------------------------------------------------------------------------------
# What can have been
# ---------------------------------------------------------------------------------------------

PYTHON_FILES = {__file__: "soak", soaking.__file__: "soaking"}


def is_pseudo(frame: rprof.Frame) -> bool:
    return frame.name.startswith("<") and not frame.file


def plain(frame: rprof.Frame) -> str:
    """The function's name without its module and what it is nested in."""
    return frame.name.rpartition(".")[2]


@functools.lru_cache(1_000)
def functions_of(file: str) -> dict[str, set[int]]:
    """The lines of each function of a source file, by name; 0 is what belongs to no line."""
    lines: dict[str, set[int]] = {}

    def collect(code: types.CodeType) -> None:
        name = getattr(code, "co_qualname", code.co_name)
        found = lines.setdefault(name, {code.co_firstlineno})
        found.update(line or 0 for _, _, line in code.co_lines())
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                collect(constant)

    is_made = file.startswith("made_")
    text = soaking.source(int(_number(file))) if is_made else Path(file).read_bytes()
    collect(compile(text, file, "exec", dont_inherit=True))
    return lines


@functools.lru_cache(100_000)
def is_valid(frame: rprof.Frame) -> bool:
    """Whether this function exists, in this file and with this line."""
    if is_pseudo(frame):
        return frame.name in {
            "<gc>",
            "<incomplete>",
            "<no Python frame>",
            "<overflow>",
        } or frame.name.endswith(" frames omitted>")
    if not frame.file.startswith(("/", "made_")):
        return False
    functions = functions_of(frame.file)
    # The module stands before the name, except for functions that are made.
    parts = frame.name.split(".")
    names = (".".join(parts[at:]) for at in range(len(parts)))
    return any(frame.line in functions.get(name, ()) for name in names)


@functools.lru_cache(100_000)
def is_possible(caller: rprof.Frame | None, callee: rprof.Frame) -> bool:
    """Whether a call leads from the one to the other; `None` calls what a thread begins with."""
    if callee.name in {"<gc>", "<overflow>"}:
        return True
    if caller is None:
        begins = {"<incomplete>", "<no Python frame>"}
        return callee.name in begins or plain(callee) in {"_bootstrap", "<module>"}
    # Only the deep recursion is too deep.
    if is_pseudo(caller):
        return caller.name != "<gc>" and plain(callee) == "down"
    if is_pseudo(callee):
        return plain(caller) == "down"
    if caller.file.startswith("made_"):
        return callee.file == caller.file and (plain(caller), plain(callee)) == (
            caller.file,
            f"within_{_number(caller.file)}",
        )
    if callee.file.startswith("made_"):
        return plain(caller) == "make" and plain(callee) in {"<module>", callee.file}
    if plain(callee) == "_remove":
        # A weak reference's callback, which comes when the referent goes.
        return True
    if caller.file in PYTHON_FILES:
        return plain(callee) in soaking.CALLS.get(plain(caller), ())
    if callee.file in PYTHON_FILES:
        return plain(caller) == "run" and plain(callee) in soaking.TARGETS
    return True


def _number(made_file: str) -> str:
    return made_file.partition("_")[2]


@functools.cache
def is_thread_name(name: str, threads: int) -> bool:
    kind, _, number = name.partition(" ")
    return (
        name in {"MainThread", "<other>", *soaking.THREADS}
        # One whose name was not known yet, or that `threading` does not know.
        or (kind == "thread" and number.isdecimal())
        or (kind == "brief" and number.isdecimal() and int(number) < threads)
        # A thread is known to `threading` by this until it has told its name.
        or kind.startswith("Dummy-")
    )


class Verdict:
    """What the stacks of all windows together say."""

    def __init__(self, threads: int) -> None:
        self.threads = max(threads, WARM_UP_THREADS)
        self.samples = self.torn = self.cut = self.windows = self.unread = 0
        self.made = 0
        self.invalid: Counter[str] = Counter()
        self.impossible: Counter[str] = Counter()

    def read(self, path: Path) -> None:
        profile = rprof.load(path)
        self.windows += 1
        for thread in profile.threads:
            if not is_thread_name(thread.name, self.threads):
                self.invalid[f"thread {thread.name!r}"] += 1
        for frames, count in profile.stacks("samples"):
            self.samples += count
            if not frames:
                self.invalid["a sample without a location"] += count
                continue
            if frames[0].name == "<incomplete>":
                self.torn += count * (len(frames) == 1)
                self.cut += count * (len(frames) > 1)
            self.made += count * (frames[-1].file.startswith("made_"))
            for caller, callee in zip((None, *frames), frames, strict=False):
                if not is_valid(callee):
                    self.invalid[f"{callee.name} in {callee.file}:{callee.line}"] += count
                if not is_possible(caller, callee):
                    name = caller.name if caller else "a thread"
                    self.impossible[f"{name} calls {callee.name}"] += count
                    break


# ---------------------------------------------------------------------------------------------
# The judge's side
# ---------------------------------------------------------------------------------------------


class Program:
    """The program in a process of its own, and how much memory it has had when."""

    def __init__(self, kind: str, options: argparse.Namespace, output: Path) -> None:
        arguments = ["--play", kind, "--output", str(output)]
        for name in ("seconds", "rate", "engine", "window", "threads"):
            arguments += [f"--{name}", str(getattr(options, name))]
        self.process = subprocess.Popen(
            [sys.executable, __file__, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            # glibc gives threads one of several arenas, whose slack comes and goes by megabytes.
            env={**os.environ, "MALLOC_ARENA_MAX": "1"},
        )
        self.memory: list[tuple[float, int]] = []

    def look(self) -> None:
        """Note how much memory it has."""
        with contextlib.suppress(OSError, IndexError):
            pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
            self.memory.append((time.monotonic(), int(pages) * PAGE))

    def is_over(self) -> bool:
        return self.process.poll() is not None

    def finish(self) -> tuple[str, dict[str, Any]]:
        """How it ended, and what it told."""
        out, _ = self.process.communicate(timeout=PATIENCE)
        code = self.process.returncode
        ending = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return ending, json.loads(out) if code == 0 else {}


class Slope(NamedTuple):
    """A line through measurements, and how sure it is."""

    rate: float
    error: float


def slope(memory: list[tuple[float, int]], begin: float, end: float) -> Slope:
    """Growth in MiB a minute in the last half, by what was in use at the quietest moments.

    What a deep recursion takes for a moment is no growth: only the least of each stretch counts.
    """
    half, stretches = (begin + end) / 2, 20
    least: dict[int, tuple[float, int]] = {}
    for at, used in memory:
        stretch = int((at - half) / (end - half) * stretches)
        if 0 <= stretch < stretches and used < least.get(stretch, (0, sys.maxsize))[1]:
            least[stretch] = (at, used)
    points = [((at - half) / 60, used / MEBIBYTE) for at, used in least.values()]
    if len(points) < 3:
        return Slope(0.0, float("inf"))
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    rate = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    rest = sum((y - mean_y - rate * (x - mean_x)) ** 2 for x, y in points)
    return Slope(rate, (rest / (len(points) - 2) / spread) ** 0.5)


class Row(NamedTuple):
    """A line of the table; no limit is information."""

    what: str
    found: str
    limit: str = ""
    is_kept: bool = True


def watch(options: argparse.Namespace, output: Path) -> tuple[list[Row], dict[str, Any]]:
    """Run the program with and without rprof and judge."""
    verdict = Verdict(options.threads)
    with contextlib.ExitStack() as cleanup:
        programs: dict[str, Program] = {}
        for kind in ("profiled", "plain"):
            programs[kind] = Program(kind, options, output)
            cleanup.enter_context(programs[kind].process)
            cleanup.callback(programs[kind].process.kill)
        disk = follow(options, output, programs, verdict)
        return judge(options, verdict, programs, disk)


def follow(
    options: argparse.Namespace, output: Path, programs: dict[str, Program], verdict: Verdict
) -> tuple[int, int]:
    """Read each window as it comes, until both programs have ended; the most that was on disk."""
    began = time.monotonic()
    # A process that does not end by then never will.
    deadline = began + WARM_UP_SECONDS + 1.5 * options.seconds + 4 * PATIENCE
    seen: set[str] = set()
    waiting: deque[Path] = deque()
    kept = output / "kept"
    kept.mkdir()
    most_files = most_bytes = 0
    while True:
        are_over = all([program.is_over() for program in programs.values()])
        for program in programs.values():
            program.look()
        files = {path.name: path for path in output.glob("*.pb.gz")}
        most_files = max(most_files, len(files))
        with contextlib.suppress(FileNotFoundError):
            most_bytes = max(most_bytes, sum(path.stat().st_size for path in files.values()))
        # A second name keeps a window for as long as reading takes.
        for name in sorted(files.keys() - seen):
            try:
                os.link(files[name], kept / name)
                waiting.append(kept / name)
            except FileNotFoundError:
                verdict.unread += 1
        seen |= files.keys()
        if sys.stderr.isatty():
            passed = time.monotonic() - began
            print(
                f"\r{passed:5.0f} s  {verdict.windows} windows, {verdict.samples:,} samples, "
                f"{verdict.invalid.total()} invalid, {verdict.impossible.total()} impossible ",
                end="",
                file=sys.stderr,
            )
        if waiting:
            path = waiting.popleft()
            verdict.read(path)
            path.unlink()
            continue
        if are_over:
            break
        if time.monotonic() > deadline:
            for program in programs.values():
                program.process.kill()
        time.sleep(0.2)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return most_files, most_bytes


def largest_incomplete(seconds: float) -> float:
    """Percent of the samples that a run of this length may leave incomplete."""
    if seconds < 600:
        return LARGEST_INCOMPLETE_IN_SHORT
    return LARGEST_SHARE if sys.version_info >= (3, 11) else LARGEST_INCOMPLETE_BEFORE_3_11


def judge(
    options: argparse.Namespace,
    verdict: Verdict,
    programs: dict[str, Program],
    disk: tuple[int, int],
) -> tuple[list[Row], dict[str, Any]]:
    rows = []
    stories = {}
    slopes = {}
    for kind, program in programs.items():
        ending, story = program.finish()
        rows.append(
            Row(f"end of the {kind} program", ending, "exit code 0", ending == "exit code 0")
        )
        if story:
            slopes[kind] = slope(program.memory, story["begins"], story["ends"])
        stories[kind] = story
    figures: dict[str, Any] = {
        "python": sys.version,
        "options": {name: text for name, text in vars(options).items() if name != "play"},
        "stories": stories,
        "slopes": slopes,
        "verdict": {**vars(verdict)},
        "disk": disk,
    }
    samples = max(verdict.samples, 1)
    rows += [
        Row(
            "windows read, missed",
            f"{verdict.windows}, {verdict.unread}",
            "some",
            verdict.windows > 0,
        ),
        Row("samples", f"{verdict.samples:,}", "some", verdict.samples > 0),
        Row("samples in made functions", f"{verdict.made:,}", "some", verdict.made > 0),
        Row("invalid names", f"{verdict.invalid.total():,}", "0", not verdict.invalid),
        share("impossible calls", verdict.impossible.total(), samples, LARGEST_SHARE),
        share("incomplete stacks", verdict.torn, samples, largest_incomplete(options.seconds)),
        Row("stacks cut at the root", f"{100 * verdict.cut / samples:.3f} %"),
    ]
    if len(slopes) == 2:
        rows += accounts(options, stories, slopes)
    rows.append(
        Row(
            "most on disk",
            f"{disk[0]} files, {disk[1] / MEBIBYTE:.1f} MiB",
            f"{KEEP_FILES} + 1 files, {KEEP_BYTES / MEBIBYTE:.0f} MiB",
            # A window is there before the oldest is removed.
            disk[0] <= KEEP_FILES + 1 and disk[1] <= KEEP_BYTES,
        )
    )
    return rows, figures


def share(what: str, part: int, samples: int, limit: float) -> Row:
    percent = 100 * part / samples
    return Row(what, f"{percent:.3f} % ({part:,})", f"{limit} %", percent <= limit)


def accounts(
    options: argparse.Namespace, stories: dict[str, Any], slopes: dict[str, Slope]
) -> list[Row]:
    """What only a program that has ended well can tell."""
    story, status = stories["profiled"], stories["profiled"]["status"]
    (fds, threads), (last_fds, last_threads) = story["resources"]
    growth = slopes["profiled"].rate - slopes["plain"].rate
    error = (slopes["profiled"].error ** 2 + slopes["plain"].error ** 2) ** 0.5
    minutes = (story["ends"] - story["begins"]) / 2 / 60
    limit = LARGEST_SLOPE if minutes >= 5 else max(LARGEST_SLOPE, SLACK / minutes)
    done = ", ".join(f"{number:,} {what}" for what, number in story["counts"].items())
    plain = ", ".join(f"{number:,}" for number in stories["plain"]["counts"].values())
    return [
        Row("engine", f"{status['engine']} ({status['engine_reason']})"),
        Row("done", done),
        Row("done without rprof", plain),
        Row("rate", f"{status['achieved_rate']:,.0f} of {options.rate:,.0f} Hz"),
        Row("rprof's CPU time", f"{status['own_cpu_seconds']:.1f} s"),
        Row("rprof's own memory", f"{status['own_bytes'] / MEBIBYTE:.1f} MiB"),
        Row("memory with rprof", f"{slopes['profiled'].rate:+.2f} MiB/min"),
        Row("memory without", f"{slopes['plain'].rate:+.2f} MiB/min"),
        Row(
            "difference",
            f"{growth:+.2f} ± {error:.2f} MiB/min",
            f"{limit:.1f} MiB/min",
            # What may be chance is no growth.
            growth - 3 * error <= limit,
        ),
        Row("file descriptors", f"{fds} to {last_fds}", "constant", last_fds <= fds),
        Row("threads", f"{threads} to {last_threads}", "constant", last_threads <= threads),
        Row("last error", status["last_error"] or "none", "none", status["last_error"] is None),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600, help="(%(default)s)")
    parser.add_argument("--rate", type=float, default=10_000, help="Hz (%(default)s)")
    parser.add_argument("--engine", default="auto", help="(%(default)s)")
    parser.add_argument("--window", type=float, default=1.0, help="seconds (%(default)s)")
    parser.add_argument(
        "--threads", type=int, default=10_000, help="short threads in all (%(default)s)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    parser.add_argument("--play", choices=["profiled", "plain"], help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.play:
        sys.setrecursionlimit(2 * soaking.DEPTH)
        play(options)
        return
    print(
        f"CPython {sys.version.split()[0]}, {options.seconds:.0f} s at {options.rate:,.0f} Hz, "
        f"a window each {options.window:g} s",
        flush=True,
    )
    with tempfile.TemporaryDirectory(prefix="rprof-soak-") as output:
        rows, figures = watch(options, Path(output))
    for row in rows:
        mark = "" if not row.limit else "ok" if row.is_kept else "NOT KEPT"
        print(f"{row.what:28} {row.found:44} {row.limit:20} {mark}".rstrip())
    for title in ("invalid", "impossible"):
        found: Counter[str] = figures["verdict"][title]
        for what, count in found.most_common(10):
            print(f"{title}: {what} ({count:,})")
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1), encoding="utf-8")
    if not all(row.is_kept for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
