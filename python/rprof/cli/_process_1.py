"""``rprof run`` as process 1 of a container, where the program has to be another process.

The kernel lets no signal without a handler end process 1 that comes from itself or from its own
container (kernel/signal.c, SIGNAL_UNKILLABLE): a program that has become it would go on after what
ends it anywhere else. So this one does what is expected of a process 1: it passes signals on, takes
in what others have left, and ends with the program's exit code, 128 and the number for a signal, as
a shell has it.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable

# Of these the first two stop a process that writes to the terminal from the background, and are
# about this process; the last is about its children.
_OURS = {signal.SIGTTIN, signal.SIGTTOU, signal.SIGCHLD}
# They tell of a mistake of this process, at once.
_FAULTS = {
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGTRAP,
    signal.SIGABRT,
}


def be_process_1(command: list[str], environment_of: Callable[[int], dict[str, str]]) -> int:
    """Run a program and return its exit code.

    Args:
        command: Its words, the first of them the file to execute.
        environment_of: Called with its process id for its environment.
    """
    wanted = signal.valid_signals() - _FAULTS
    # Python's own handlers would take them. As none is lost while they are blocked, none is lost
    # before the program is there.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    program = os.fork()
    if program == 0:
        _become(command, environment_of, before)
    while True:
        number = signal.sigwait(wanted)
        if number == signal.SIGCHLD:
            status = _collect(program)
            if status is not None:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
        elif number not in _OURS:
            os.kill(program, number)


def _become(
    command: list[str], environment_of: Callable[[int], dict[str, str]], mask: set[int]
) -> None:
    """Execute the program in a process group of its own, the one in front on its terminal.

    So what is sent to a group reaches the program once: by its terminal, or through this process.
    """
    try:
        os.setpgid(0, 0)
        if os.isatty(0):
            # SIGTTOU, which this would bring, is blocked.
            os.tcsetpgrp(0, os.getpgrp())
        for name in ("SIGPIPE", "SIGXFSZ"):
            # Ignored by Python alone.
            signal.signal(getattr(signal, name), signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.execve(command[0], command, environment_of(os.getpid()))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(127)


def _collect(program: int) -> int | None:
    """Take in every process that has ended; return how the program has, if it has."""
    while True:
        process, status = os.waitpid(-1, os.WNOHANG)
        if process == 0:
            return None
        if process == program:
            return status
