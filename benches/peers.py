"""Profilers, driven alike: rprof's engines, what others there are, and none at all.

Each is run in a process of its own, so that none meets what another left behind. `measure` starts
a script of this directory again in such a process, as a case; the script calls `record` there with
its workload. Recording begins in the process, by the profiler's own interface or by a recorder that
attaches from outside, and all that it writes goes into one directory, which is read back, and
weighed, when the process has ended. `turns` does so with several, round after round.

What sampling costs is measured from outside and in the same way for all: `own_cpu`.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import gzip
import http.server
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import rprof

LOAD = os.getloadavg()[0]
"""How busy the machine was before a benchmark began, by its last minute."""

BASELINE = "RPROF_BENCH_BASELINE"
"""The variable that names the directory of the other build."""


class Frame(NamedTuple):
    """A function by its last name, its file without directories, and a line."""

    function: str
    file: str
    line: int


class NotDriven(Exception):
    """A profiler that could not be run truthfully; says why."""


class Recording:
    """What a profiler says, outermost frame first: samples, and wall and CPU time in its unit."""

    def __init__(self) -> None:
        self.values: dict[str, Counter[tuple[Frame, ...]]] = {"samples": Counter()}

    def add(self, kind: str, frames: Iterable[tuple[str, str, int]], value: float) -> None:
        stack = tuple(
            Frame(function.rpartition(".")[2], os.path.basename(file), line)
            for function, file, line in frames
        )
        self.values.setdefault(kind, Counter())[stack] += value

    def share(self, function: str) -> float:
        """Of the samples in which `main` ran, the part that was in `function`, which it calls."""
        counts: Counter[bool] = Counter()
        for stack, count in self.values["samples"].items():
            names = {frame.function for frame in stack}
            if "main" in names:
                counts[function in names] += count
        return counts[True] / max(sum(counts.values()), 1)


class Profiler:
    """No profiler; what every profiler has.

    Attributes:
        runs: What must be recorded apart; each entry is what one run tells, of `wall` and `cpu`.
        settle: Seconds until a recording has surely begun.
        rates: The rates at which it can be run; None for any.
        reasons: Why a benchmark (`cost`, `pauses`, `size`, `threads`, `accuracy`, `torn`) would
            not be truthful.
    """

    name = "no profiler"
    distribution = ""
    runs: tuple[tuple[str, ...], ...] = ((),)
    settle = 0.5
    rates: tuple[int, ...] | None = None
    reasons: dict[str, str] = {}  # noqa: RUF012 - set whole by the classes, never changed

    def version(self) -> str:
        return importlib.metadata.version(self.distribution) if self.distribution else ""

    def absent(self) -> str | None:
        """Why this cannot be run here, or None."""
        if self.distribution:
            try:
                importlib.metadata.version(self.distribution)
            except importlib.metadata.PackageNotFoundError:
                return "not installed"
        return None

    @contextlib.contextmanager
    def surroundings(self, directory: Path) -> Iterator[dict[str, str]]:  # noqa: ARG002
        """What must be there while the process runs: its environment variables."""
        yield {}

    def command(self, rate: int, directory: Path) -> list[str]:  # noqa: ARG002
        """What runs a script; its arguments follow."""
        return [sys.executable]

    def start(self, rate: int, kinds: tuple[str, ...], directory: Path) -> None:
        """Begin to record this process."""

    def stop(self) -> None:
        """End it and write."""

    def recorder_cpu(self) -> float:
        """CPU seconds used by another process for this one."""
        return 0.0

    def read(self, rate: int, kinds: tuple[str, ...], directory: Path) -> Recording:  # noqa: ARG002
        return Recording()


class WakingThread(Profiler):
    """Wakes up and does nothing: a Python thread in usleep of the C library."""

    name = "waking thread"

    def start(self, rate: int, kinds: tuple[str, ...], directory: Path) -> None:  # noqa: ARG002
        self.done = False
        self.thread = threading.Thread(target=self.run, args=(1_000_000 // rate,))
        self.thread.start()

    def run(self, microseconds: int) -> None:
        usleep = ctypes.CDLL(None).usleep
        while not self.done:
            usleep(microseconds)

    def stop(self) -> None:
        self.done = True
        self.thread.join()


class WakingNativeThread(Profiler):
    """The same without Python, made by the C compiler: what a wake-up costs on this machine."""

    name = "waking native thread"

    def absent(self) -> str | None:
        return None if shutil.which("cc") else "no C compiler (cc)"

    def start(self, rate: int, kinds: tuple[str, ...], directory: Path) -> None:  # noqa: ARG002
        source = Path(__file__).with_name("waking.c")
        with tempfile.TemporaryDirectory() as scratch:
            library = f"{scratch}/waking.so"
            command = ["cc", "-O2", "-shared", "-fPIC", "-pthread", "-o", library, str(source)]
            subprocess.run(command, check=True)
            self.library = ctypes.CDLL(library)
        if error := self.begin(ctypes.c_int64(1_000_000_000 // rate)):
            raise OSError(error, os.strerror(error))

    def begin(self, period: ctypes.c_int64) -> int:
        return self.library.waking_start(period)

    def stop(self) -> None:
        self.library.waking_stop()


class WalkingNativeThread(WakingNativeThread):
    """That walks all frames by plain loads, and keeps nothing of what it sees.

    For workloads whose frames stay where they are. Where the offsets stand in the runtime's own
    table, in words: `struct _Py_DebugOffsets`, CPython's Include/internal/pycore_debug_offsets.h
    (3.13: pycore_runtime.h).
    """

    name = "walking native thread"
    # interpreters_head, threads_head, next, current_frame, previous, executable, instr_ptr
    places: ClassVar = {
        (3, 13): (5, 9, 21, 23, 29, 30, 31),
        (3, 14): (5, 9, 24, 26, 32, 33, 34),
        (3, 15): (5, 9, 24, 26, 40, 41, 42),
    }

    def absent(self) -> str | None:
        if sys.version_info[:2] not in self.places:
            return "there is no table of offsets before CPython 3.13"
        return super().absent()

    def begin(self, period: ctypes.c_int64) -> int:
        runtime = ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))
        table = (ctypes.c_int64 * 64).from_address(runtime)
        places = (ctypes.c_int64 * 8)(
            runtime, *(table[place] for place in self.places[sys.version_info[:2]])
        )

        class Places(ctypes.Structure):
            _fields_: ClassVar = [("words", ctypes.c_int64 * 8)]

        return self.library.walking_start(period, Places(places))


class Control(Profiler):
    name = "no profiler again"


class Rprof(Profiler):
    distribution = "rprof"
    runs = (("wall", "cpu"),)

    def __init__(self, engine: str, shipped: bool = False) -> None:
        self.name = "rprof as shipped" if shipped else f"rprof {engine}"
        self.engine = engine
        self.shipped = shipped
        self.rates = (100,) if shipped else None

    def start(self, rate: int, kinds: tuple[str, ...], directory: Path) -> None:  # noqa: ARG002
        options = {} if self.shipped else {"rate": rate, "max_overhead": 0.0}
        rprof.start(directory, engine=self.engine, **options)

    def stop(self) -> None:
        rprof.stop()

    def read(self, rate: int, kinds: tuple[str, ...], directory: Path) -> Recording:  # noqa: ARG002
        recording = Recording()
        for file in directory.glob("*.pb.gz"):
            profile = rprof.load(file)
            for kind in ("samples", *kinds):
                for frames, value in profile.stacks(kind):
                    recording.add(kind, frames, value)
        return recording


class Baseline(Rprof):
    """Another build of rprof, out of a wheel."""

    distribution = ""

    def __init__(self, engine: str, shipped: bool = False) -> None:
        super().__init__(engine, shipped)
        self.name = self.name.replace("rprof", "baseline")
        self.variables: dict[str, str] = {}
        self.wheel = ""

    def version(self) -> str:
        return self.wheel

    @contextlib.contextmanager
    def surroundings(self, directory: Path) -> Iterator[dict[str, str]]:  # noqa: ARG002
        yield self.variables

    def start(self, rate: int, kinds: tuple[str, ...], directory: Path) -> None:
        if not Path(rprof.__file__).is_relative_to(os.environ[BASELINE]):
            raise NotDriven(f"it is {rprof.__file__} that was imported")
        super().start(rate, kinds, directory)


class PythonThread(Profiler):
    """The sampler that everybody writes first: a Python thread and sys._current_frames()."""

    name = "Python thread"
    runs = (("wall",),)

    def start(self, rate: int, kinds: tuple[str, ...], directory: Path) -> None:  # noqa: ARG002
        self.period = 1 / rate
        self.file = directory / "stacks.json"
        self.stacks: dict[tuple, list[float]] = {}
        self.done = False
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        own = threading.get_ident()
        before = time.perf_counter()
        while not self.done:
            time.sleep(self.period)
            now = time.perf_counter()
            for ident, leaf in sys._current_frames().items():
                if ident == own:
                    continue
                stack, frame = [], leaf
                while frame is not None:
                    code = frame.f_code
                    stack.append((code.co_name, code.co_filename, frame.f_lineno))
                    frame = frame.f_back
                sums = self.stacks.setdefault(tuple(stack), [0, 0.0])
                sums[0] += 1
                sums[1] += now - before
            before = now

    def stop(self) -> None:
        self.done = True
        self.thread.join()
        self.file.write_text(json.dumps(list(self.stacks.items())), encoding="utf-8")

    def read(self, rate: int, kinds: tuple[str, ...], directory: Path) -> Recording:  # noqa: ARG002
        recording = Recording()
        for frames, (count, seconds) in json.loads((directory / "stacks.json").read_text("utf-8")):
            recording.add("samples", frames[::-1], count)
            recording.add("wall", frames[::-1], seconds)
        return recording


class Pyinstrument(Profiler):
    name = distribution = "pyinstrument"
    runs = (("wall",),)
    reasons = dict.fromkeys(
        ("cost", "threads", "size"), "records one thread, in that thread and with its CPU time"
    )

    def start(self, rate: int, kinds: tuple[str, ...], directory: Path) -> None:  # noqa: ARG002
        from pyinstrument import Profiler as Instrument

        self.file = directory / "session.pyisession"
        self.profiler = Instrument(interval=1 / rate)
        self.profiler.start()

    def stop(self) -> None:
        self.profiler.stop().save(str(self.file))

    def read(self, rate: int, kinds: tuple[str, ...], directory: Path) -> Recording:  # noqa: ARG002
        from pyinstrument.session import Session

        recording = Recording()
        for records, seconds in Session.load(directory / "session.pyisession").frame_records:
            frames = []
            for record in records:
                # name NUL file NUL first line, then attributes; `l` is the line it was on.
                identifier, *attributes = record.split("\x01")
                name, file, first = identifier.split("\x00")
                lines = [a[1:] for a in attributes if a.startswith("l")]
                frames.append((name, file, int((lines or [first])[0])))
            recording.add("samples", frames, 1)
            recording.add("wall", frames, seconds)
        return recording


class Ddtrace(Profiler):
    distribution = "ddtrace"
    runs = (("wall", "cpu"),)

    def __init__(self, shipped: bool = False) -> None:
        self.name = "ddtrace as shipped" if shipped else "ddtrace"
        self.shipped = shipped
        self.rates = (100,) if shipped else None

    def absent(self) -> str | None:
        reason = super().absent()
        if reason is None and _zstandard() is None:
            return "its files need `zstandard`, which is not installed"
        return reason

    @contextlib.contextmanager
    def surroundings(self, directory: Path) -> Iterator[dict[str, str]]:
        variables = {
            "DD_PROFILING_OUTPUT_PPROF": str(directory / "profile"),
            # There is no agent to talk to, and none of this is the profiler.
            "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
            "DD_REMOTE_CONFIGURATION_ENABLED": "false",
            "DD_TRACE_ENABLED": "false",
        }
        if not self.shipped:
            # The sampler of stacks alone, at a steady rate. The underscore is theirs.
            variables["_DD_PROFILING_STACK_ADAPTIVE_SAMPLING_ENABLED"] = "false"
            variables["DD_PROFILING_MAX_FRAMES"] = "599"
            for part in ("MEMORY", "HEAP", "LOCK", "EXCEPTION", "PYTORCH"):
                variables[f"DD_PROFILING_{part}_ENABLED"] = "false"
        yield variables

    def start(self, rate: int, kinds: tuple[str, ...], directory: Path) -> None:  # noqa: ARG002
        from ddtrace.internal.datadog.profiling import stack
        from ddtrace.internal.datadog.profiling.stack import _stack
        from ddtrace.profiling import Profiler as Datadog

        # For its first 15 seconds it copies memory in a slower way.
        _stack._set_fast_copy_warmup_seconds(0.0)
        self.profiler = Datadog()
        self.profiler.start()
        if not self.shipped:
            # Starting sets the interval: only afterwards does ours hold.
            stack.set_interval(1 / rate)

    def stop(self) -> None:
        self.profiler.stop()

    def profiles(self, directory: Path) -> Iterator[rprof.Profile]:
        """What it has written."""
        for file in directory.glob("*.pprof"):
            yield _load_pprof(_zstandard()(file.read_bytes()))

    def read(self, rate: int, kinds: tuple[str, ...], directory: Path) -> Recording:  # noqa: ARG002
        recording = Recording()
        for profile in self.profiles(directory):
            types = {"samples": "wall-samples", "wall": "wall-time", "cpu": "cpu-time"}
            for kind in ("samples", *kinds):
                for frames, value in profile.stacks(types[kind]):
                    recording.add(kind, frames, value)
        return recording


class Pyroscope(Profiler):
    name = distribution = "pyroscope-io"
    runs = (("wall",), ("cpu",))

    @contextlib.contextmanager
    def surroundings(self, directory: Path) -> Iterator[dict[str, str]]:
        """A server that keeps what is pushed, as it was sent."""

        class Receiver(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                (directory / f"{time.time_ns()}.push").write_bytes(body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """The base class prints every request."""

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield {"BENCH_PYROSCOPE_SERVER": f"http://127.0.0.1:{server.server_port}"}
            finally:
                server.shutdown()
                thread.join()

    def start(self, rate: int, kinds: tuple[str, ...], directory: Path) -> None:  # noqa: ARG002
        import pyroscope

        pyroscope.configure(
            application_name="bench",
            server_address=os.environ["BENCH_PYROSCOPE_SERVER"],
            sample_rate=rate,
            oncpu=kinds == ("cpu",),
            gil_only=False,
        )

    def stop(self) -> None:
        import pyroscope

        pyroscope.shutdown()

    def read(self, rate: int, kinds: tuple[str, ...], directory: Path) -> Recording:
        recording = Recording()
        for file in directory.glob("*.push"):
            data = file.read_bytes()
            request = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
            # PushRequest.series, .samples, .raw_profile.
            for series in _fields(request, 1):
                for sample in _fields(series, 2):
                    for raw in _fields(sample, 1):
                        for frames, value in _load_pprof(raw).stacks():
                            recording.add(kinds[0], frames, value)
                            recording.add("samples", frames, value * rate / 1e9)
        return recording


class Scalene(Profiler):
    name = "Scalene"
    distribution = "scalene"
    runs = (("wall", "cpu"),)
    reasons = {  # noqa: RUF012
        "pauses": "works in signal handlers of the main thread, whose pauses it would measure too"
    }

    def command(self, rate: int, directory: Path) -> list[str]:
        # It runs a script as a whole and writes when that ends.
        options = ["run", "--cpu-only", "--cpu-sampling-rate", str(1 / rate)]
        options += ["--cpu-percent-threshold", "0", "--outfile", str(directory / "scalene.json")]
        return [sys.executable, "-m", "scalene", *options]

    def read(self, rate: int, kinds: tuple[str, ...], directory: Path) -> Recording:  # noqa: ARG002
        file = directory / "scalene.json"
        if not file.exists():
            raise NotDriven("wrote no profile")
        told = json.loads(file.read_text(encoding="utf-8"))
        recording = Recording()
        functions = {}
        for places, values in told["stacks"]:
            frames = []
            for place in places:
                # `/directory/file.py function:12;`
                path, _, rest = place.rpartition(" ")
                name, _, line = rest.rstrip(";").rpartition(":")
                frames.append((name, path, int(line)))
            functions[frames[-1][1:]] = frames
            recording.add("samples", frames, values["count"])
        # Wall and CPU time are told by line only: they go to the stack seen last on that line.
        for path, content in told["files"].items():
            for line in content["lines"]:
                place = (path, line["lineno"])
                frames = functions.get(place, [("?", *place)])
                cpu = line["n_cpu_percent_python"] + line["n_cpu_percent_c"]
                recording.add("cpu", frames, cpu)
                recording.add("wall", frames, cpu + line["n_sys_percent"])
        return recording


class Recorder(Profiler, ABC):
    """A profiler that reads this process from one of its own."""

    executable = ""
    settle = 2.0

    def absent(self) -> str | None:
        return None if _find(self.executable) else "not installed"

    @abstractmethod
    def arguments(self, rate: int, kinds: tuple[str, ...], file: Path) -> list[str]:
        """Return the command that records this process into a file."""

    def start(self, rate: int, kinds: tuple[str, ...], directory: Path) -> None:
        self.file = directory / "recorded"
        self.log = directory.parent / "recorder.log"
        # A shell has its background jobs ignore the signal that ends a recorder, which would
        # inherit that; a signal with a handler is not ignored after exec.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.arguments(rate, kinds, self.file), stdout=log, stderr=log
            )

    def recorder_cpu(self) -> float:
        # The clock of another process, as clock_getcpuclockid(3) names it.
        return time.clock_gettime((~self.process.pid << 3) | 2)

    def stop(self) -> None:
        ended = self.process.poll()
        if ended is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise NotDriven("did not end within a minute of being told") from None
        if ended is not None or not self.file.exists():
            raise NotDriven(f"ended by itself: {_complaint(self.log.read_text('utf-8'))}")


class PySpy(Recorder):
    executable = "py-spy"
    distribution = "py-spy"
    runs = (("wall",), ("cpu",))

    def __init__(self, blocking: bool) -> None:
        self.name = "py-spy" if blocking else "py-spy --nonblocking"
        self.blocking = blocking

    def arguments(self, rate: int, kinds: tuple[str, ...], file: Path) -> list[str]:
        command = [_find(self.executable), "record", "--format", "raw", "--rate", str(rate)]
        command += ["--output", str(file), "--pid", str(os.getpid())]
        command += [] if self.blocking else ["--nonblocking"]
        return command + (["--idle"] if kinds == ("wall",) else [])

    def read(self, rate: int, kinds: tuple[str, ...], directory: Path) -> Recording:  # noqa: ARG002
        recording = Recording()
        for text in (directory / "recorded").read_text(encoding="utf-8").splitlines():
            stack, _, count = text.rpartition(" ")
            frames = []
            for frame in stack.split(";"):
                # `function (file.py:12)`
                name, _, place = frame.rstrip(")").rpartition(" (")
                file, _, line = place.rpartition(":")
                frames.append((name, file, int(line) if line.isdigit() else 0))
            recording.add("samples", frames, int(count))
            recording.add(kinds[0], frames, int(count))
        return recording


class Austin(Recorder):
    name = executable = "austin"
    distribution = "austin-dist"
    runs = (("wall",), ("cpu",))

    def absent(self) -> str | None:
        program = _find(self.executable)
        if program is None:
            return "not installed"
        tried = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
        # Where it is installed is nobody's business.
        complaint = _complaint(tried.stderr).replace(program, self.executable)
        return f"does not run here: {complaint}" if tried.returncode else None

    def arguments(self, rate: int, kinds: tuple[str, ...], file: Path) -> list[str]:
        command = [_find(self.executable), "--interval", f"{1_000_000 // rate}us"]
        command += ["--output", str(file), "--pid", str(os.getpid())]
        return command + (["--cpu"] if kinds == ("cpu",) else [])

    def read(self, rate: int, kinds: tuple[str, ...], directory: Path) -> Recording:  # noqa: ARG002
        recording = Recording()
        for frames, microseconds in _read_mojo((directory / "recorded").read_bytes()):
            recording.add("samples", frames, 1)
            recording.add(kinds[0], frames, microseconds)
        return recording


class ProfilingSampling(Recorder):
    name = "profiling.sampling"
    runs = (("wall",), ("cpu",))

    def version(self) -> str:
        return platform.python_version()

    def absent(self) -> str | None:
        if importlib.util.find_spec("profiling") is None:
            return "comes with CPython 3.15"
        return None

    def arguments(self, rate: int, kinds: tuple[str, ...], file: Path) -> list[str]:
        command = [sys.executable, "-m", "profiling.sampling", "attach", "--all-threads"]
        command += ["--sampling-rate", str(rate), "--mode", kinds[0], "--collapsed"]
        return [*command, "--output", str(file), str(os.getpid())]

    def read(self, rate: int, kinds: tuple[str, ...], directory: Path) -> Recording:  # noqa: ARG002
        recording = Recording()
        for text in (directory / "recorded").read_text(encoding="utf-8").splitlines():
            stack, _, count = text.rpartition(" ")
            frames = []
            for frame in stack.split(";")[1:]:
                # `file.py:function:12`
                place, _, line = frame.rpartition(":")
                file, _, name = place.partition(":")
                frames.append((name, file, int(line) if line.isdigit() else 0))
            recording.add("samples", frames, int(count))
            recording.add(kinds[0], frames, int(count))
        return recording


BASELINES = (Profiler(), Control(), WakingNativeThread(), WalkingNativeThread(), WakingThread())
BUILDS = (Baseline("direct"), Baseline("gil"), Baseline("direct", shipped=True))
PROFILERS: tuple[Profiler, ...] = (
    Rprof("direct"),
    Rprof("gil"),
    Rprof("direct", shipped=True),
    PythonThread(),
    Austin(),
    Ddtrace(),
    Ddtrace(shipped=True),
    ProfilingSampling(),
    PySpy(blocking=True),
    PySpy(blocking=False),
    Pyinstrument(),
    Pyroscope(),
    Scalene(),
)


@contextlib.contextmanager
def unpacked(wheel: Path) -> Iterator[dict[str, str]]:
    """Lay a wheel out for the `BUILDS`; yields the variables with which a process imports it."""
    with tempfile.TemporaryDirectory() as directory:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(directory)
        path = [directory, *filter(None, [os.environ.get("PYTHONPATH")])]
        variables = {"PYTHONPATH": os.pathsep.join(path), BASELINE: directory}
        for build in BUILDS:
            build.variables, build.wheel = variables, wheel.name
        yield variables


def available(
    names: str | None, profilers: tuple[Profiler, ...] = PROFILERS
) -> tuple[list[Profiler], dict[str, str]]:
    """The profilers to compare, all or those named, and why the others cannot be."""
    chosen = [p for p in profilers if names is None or p.name in names.split(",")]
    if names is not None and len(chosen) != len(names.split(",")):
        raise SystemExit(f"--only: choose from {', '.join(p.name for p in profilers)}")
    absent = {p.name: reason for p in chosen if (reason := p.absent())}
    return [p for p in chosen if p.name not in absent], absent


class Outcome(NamedTuple):
    """What the workload says, what the profiler says, and the bytes in which it said it."""

    result: Any
    recording: Recording
    size: int


class Figures(NamedTuple):
    """What is kept of an outcome: the results, and the bytes that were written."""

    result: dict[str, Any]
    size: int


def measure(
    profiler: Profiler, rate: int, kinds: tuple[str, ...], script: str, **options: object
) -> Outcome:
    """Run a script of this directory again, as a case, under a profiler in a new process."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary, "written")
        directory.mkdir()
        result = Path(temporary, "result.json")
        case = {"profiler": profiler.name, "rate": rate, "kinds": kinds, "options": options}
        case |= {"directory": str(directory), "result": str(result)}
        separator = ["---"] if isinstance(profiler, Scalene) else []
        command = [*profiler.command(rate, directory), script, *separator]
        with profiler.surroundings(directory) as variables:
            try:
                done = subprocess.run(
                    [*command, "--case", json.dumps(case)],
                    env=os.environ | variables,
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=300,
                )
            except subprocess.TimeoutExpired:
                raise NotDriven("hung for five minutes") from None
        if not result.exists():
            raise NotDriven(_complaint(done.stderr or done.stdout))
        told = json.loads(result.read_text(encoding="utf-8"))
        if "not driven" in told:
            raise NotDriven(told["not driven"])
        size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
        recording = profiler.read(rate, kinds, directory)
        if any(profiler.runs) and not recording.values["samples"].total():
            raise NotDriven("recorded no sample")
        return Outcome(told["result"], recording, size)


def case() -> dict[str, Any] | None:
    """What `measure` asks of this process, if it started it."""
    return json.loads(sys.argv[2]) if sys.argv[1:2] == ["--case"] else None


def record(
    case: dict[str, Any],
    body: Callable[[Profiler], object],
    profilers: tuple[Profiler, ...] = (*BASELINES, *BUILDS, *PROFILERS),
) -> None:
    """Record `body` as `measure` asked and leave its result there."""
    (profiler,) = (p for p in profilers if p.name == case["profiler"])
    told: dict[str, object]
    try:
        profiler.start(case["rate"], tuple(case["kinds"]), Path(case["directory"]))
        time.sleep(case["options"].get("settle", profiler.settle))
        result = body(profiler)
        profiler.stop()
        told = {"result": result}
    except NotDriven as why:
        told = {"not driven": str(why)}
    Path(case["result"]).write_text(json.dumps(told), encoding="utf-8")


def turns(
    profilers: Iterable[Profiler],
    rounds: int,
    rate: int,
    absent: dict[str, str],
    script: str,
    *,
    told: Callable[[Outcome], dict[str, Any]] = lambda _: {},
    **options: object,
) -> dict[str, list[Figures]]:
    """Measure all, round after round.

    Recordings are not kept, for those of all rounds would take gigabytes: what is wanted of one is
    `told` at once, and stands among the results.
    """
    found: dict[str, list[Figures]] = {}
    what = str(options["what"])
    for _ in range(rounds):
        for profiler in profilers:
            if what in profiler.reasons:
                absent[f"{profiler.name}, {what}"] = profiler.reasons[what]
            elif profiler.rates is None or rate in profiler.rates:
                try:
                    outcome = measure(profiler, rate, profiler.runs[0], script, **options)
                except NotDriven as why:
                    absent[f"{profiler.name}, {what} at {rate} Hz"] = str(why)
                else:
                    figures = Figures(outcome.result | told(outcome), outcome.size)
                    found.setdefault(profiler.name, []).append(figures)
    return found


def deep(depth: int, bottom: Callable[[], object]) -> None:
    """Call `bottom` below so many frames and one more."""
    if depth:
        deep(depth - 1, bottom)
    else:
        bottom()


def measured_window(seconds: float) -> None:
    """Where the main thread is while the cost is measured, and by which `achieved` knows it."""
    time.sleep(seconds)


def own_cpu(profiler: Profiler, clocks: list[int]) -> float:
    """CPU seconds of this process that the threads of the workload did not use."""
    return time.process_time() - sum(map(time.clock_gettime, clocks)) + profiler.recorder_cpu()


def cost(profiler: Profiler, clocks: list[int], seconds: float) -> dict[str, float]:
    """Spend so many seconds in `measured_window`; what was used meanwhile, in cores."""
    before, began = own_cpu(profiler, clocks), time.perf_counter()
    measured_window(seconds)
    # A busy thread keeps this one waiting for the GIL: what passed is more than `seconds`.
    passed = time.perf_counter() - began
    return {"cpu": (own_cpu(profiler, clocks) - before) / passed, "seconds": passed}


def achieved(outcome: Outcome) -> dict[str, float]:
    """Thread-samples a second, while the cost was measured."""
    samples = sum(outcome.recording.values["samples"].values())
    share = outcome.recording.share("measured_window")
    return {"achieved": samples * share / outcome.result["seconds"]}


def heading(profilers: list[Profiler]) -> dict[str, Any]:
    """What a reader must know of a run, for its JSON."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "load": round(LOAD, 1),
        "versions": {p.name: p.version() for p in profilers if p.version()},
    }


def report(figures: dict[str, Any], path: str | None) -> None:
    """Name what was not compared, and write the figures if they are wanted."""
    for name, reason in figures["not compared"].items():
        print(f"not compared: {name}: {reason}")
    if path:
        Path(path).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _complaint(text: str) -> str:
    """The line of an output that says what is wrong, most likely."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no message"]
    if re.match(r"[\w.]+(Error|Exception|Exit|Driven): ", lines[-1]):
        return lines[-1]
    return next((line for line in lines if re.search("error|cannot|fail", line, re.I)), lines[-1])


def _find(executable: str) -> str | None:
    """On the PATH, or beside the interpreter as in a virtual environment that is not activated."""
    beside = os.path.dirname(sys.executable)
    return shutil.which(executable) or shutil.which(executable, path=beside)


def _zstandard() -> Callable[[bytes], bytes] | None:
    if importlib.util.find_spec("zstandard") is None:
        return None
    import zstandard

    # The frames do not tell their size, so that only a stream can be read.
    return lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data)


def _load_pprof(data: bytes) -> rprof.Profile:
    """Any pprof message, read by rprof, which opens files."""
    with tempfile.NamedTemporaryFile(suffix=".pb.gz") as file:
        file.write(data)
        file.flush()
        return rprof.load(file.name)


def _fields(message: bytes, wanted: int) -> Iterator[bytes]:
    """The length-delimited fields of that number in a protobuf message."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        tag = varint()
        kind = tag & 7
        if kind == 0:
            varint()
            continue
        length = {1: 8, 5: 4}.get(kind)
        length = varint() if length is None else length
        if tag >> 3 == wanted and kind == 2:
            yield message[at : at + length]
        at += length


def _read_mojo(data: bytes) -> Iterator[tuple[list[tuple[str, str, int]], int]]:
    """The samples of austin's binary format (MOJO 3): frames, outermost first, and microseconds."""
    if data[:4] != b"MOJ\x03":
        raise NotDriven("its output is not MOJO 3")
    at = 4

    def integer() -> int:
        """Six bits and a sign in the first byte, seven bits in each further one."""
        nonlocal at
        byte = data[at]
        at += 1
        value, negative, shift = byte & 63, byte & 64, 6
        while byte & 128:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
        return -value if negative else value

    def string() -> str:
        nonlocal at
        end = data.index(0, at)
        text = data[at:end].decode("utf-8", "replace")
        at = end + 1
        return text

    strings: dict[int, str] = {1: "<unknown>"}
    known: dict[int, tuple[str, str, int]] = {}
    frames: list[tuple[str, str, int]] | None = None
    value = 0
    while at < len(data):
        event = data[at]
        at += 1
        if event == 1:  # metadata
            string()
            string()
        elif event == 2:  # a sample begins: process, interpreter, thread
            if frames is not None:
                yield frames, value
            frames, value = [], 0
            integer()
            integer()
            string()
        elif event == 3:  # a new frame: file, function, line, end of line, columns
            key, file, name, line = integer(), integer(), integer(), integer()
            integer()
            integer()
            integer()
            known[key] = (strings[name], strings[file], line)
        elif event == 4:
            frames.append(("<incomplete>", "", 0))
        elif event == 5:
            frames.append(known[integer()])
        elif event == 6:
            string()
        elif event in (7, 8):  # collecting garbage, idle
            pass
        elif event == 9:
            value = integer()
        elif event == 10:
            integer()
        elif event == 11:
            key = integer()
            strings[key] = string()
        else:
            raise NotDriven(f"its output has an event {event} that is not of MOJO 3")
    # The last sample may have been cut short: it is not counted.
