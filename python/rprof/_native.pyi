"""The native part of rprof; use the functions of ``rprof`` instead."""

from collections.abc import Callable, Iterable, MutableMapping
from os import PathLike
from types import TracebackType
from typing import Any, TypedDict, TypeVar, final

__version__: str

_Error = type[Exception]
_T = TypeVar("_T")
_F = TypeVar("_F", bound=Callable[..., Any])

@final
class Profile:
    """A finished, immutable profile."""

    @staticmethod
    def decode(data: bytes, name: str) -> Profile:
        """Reads a pprof file's bytes; `name` is what errors call them."""
    @staticmethod
    def merge(profiles: Iterable[Profile]) -> Profile:
        """One profile from all that `profiles` yields, of which one at a time is in memory."""
    def encode(self) -> bytes:
        """As gzip pprof."""
    def write(self, path: str | PathLike[str]) -> None:
        """Writes gzip pprof to `path`, whole or not at all."""
    def keep(self, path: str) -> None:
        """The same, in a directory that is made if it is not there; calls no Python code."""
    @staticmethod
    def kept(path: str) -> Profile:
        """Reads what `keep` has written; calls no Python code."""
    def write_new(self, path: str | PathLike[str]) -> str:
        """Writes gzip pprof to `path`, with a number where that is taken; returns where."""
    def write_output(
        self, output: str | PathLike[str], program: str, seq: int, own: str | None, after: int
    ) -> tuple[str, int]:
        """Writes gzip pprof to what `output` says; returns where and with which number.

        Where that names several files none is replaced but `own`; numbers that are tried are `seq`
        and those behind `after`.
        """
    @property
    def sample_types(self) -> list[tuple[str, str]]:
        """(type, unit) of each value, in order."""
    @property
    def default_sample_type(self) -> str:
        """The sample type a reader opens on."""
    @property
    def totals(self) -> list[int]:
        """The sum of each sample type."""
    @property
    def magnitudes(self) -> list[int]:
        """The sum of each sample type without regard to signs."""
    def is_difference(self, sample_type: str) -> bool:
        """Whether a sample type has values below 0."""
    @property
    def unmeasured(self) -> list[tuple[str, int, int, int, int]]:
        """(name, profiles that did not measure it, of how many, for how many ns, of how many)."""
    @property
    def main_threads(self) -> list[int]:
        """The kernel ids of the main threads, one for each process."""
    @property
    def has_jit(self) -> bool:
        """Whether it was recorded while the interpreter's JIT was on."""
    @property
    def threads(self) -> list[tuple[int, str, list[int]]]:
        """(thread id, thread name, totals) of each thread, heaviest in the default type first."""
    def top(self, sample_type: str, by_line: bool) -> list[tuple[str, str, int, int, int]]:
        """(name, file, line, self, total) of each function or line, heaviest first."""
    def tree(
        self,
        sample_type: str,
        *,
        min_fraction: float,
        max_depth: int | None,
        fold_library: bool,
        color: bool,
    ) -> str:
        """The call tree as text."""
    def waits(
        self,
    ) -> list[
        tuple[
            str,
            str,
            str,
            int,
            list[tuple[str, str, int, int]],
            list[tuple[str, str, int, int]],
        ]
    ]:
        """(reason, lock, measure, waited, culprits, waiters) of each wait.

        The last two are lists of (function, file, line, value).
        """
    def waits_text(self) -> str:
        """The same as text."""
    def rooted(self, label: str) -> Profile:
        """The profile with the value of a label as the outermost frame of its stacks."""
    def collapsed(self, sample_type: str, by_thread: bool) -> str:
        """One line for each stack: `thread;root;...;leaf value`, or without the thread."""
    def speedscope(self) -> str:
        """JSON for speedscope, one profile for each thread and sample type."""
    def diff(
        self, later: Profile, sample_type: str, by_line: bool
    ) -> list[tuple[tuple[str, str, int], tuple[int, int], tuple[int, int]]]:
        """(name, file, line), (self, total) here and in `later`, of each function or line."""
    def calls(
        self, sample_type: str, samples_type: str | None
    ) -> list[
        tuple[
            tuple[str, str, int],
            tuple[int, int, int],
            list[tuple[tuple[str, str, int], tuple[int, int, int]]],
        ]
    ]:
        """(name, file, line) of each function with (samples, self, total), and that by caller."""
    @staticmethod
    def write_file(path: str | PathLike[str], data: bytes) -> None:
        """Writes `data` to `path`, whole or not at all."""
    def stacks(self, sample_type: str) -> list[tuple[list[tuple[str, str, int]], int]]:
        """Every stack with a value, outermost frame first: (function, file, line) of each."""
    def only_threads(self, threads: list[tuple[int, str]]) -> Profile:
        """The same profile with only these (thread id, thread name) pairs."""
    @property
    def functions(self) -> list[str]:
        """The names of all functions, by their positions."""
    def only_stacks(self, focus: list[bool] | None, ignore: list[bool]) -> Profile:
        """The same profile with only the stacks that have a function of `focus` (`None`: any)."""
    def label_sets(self) -> list[list[tuple[str, str]]]:
        """The labels of each label set in use, numbers as text."""
    def only_label_sets(self, kept: list[bool]) -> Profile:
        """The same profile with only the samples of some label sets."""
    def of_requests(self, requests: list[int]) -> Profile:
        """Only what these requests did, of a profile that keeps requests apart."""
    def divide(
        self, column: int, part: float
    ) -> tuple[list[tuple[str, str, int]], int, list[tuple[str, int]]]:
        """Where it divides: the common stack, its value, and the calls below it."""
    @property
    def time_ns(self) -> int:
        """Start in ns since the Unix epoch."""
    @property
    def duration_ns(self) -> int:
        """Length in ns."""
    @property
    def period_ns(self) -> int:
        """Asked time between two samples of one thread in ns."""
    @property
    def comments(self) -> list[str]:
        """Engine, rates and counters in words."""
    @property
    def facts(self) -> list[tuple[str, float]]:
        """Each number that the comments tell of how it was recorded."""
    @property
    def page_facts(self) -> str:
        """The same and what else the comments tell, as JSON for the report page."""
    @property
    def program(self) -> str:
        """What ran."""

@final
class labels:
    """Labels on the samples of whatever runs inside, in threads, tasks and executors alike."""

    def __init__(self, **labels: str | float) -> None: ...
    def __enter__(self) -> labels: ...
    def __exit__(
        self, _kind: object = None, _value: object = None, _traceback: object = None
    ) -> bool: ...
    def pause(self) -> None:
        """A generator has yielded: what follows is its caller's."""
    def resume(self) -> None:
        """The generator goes on."""
    def __call__(self, function: _F) -> _F: ...
    def _again(self) -> labels:
        """The same: each call of what is decorated enters it."""

def current_labels() -> dict[str, str]:
    """Return the labels in force where it is called, by name."""

class _NeededOptions(TypedDict):
    period_ns: int
    max_overhead: float
    max_nodes: int
    max_depth: int
    threads: int | str | list[str] | None
    program: str
    keep_files: int
    keep_bytes: int
    engine: str
    locks: str | None

class _RecordingOptions(_NeededOptions, total=False):
    window_ns: int | None
    output: str | PathLike[str] | None
    grows: bool
    replaces: bool
    captures: int
    requests_apart: bool
    ring_ns: int | None
    ring_bytes: int
    memory: float | None

class _HeapFigures(TypedDict):
    rate: float
    samples: int
    lost: int
    live: int
    live_limit: int
    overflow: int
    own_cpu_seconds: float
    own_bytes: int
    displaced: int

def heap_profile(program: str) -> Profile:
    """What was allocated since the heap is being sampled, and what is in use.

    Raises:
        RprofStateError: It is not being sampled.
    """

def memory_account(in_passing: bool) -> list[tuple[str, int]]:
    """Name and bytes of each part of the process's memory that is known, the whole first.

    `in_passing`: without what takes long to find out.
    """

def find_leaks(
    profiles: list[Profile],
) -> list[
    tuple[
        tuple[str, str, int],
        tuple[int, int],
        tuple[float, float],
        str,
        tuple[float, float],
        list[tuple[int, list[tuple[str, str, int]]]],
    ]
]:
    """What is in use by place in heap profiles, one of each process, likeliest leaks first.

    The place, bytes and blocks, bytes it grows by in a second and the seconds that were looked
    back, the verdict, score and samples, bytes by stack.

    Raises:
        RprofValueError: A profile does not tell how old the memory in use is.
    """

def heap_of_request(number: int, began_ns: int, program: str) -> tuple[Profile, bool] | None:
    """What one request allocated, and whether that is all; None if none of it was sampled."""

class _LockFigures(TypedDict):
    problem: str
    contended: int | None
    given_up: int | None
    waited_seconds: float | None

def lock_figures() -> _LockFigures | None:
    """What was counted of locks that note who has them; None if none do."""

def heap_figures() -> _HeapFigures | None:
    """How the heap is being sampled; None if it is not."""

def start_recording(options: _RecordingOptions) -> Recording:
    """Begins a recording and returns its owner. Values are expected to have been checked."""

@final
class Recording:
    """A recording that is under way. It ends with this object at the latest."""

    def stop(self) -> tuple[Profile, str | None, Exception | None] | None:
        """Ends it and returns its last window; the same again if it is called again.

        None if it has ended with the process, or belongs to the one that this was forked from.
        """
    def heap(self) -> Profile | None:
        """What was allocated in it, and what was in use when it ended.

        None if it did not look at that, or has not ended.
        """
    def rotate(self) -> tuple[Profile, str | None, Exception | None]:
        """Closes the open window."""
    def pause(self) -> None:
        """Lets it record nothing until it is resumed."""
    def resume(self) -> None:
        """Lets it go on after a pause."""
    def abandon(self) -> None:
        """Has it end, if it has not, without waiting for that."""

class Block:
    """What ends with its ``with`` block, whatever comes in between; a base class.

    A signal's handler may raise before the first instruction of a function of Python, but not
    before `__exit__` here: it calls `_leave()`, and then `_owner.abandon()` if that is not None.
    """

    def __new__(cls, *options: object, **more: object) -> Block: ...
    def __enter__(self: _T) -> _T: ...
    def __exit__(
        self, _kind: object = None, _error: object = None, _traceback: object = None
    ) -> None: ...

@final
class Turn:
    """A turn to begin or end what there is one of; a context manager."""

    def __enter__(self) -> Turn: ...
    def __exit__(
        self, _kind: object = None, _value: object = None, _traceback: object = None
    ) -> None: ...

def take_turn() -> Turn:
    """Waits for its turn."""

def is_writing() -> bool:
    """Whether there is a recording that writes, in this process."""

def handle_sigterm(is_wanted: bool) -> None:
    """Has the last window written at SIGTERM if its action is the default one, or no longer."""

@final
class StandIn:
    """Stands in for a function: `os._exit`, or the one that says what becomes of a signal."""

    __wrapped__: Any
    def __init__(self, wrapped: Callable[..., Any], name: str, is_exit: bool) -> None:
        """`is_exit`: `wrapped` is `_exit` itself, and does nothing else."""
    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Has the last window written, or looks who handles SIGTERM now, and calls `wrapped`."""

def end_recordings() -> list[Exception]:
    """Ends all recordings, at the end of the process; returns what went wrong."""

def recent(age_ns: int) -> Profile:
    """What was recorded in the last so many ns."""

def recent_of(since_ns: int, requests: list[int]) -> Profile:
    """What was recorded of these requests since a time of the monotonic clock in ns."""

@final
class request:
    """One request, job or other unit of work."""

    def __new__(
        cls,
        name: str,
        *,
        route: str | None = None,
        slow_after: float | None = None,
        repeat: float = 1.0,
        labels: dict[str, str | float] | None = None,
        **info: Any,
    ) -> request: ...
    @property
    def name(self) -> str:
        """What it is called."""
    @property
    def route(self) -> str:
        """What kind of request it is."""
    @property
    def info(self) -> dict[str, Any]:
        """What else is said about it."""
    def __enter__(self) -> request: ...
    def __exit__(
        self,
        _kind: type[BaseException] | None = None,
        value: BaseException | None = None,
        _traceback: TracebackType | None = None,
    ) -> None: ...
    def set_route(self, route: str) -> None:
        """Say what kind of request it is, if that was not known when it began."""
    def pause(self) -> None:
        """A generator has yielded: what follows is its caller's."""
    def resume(self) -> None:
        """The generator goes on."""
    def __call__(self, function: _F) -> _F:
        """Decorate a function: each call is a request."""
    def _again(self) -> request:
        """Another request that is the same but has not begun."""
    def _of(self, method: str, root: str, path: str, route: str) -> request:
        """A request with the same limits, called by its method and the two parts of its path."""

@final
class AsgiRequests:
    """What makes an `rprof.request`, with the limits of `model`, of each scope."""

    def __new__(
        cls,
        model: request,
        make_route: Callable[[str], str],
        unmatched: str,
        has_router: bool,
        choose_route: Callable[[MutableMapping[str, Any], str, str | None], str] | None = None,
    ) -> AsgiRequests: ...
    def begin(self, scope: MutableMapping[str, Any]) -> request:
        """Begins the request of a scope, and returns it."""
    def of(self, scope: MutableMapping[str, Any]) -> request:
        """Returns the request of a scope, which has it from now on."""

def note_route(
    route: Any,
    scope: MutableMapping[str, Any],
    is_leaf: bool,
    make_pattern: Callable[[Any, MutableMapping[str, Any], str], str],
) -> None:
    """Tells the request of a scope, and those around it, which route a router has chosen.

    A leaf's own `path` is its pattern if nothing is above it. Else `make_pattern` is asked, with
    route, scope and what the whole application is mounted at.
    """

class _WsgiCalls(TypedDict):
    make_route: Callable[[str], str]
    end_at_close: Callable[[Any, request], bool]
    known_route: str | None
    choose_route: Callable[[dict[str, Any], str], str] | None
    answer_instead: Callable[..., Iterable[bytes] | None] | None

@final
class WsgiServer:
    """An application, each of whose requests is an `rprof.request` with the limits of `model`."""

    def __new__(cls, application: Any, model: request, calls: _WsgiCalls) -> WsgiServer: ...
    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answers a request."""

@final
class Answer:
    """The parts of an answer, each made as part of the request."""

    def __iter__(self) -> Answer: ...
    def __next__(self) -> bytes: ...
    def close(self) -> None:
        """Ends the request, after the application has been told."""

def route_figures(
    parts: list[float],
) -> list[tuple[str, int, int, int, int, tuple[int, int], list[int]]]:
    """Of each route: name, requests ended and under way, and times in ns.

    These are their sum, the maximum, the CPU time with the number of requests of which it is known,
    and the quantiles.
    """

@final
class Capture:
    """The next so many requests, recorded."""

    @property
    def bit(self) -> int:
        """The bit that its requests carry."""
    def open(
        self,
        wanted: int,
        route: str | None,
        recording: Recording,
        is_wanted: Callable[[request], Any] | None = None,
    ) -> None:
        """Begins to take requests."""
    def progress(self) -> tuple[int, int]:
        """How many requests have begun, and have ended."""
    def wait(self, seconds: float) -> bool:
        """Waits until all have ended; whether they have."""
    def abandon(self) -> None:
        """Has it end, if it has not, without waiting for that."""
    def close(self) -> tuple[Profile, list[tuple[int, int]], Profile | None] | None:
        """Ends it; returns its profile, number and duration in ns of each request, and the heap."""

def capture_requests(wanted: int) -> Capture:
    """Reserves a place for the next requests."""

@final
class Heartbeat:
    """An event loop that is watched."""

    def beat(self) -> None:
        """The loop turns."""
    def end(self) -> None:
        """The loop is not watched any more."""
    @property
    def number(self) -> int:
        """Its number among all that were watched."""

def start_watch() -> None:
    """Begins to watch, if nobody does yet."""

def stop_watch() -> None:
    """Ends watching."""

def watch_loop(name: str, limit_ns: int) -> Heartbeat:
    """Watches a loop that runs on the calling thread."""

def watch_limits(
    *, deadlock_ns: int | None, cpu_cores: float | None, rss_bytes: int | None
) -> None:
    """Sets what else is watched."""

def start_reports(report: Callable[[list[dict[str, Any]]], None], keep_thread_state: bool) -> None:
    """Begins to report what is seen: a native thread calls `report` with lists of events."""

def stop_reports() -> bool:
    """Ends the thread that reports; whether it has ended. If not, it is stuck in a log handler."""

def take_events() -> list[dict[str, Any]]:
    """What has been seen since the events that are being told; for who reports them."""

def pause_reports() -> None:
    """Ends the thread ahead of a fork; what goes on afterwards is kept."""

def wake_event() -> None:
    """Has the thread that reports look into what waits in Python."""

def counters() -> dict[str, int]:
    """All counters by name."""

def last_error() -> str | None:
    """The newest error in words."""

def kept_files() -> list[str]:
    """Files of this process that are in place, oldest first."""

def engine() -> tuple[str, str]:
    """The engine in use and why; empty strings before the first recording."""

def age_ns() -> int:
    """Time since the sampler was first started, in ns; 0 if it never was."""

def output_rotates(output: str) -> bool:
    """Whether `output` makes a file for each window rather than one at the end."""

def expand_output(output: str, program: str, seq: int, start_unix_ns: int) -> str:
    """`output` with its fields filled in."""

def dump_threads() -> tuple[
    list[tuple[int, str, str, list[tuple[str, str]], list[tuple[str, str, int]], str]], str
]:
    """Every thread, leaf first: kernel id, name, what it does, labels, (function, file, line).

    And a line that says which lock it waits for and who holds that, or nothing. Beside the threads,
    as text: the tasks of asyncio, and who waits for each other.
    """

def learn_tasks(
    specimens: list[tuple[str, int]], find_loop: Callable[[], Any], find_task: Callable[[Any], Any]
) -> None:
    """Learn where asyncio keeps its tasks, from objects' names and addresses."""

def no_tasks(reason: str) -> None:
    """Note why no tasks are shown."""

def learn_trio(specimens: list[tuple[str, int]]) -> None:
    """Learn which task trio runs, from objects' names and addresses."""

def no_trio(reason: str) -> None:
    """Note why trio's tasks are not told."""

def learn_greenlets(
    specimens: list[tuple[str, int]], class_: type[Any], existing: list[Any]
) -> None:
    """Learn where greenlets keep what, and note all: those among `existing`, and those to come."""

def no_greenlets(reason: str) -> None:
    """Note why suspended greenlets are not seen."""

def begin_task_steps() -> None:
    """Counts the steps of asyncio's tasks from now on, from nothing."""

def end_task_steps() -> None:
    """Counts no more of them."""

def task_step_figures() -> list[tuple[str, int, int, int, int, int]]:
    """Coroutine, steps, ns in them, CPU time of these, the longest, and stalls; most time first."""

def new_context() -> Any:
    """An empty context, as `contextvars.Context()`."""

def decode_lines(table: bytes, first_line: int) -> list[tuple[int, int]]:
    """Lines of a code object by instruction offset (bytes), as the direct engine decodes them."""

def dump_on_signal(signal: int, path: str | None) -> None:
    """Has every thread's stack written when a signal comes."""

def no_dump_on_signal() -> None:
    """Ends that and restores what was done on the signal before."""

def main_thread_id() -> int | None:
    """The kernel's id of the main thread, whatever it is called; None where it is unknown."""

def before_fork() -> None:
    """Ends rprof's native threads ahead of a fork; recordings go on afterwards."""

def install(
    *,
    errors: tuple[
        type[Exception], type[Exception], type[Exception], type[Exception], type[Exception]
    ],
    decorate: Callable[[Any, Callable[[], Any]], Any],
    load_watching: Callable[[], Any],
    learn: Callable[[], tuple[bool, ...]],
) -> None:
    """Takes what is called of Python. Only the first call counts."""

def tell_process(import_roots: list[str], own_directory: str, keep_thread_state: bool) -> None:
    """Takes what is to be known of this process for whatever begins from now on."""

def install_hooks(
    at_exit: Callable[[], Any],
    before_fork: Callable[[], Any],
    after_fork_in_child: Callable[[], Any],
) -> None:
    """Has these called at the end of the process and around forks, once."""

def hook_parent() -> None:
    """Has the threads start again after a fork, after what was registered for that so far."""

def try_again() -> bool:
    """Asks for the threads that the system has refused; whether some are missing still."""

def after_fork_in_parent() -> None:
    """Starts the threads again in the parent."""

def after_fork_in_parent_later() -> None:
    """The same, but in the main thread as soon as that runs its next Python instruction."""

def after_fork_in_child() -> None:
    """Forgets everything of the parent in a forked child."""

def resume_later(
    calls: dict[str, tuple[Callable[..., Any], dict[str, Any], str | None]],
    results: dict[str, Any],
) -> None:
    """Makes these calls once this process has worked for a while, or at `resume_now`.

    `results` gets what they return, or raise.
    """

def resume_now() -> None:
    """Goes on at once with what waits, if anything does."""

def measures() -> list[tuple[str, str, bool, str]]:
    """Every measure: name, unit, whether windows add up (else the last one counts), meaning."""

def format_value(value: int, unit: str) -> str:
    """A value with its unit, short: ``1.25 s``, ``4.0 MiB``, ``1,234``."""

def viewer_asset(name: str) -> str:
    """The text of a file that the report page is made of; KeyError if there is none."""

class _EndpointOptions(TypedDict):
    address: str
    token: str | None
    program: str
    page: tuple[str, str]
    rate: float
    max_overhead: float

def serve(options: _EndpointOptions) -> str:
    """Begins to answer at an address; returns where it listens."""

@final
class Serving:
    """An endpoint that is to be closed with this object at the latest, as the end of a block."""

    def __new__(cls, address: str) -> Serving: ...
    def abandon(self) -> None:
        """Has it closed, if it is open, without waiting for that."""

def stop_serving() -> None:
    """Closes the endpoint, if there is one."""

def is_local_address(address: str) -> bool:
    """Whether an address can be reached from elsewhere."""
