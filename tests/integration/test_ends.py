"""The last window of a process that ends without its interpreter: os._exit, SIGTERM, exit of C."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest
import rprof
from support import ENGINE

# Each function of `ends` is the end of a forked child that has worked for 0.1 s; `told` is what the
# parent sends to a child that waits. Prints the exit code of each, and its process.
PROGRAM = """
import ctypes, functools, json, os, signal, sys, threading, time
import rprof
from burning import burn
rprof.start("out/", rate=500, max_overhead=1.0)
ready, say_ready = os.pipe()

def wait(how=time.sleep, what=60):
    os.write(say_ready, b"r")
    how(what)

{ends}

def run(end, told):
    child = os.fork()
    if child == 0:
        burn(0.1)
        try:
            end()
        finally:
            os._exit(99)
    if told:
        os.read(ready, 1)
        os.kill(child, told)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), child

print(json.dumps({{end.__name__: run(end, told) for end, told in ends.items()}}))
rprof.stop()
"""


def outcomes(programs, ends: str) -> dict[str, tuple[int, bool]]:
    """Return the exit code of each child, and whether its work is in a profile.

    An end waits for 0.2 s at most, and a busy machine may need more: a window that was lost may be
    tried for again, twice.
    """
    for _ in range(3):
        found = outcomes_once(programs, ends)
        if all(has_window for _, has_window in found.values()):
            break
    return found


def outcomes_once(programs, ends: str) -> dict[str, tuple[int, bool]]:
    """Return the same of one run."""
    found = json.loads(programs.check(PROGRAM.format(ends=ends)))
    whole = {
        int(path.name.rsplit("-", 3)[1])
        for path in programs.profiles("out")
        for row in rprof.load(path).top(1000, by="wall")
        if row.name == "burning.burn" and row.total_value > 50e6
    }
    return {name: (code, child in whole) for name, (code, child) in found.items()}


OWN_ENDS = """
def plain(): os._exit(3)
def from_a_thread():
    threading.Thread(target=os._exit, args=(4,)).start()
    time.sleep(60)
def wrapped_again():
    inner = os._exit
    os._exit = lambda status: inner(status)
    os._exit(5)
def with_a_signal_due():
    def fail(*_): raise ValueError
    signal.signal(signal.SIGINT, fail)
    # Both without an instruction of Python in between, at which the handler would run.
    calls = (ctypes.pythonapi.PyErr_SetInterrupt,), (os._exit, 6)
    list(map(functools.partial.__call__, [functools.partial(*call) for call in calls]))
def in_the_midst_of_a_stop():
    stopping = threading.Thread(target=rprof.stop)
    stopping.start()
    os._exit(7)
def in_c(): ctypes.CDLL(None).exit(8)
def badly():
    try: os._exit("nine")
    except TypeError: os._exit(9)
ends = dict.fromkeys(
    (plain, from_a_thread, wrapped_again, with_a_signal_due, in_the_midst_of_a_stop, in_c, badly))
"""


def test_a_process_that_ends_itself_leaves_its_last_window(programs):
    found = outcomes(programs, OWN_ENDS)
    assert found == {
        "plain": (3, True),
        "from_a_thread": (4, True),
        "wrapped_again": (5, True),
        "with_a_signal_due": (6, True),
        "in_the_midst_of_a_stop": (7, True),
        "in_c": (8, True),
        "badly": (9, True),
    }


TOLD_TO_END = """
def default():
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    wait()
def reset():
    signal.signal(signal.SIGTERM, lambda *_: None)
    assert signal.signal(signal.SIGTERM, signal.SIG_DFL)
    wait()
def in_a_thread():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    def unblock():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        wait()
    threading.Thread(target=unblock).start()
    time.sleep(60)
def own():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try: wait()
    except SystemExit: rprof.flush(); os.kill(os.getpid(), signal.SIGKILL)
def waited_for():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    wait(signal.sigwait, [signal.SIGTERM])
    os._exit(4)
def ignored():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    wait(time.sleep, 0.1)
    os._exit(5)
def twice():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    os.kill(os.getpid(), signal.SIGTERM)
    wait(time.sleep, 0.1)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
ends = dict.fromkeys(
    (default, reset, in_a_thread, own, waited_for, ignored, twice), signal.SIGTERM)
"""


def test_a_process_that_is_told_to_end_leaves_its_last_window(programs):
    found = outcomes(programs, TOLD_TO_END)
    if ENGINE == "gil":
        # The signal may meet the thread that has the GIL, for which the sampler is waiting.
        killed = [name for name, (status, _) in found.items() if status == -signal.SIGTERM]
        found |= {name: (-signal.SIGTERM, True) for name in killed}
    assert found == {
        "default": (-signal.SIGTERM, True),
        "reset": (-signal.SIGTERM, True),
        "in_a_thread": (-signal.SIGTERM, True),
        "own": (-signal.SIGKILL, True),
        "waited_for": (4, True),
        "ignored": (5, True),
        "twice": (-signal.SIGTERM, True),
    }


def test_a_child_that_has_not_gone_on_ends_at_once_and_leaves_nothing(programs):
    found = json.loads(
        programs.check(
            """
            import json, os, signal, rprof
            rprof.start("out/", rate=500)
            def ended(end):
                child = os.fork()
                if child == 0:
                    end()
                return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            print(json.dumps([
                ended(lambda: os._exit(2)),
                ended(lambda: os.kill(os.getpid(), signal.SIGTERM)),
            ]))
            """
        )
    )
    assert found == [2, -signal.SIGTERM]
    assert len(programs.profiles("out")) == 1


def test_what_stands_in_is_seen_and_goes(programs):
    programs.check(
        """
        import _signal, copy, inspect, os, pickle, rprof, signal
        def places(): return os._exit, _signal.signal
        real = places()
        for output, options in (("out/", {"exit_hooks": False}), (None, {})):
            rprof.start(output, **options)
            assert places() == real
            rprof.stop()
        rprof.start("out/")
        with rprof.profile("block.pb.gz"): pass
        for ours, wrapped in zip(places(), real):
            assert ours is not wrapped and ours.__wrapped__ is wrapped
            assert inspect.signature(ours) == inspect.signature(wrapped)
            assert (ours.__name__, ours.__doc__) == (wrapped.__name__, wrapped.__doc__)
            assert pickle.loads(pickle.dumps(ours)) is copy.deepcopy(ours) is ours
        class Program:
            end = os._exit
        assert Program().end is os._exit
        rprof.stop()
        assert places() == real
        # Whoever has wrapped it since keeps what it has wrapped.
        rprof.start("out/")
        ours = os._exit
        def theirs(status): ours(status)
        os._exit = theirs
        rprof.stop()
        assert places() == (theirs, real[1])
        rprof.start("out/")
        assert os._exit.__wrapped__ is theirs
        rprof.stop()
        assert os._exit is theirs
        os._exit(0)
        """
    )


@pytest.mark.parametrize(("variable", "written"), [("", True), ("0", False)])
def test_a_variable_turns_it_off(programs, variable, written):
    code = "import os, rprof.auto; from burning import burn; burn(0.1); os._exit(6)"
    done = programs.run(code, RPROF_OUTPUT="out/", RPROF_EXIT_HOOKS=variable)
    assert (done.returncode, done.stderr) == (6, "")
    assert len(programs.profiles("out")) == written


UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc")
SURVIVES = """
import os, signal
import rprof
from burning import burn
rprof.start("out/", rate=500, max_overhead=1.0)
assert os.getpid() == 1
os.kill(1, signal.SIGTERM)
child = os.fork()
if child == 0:
    # Its group's first process is no process 1.
    burn(0.1)
    os.kill(os.getpid(), signal.SIGTERM)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
burn(0.1)
profile = rprof.stop()
assert any(row.name == "burning.burn" for row in profile.top(20))
"""


def test_process_1_of_a_container_goes_on_and_is_recorded(programs):
    probe = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        pytest.skip(f"process ids of one's own cannot be had here: {probe.stderr.strip()}")
    program = programs.command(SURVIVES)
    done = subprocess.run(
        [*UNSHARE, *program],
        cwd=programs.directory,
        env=programs.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_host_that_forks_while_no_function_of_python_runs(programs):
    # As uWSGI does with its fork hooks; and from another thread than the main one, as Celery does.
    programs.check(
        """
        import _thread, functools, os, rprof
        from burning import burn
        rprof.start("out/", rate=500, max_overhead=1.0)
        parent = os.getpid()
        forked = _thread.allocate_lock()
        forked.acquire()
        def go_on():
            if os.getpid() != parent:
                burn(0.1)
                os._exit(0)
            forked.release()
        steps = os.fork, go_on
        calls = map(functools.partial.__call__, map(functools.partial, steps))
        _thread.start_new_thread(list, (calls,))
        assert forked.acquire(timeout=60)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
        """,
        "-Wignore",
    )
    assert len(programs.profiles("out")) == 2


@pytest.mark.skipif(ENGINE == "gil", reason="its sampler may wait for who has the GIL, see above")
def test_a_pool_that_is_left_by_with_leaves_the_windows_of_its_workers(programs):
    workers = json.loads(
        programs.check(
            """
            import json, multiprocessing, os
            import rprof.auto
            from burning import burn
            def work(_):
                burn(0.1)
                return os.getpid()
            if __name__ == "__main__":
                context = multiprocessing.get_context("spawn")
                with context.Pool(2) as pool:
                    print(json.dumps(sorted(set(pool.map(work, range(4), chunksize=1)))))
            """,
            RPROF_OUTPUT="out/",
            RPROF_RATE="500",
        )
    )
    seen = {
        int(path.name.rsplit("-", 3)[1])
        for path in programs.profiles("out")
        if any(row.name == "burning.burn" for row in rprof.load(path).top(1000))
    }
    assert seen >= set(workers)
