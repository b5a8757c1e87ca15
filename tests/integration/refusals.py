"""A program that is run again and again, each time with one system call refused.

Arguments: how (`plain` or an engine), when (`start` or `running`). Standard input: a list of
[call, action]. Prints, for each, the exit status, what it said, and how it went on.
"""

import contextlib
import json
import os
import sys
import threading
import time

import rprof
from forbidding import ACTIONS, NUMBERS, forbid

HOW, WHEN = sys.argv[1:]
AT_ONCE = 3


def burn(seconds):
    """Compute, without a system call."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        sum(range(100))


def start():
    """Begin to record; to be refused is all right, to be hurt is not."""
    try:
        rprof.start("out/", rate=1000, max_overhead=0, window=0.02, engine=HOW, keep_files=3)
    except rprof.RprofError as error:
        return str(error)
    return ""


def program(call, action):
    """The program itself."""
    calls = [NUMBERS[call]]

    def begin():
        # Threads that this one starts inherit the filter; the others know nothing of it.
        forbid(calls, ACTIONS[action])
        if HOW != "plain":
            start()

    if WHEN == "start":
        thread = threading.Thread(target=begin)
        thread.start()
        thread.join()
    else:
        if HOW != "plain":
            start()
        burn(0.02)
        forbid(calls, ACTIONS[action], everywhere=True)
    burn(0.03)
    if HOW != "plain":
        with contextlib.suppress(rprof.RprofError):
            rprof.stop()
    print("the program has ended", flush=True)


def ended(running):
    """Take the next that has ended."""
    pid, status = os.waitpid(-1, 0)
    case, file = running.pop(pid)
    os.lseek(file, 0, os.SEEK_SET)
    said = os.read(file, 1 << 20).decode(errors="replace")
    os.close(file)
    return case, [os.waitstatus_to_exitcode(status), said]


def main():
    """Run all cases; a child returns to end as programs do."""
    cases, running, results = json.load(sys.stdin), {}, []
    # What is needed is loaded, as in a server that forks its workers.
    with rprof.profile(engine="gil"):
        pass
    for case in cases:
        if len(running) == AT_ONCE:
            results.append(ended(running))
        file = os.memfd_create("said")
        pid = os.fork()
        if pid == 0:
            os.dup2(file, 1)
            os.dup2(file, 2)
            # A case that hangs ends by this: its exit status is another one than that of others.
            import signal

            signal.alarm(20)
            program(*case)
            return
        running[pid] = case, file
    while running:
        results.append(ended(running))
    print(json.dumps(results), file=sys.__stdout__)


main()
