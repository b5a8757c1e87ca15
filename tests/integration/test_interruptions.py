"""Exceptions that come from outside (signals, timeouts) at every instruction of rprof's own."""

from __future__ import annotations

import sys
import textwrap

import pytest
from support import LONG

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

INTERRUPTING = '''
import dis, os, sys, time, rprof

OWN = os.path.dirname(rprof.__file__) + os.sep

class Timeout(Exception):
    pass

# Before CPython 3.13 instructions are told of at which no handler runs: those between the last one
# in a `try` and the return.
held, holds = [], sys.version_info >= (3, 13)

def is_left_out(frame):
    return False

# Nothing comes from outside at a return: signals are looked for where functions begin, after calls
# and at jumps back. No handler runs there either, and whether it is told of depends on what ran
# before.
instructions = {}

def returns(frame):
    code = frame.f_code
    found = instructions.get(code) or instructions.setdefault(code, code.co_code)
    return dis.opname[found[frame.f_lasti]] in ("RETURN_VALUE", "RETURN_CONST")

def is_interrupted(call, number):
    """Call, and raise at so many instructions of rprof's own; whether it came to that."""
    left = number
    def at_instruction(frame, event, argument):
        nonlocal left
        if event == "opcode" and not returns(frame) and not is_left_out(frame):
            left -= 1
            if left < 0:
                raise Timeout
        return at_instruction
    def at_call(frame, event, argument):
        if not frame.f_code.co_filename.startswith(OWN):
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return at_instruction
    sys.settrace(at_call)
    held.clear()
    try:
        call()
    except Timeout as error:
        # Whoever handles it holds all that was on the stack.
        if holds: held.append(error)
        return True
    finally:
        sys.settrace(None)
    return False

def threads():
    found = []
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/comm") as file:
                name = file.read().strip()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if name.startswith("rprof"):
            found.append(name)
    return found

def await_no_threads(number):
    deadline = time.monotonic() + 10
    while threads():
        assert time.monotonic() < deadline, (number, threads(), rprof.status())
        time.sleep(0.0005)

def afterwards():
    try:
        rprof.stop()
    except rprof.RprofStateError:
        pass

def check_all():
    """Interrupt at each instruction in turn, or at each of so many, until there is none left."""
    # CPython 3.12 tells of instructions from the second time on.
    assert not is_interrupted(call, 1 << 30)
    afterwards()
    stride = int(os.environ["STRIDE"])
    number = sys.version_info.minor % stride
    while is_interrupted(call, number):
        afterwards()
        assert not rprof.is_running(), number
        await_no_threads(number)
        number += stride
    afterwards()
    await_no_threads(number)
    rprof.start(None, rate=1000)
    sum(range(1_000_000))
    assert rprof.stop().totals["wall"] > 0
    await_no_threads(number)
    print(number)
'''

# One of three instructions, on the next version another one; in the long run each of them.
STRIDE = "1" if LONG else "3"

CALLS = {
    "block": """
        def call():
            with rprof.profile():
                pass
    """,
    "block_with_output": """
        def call():
            with rprof.profile("x.pb.gz"):
                pass
    """,
    "decorated": """
        @rprof.profile()
        def call():
            pass
    """,
    "decorated_generator": """
        # A generator that is held has not ended.
        holds = False
        @rprof.profile()
        def numbers():
            yield 1
            yield 2
        def call():
            assert list(numbers()) == [1, 2]
    """,
    "start_and_stop": """
        def call():
            rprof.start(None)
            rprof.stop()
    """,
    "start_and_stop_with_output": """
        def call():
            rprof.start("out/", keep_files=3)
            rprof.flush()
            rprof.stop()
    """,
    "capture": """
        def call():
            with rprof.profile_next(1, route="a") as capture:
                with rprof.request("a"):
                    pass
            assert capture.count == 1
    """,
    "serve": """
        def call():
            global endpoint
            endpoint = None
            endpoint = rprof.serve("127.0.0.1:0")
            endpoint.stop()
        def afterwards():
            if endpoint is not None:
                endpoint.stop()
        def is_left_out(frame):
            # No handler runs there, and an endpoint may well outlive what stands for it.
            return dis.opname[frame.f_code.co_code[frame.f_lasti]].startswith("RETURN")
    """,
    "serve_block": """
        def call():
            global endpoint
            endpoint = None
            endpoint = rprof.serve("127.0.0.1:0")
            with endpoint:
                pass
        def afterwards():
            if endpoint is not None:
                endpoint.stop()
        def is_left_out(frame):
            # No handler runs there, and an endpoint may well outlive what stands for it.
            return dis.opname[frame.f_code.co_code[frame.f_lasti]].startswith("RETURN")
    """,
    "pytest": """
        from types import SimpleNamespace
        from rprof.pytest_plugin import TestRecording, _load, _Tools
        tools = _Tools(_load(), 1000)
        recorder = SimpleNamespace(tools=lambda: tools)
        def call():
            recording = TestRecording(recorder)
            try:
                recording.start()
                recording.stop()
            finally:
                recording.abandon()
    """,
}

# Each leaves nothing in force and nothing under way.
CONTEXTS = {
    "labels": """
        def call():
            with rprof.labels(one="1"), rprof.labels(two="2"):
                pass
    """,
    "decorated_by_labels": """
        @rprof.labels(one="1")
        def call():
            pass
    """,
    "request": """
        def call():
            with rprof.request("a", labels={"one": 1}):
                pass
    """,
    "decorated_by_request": """
        @rprof.request("a")
        def call():
            pass
    """,
    "slow_request": """
        from rprof import _hooks, _process, _recordings
        def call():
            with rprof.request("a", slow_after=60.0):
                pass
        def afterwards():
            check_contexts()
            # Watching goes on until the end of the process; what is left of half a begin must not.
            if _process.current().is_watching:
                _hooks.end_watching()
                _recordings.end_flight()
    """,
}

CHECKING = """
def check_contexts():
    assert rprof.current_labels() == {}, rprof.current_labels()
    from rprof import _native
    assert all(under_way == 0 for _, _, under_way, *_ in _native.route_figures([]))

def afterwards():
    check_contexts()

def is_left_out(frame):
    # Between the body of `with` and the call of __exit__ no handler runs (CPython 3.10 to 3.12;
    # later ones have the exception go there).
    code, at = frame.f_code.co_code, frame.f_lasti
    name = dis.opname[code[at]]
    steps = ("ROT_TWO", "SWAP", "LOAD_CONST", "DUP_TOP", "PRECALL")
    is_end = name in steps or (name, code[at + 1]) in (("CALL_FUNCTION", 3), ("CALL", 2))
    return sys.version_info < (3, 13) and frame.f_code.co_name == "wrapper" and is_end
"""


@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_left_of_what_was_interrupted(programs, name):
    code = INTERRUPTING + textwrap.dedent(CALLS[name]) + "\ncheck_all()\n"
    assert int(programs.check(code, timeout=600, STRIDE=STRIDE)) > 10


@pytest.mark.parametrize("name", CONTEXTS)
def test_nothing_stays_in_force_that_was_interrupted(programs, name):
    code = INTERRUPTING + CHECKING + textwrap.dedent(CONTEXTS[name]) + "\ncheck_all()\n"
    programs.check(code, timeout=600, STRIDE=STRIDE)


def test_what_has_ended_without_its_owner_is_told_and_written(programs):
    programs.check(
        INTERRUPTING
        + """
from rprof import _native
block = rprof.profile(rate=1000)
block.__enter__()
del block
await_no_threads(0)
assert _native.counters()["abandoned"] == 1
assert "what it had recorded is lost" in rprof.status().last_error
rprof.start("out/", rate=1000)
sum(range(1_000_000))
from rprof import _process, _recordings
_process.current().continuous = None
_recordings.end_flight()
await_no_threads(0)
assert _native.counters()["abandoned"] == 3
assert len(os.listdir("out")) == 1
assert rprof.load("out/" + os.listdir("out")[0]).totals["wall"] > 0
"""
    )


@pytest.mark.parametrize("call", ["block", "decorated", "start"])
def test_timeouts_by_a_signal(programs, call):
    programs.check(
        INTERRUPTING
        + f"""
import signal

def give_up(*_):
    raise Timeout

def block():
    with rprof.profile():
        pass

@rprof.profile()
def decorated():
    pass

def start():
    rprof.start(None)
    rprof.stop()

signal.signal(signal.SIGALRM, give_up)
# The interpreter's own finalizers are interrupted as well, and say so.
sys.unraisablehook = lambda *_: None
for number in range(600):
    try:
        # From the first instruction to long after the last.
        signal.setitimer(signal.ITIMER_REAL, 1e-6 + number * 3e-6)
        {call}()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Timeout:
        pass
    signal.setitimer(signal.ITIMER_REAL, 0)
    afterwards()
    assert not rprof.is_running()
    if number % 20 == 0:
        await_no_threads(number)
await_no_threads(600)
{call}()
""",
        timeout=300,
    )


def test_a_turn_that_was_not_ended_ends_with_its_object(programs):
    programs.check(
        """
        import threading
        from rprof import _native
        turn = _native.take_turn()
        turn.__enter__()
        again = _native.take_turn()
        del turn, again
        taken = []
        thread = threading.Thread(target=lambda: taken.append(_native.take_turn()))
        thread.start()
        thread.join(timeout=30)
        assert taken
        """
    )
