"""Every thread's stack and asyncio's tasks as text: now, or whenever a signal comes."""

# Imports nothing that the interpreter has not imported by itself, as _config.

import os
from _thread import get_native_id

from . import _hooks
from ._config import absolute
from ._loading import native
from ._process import current, tell_native
from .errors import RprofTypeError

__all__ = ["dump", "dump_on_signal"]


def dump() -> str:
    """Return every thread's stack now, the innermost call first, and asyncio's tasks.

    Each task of asyncio is shown below the one that waits for it, with where it waits itself. A
    thread that waits for a lock is shown with the thread that holds it; threads that wait for each
    other are told at the end.
    Works whether or not profiling is on. Needs the GIL, as every Python call does.
    """
    current()
    native().try_again()
    tell_native()
    threads, rest = native().dump_threads()
    own_id, main_id = get_native_id(), native().main_thread_id()
    blocks = []
    for thread_id, name, doing, labels, frames, waits in threads:
        state = "current" if thread_id == own_id else doing
        state = state and f", {state}"
        said = ", ".join(f"{key}={value}" for key, value in labels)
        said = said and f" [{said}]"
        main = " (the main thread)" if thread_id == main_id and name != "MainThread" else ""
        lines = [f'Thread {thread_id} "{name}"{main}{state}{said} (most recent call first):']
        lines += [f'  File "{file}", line {line}, in {function}' for function, file, line in frames]
        if waits:
            lines.append(waits.rstrip("\n"))
        blocks.append("\n".join(lines))
    if rest:
        blocks.append(rest.rstrip("\n"))
    return "\n\n".join(blocks) + "\n"


def dump_on_signal(signal: int | None, path: str | os.PathLike[str] | None = None) -> None:
    """Write every thread's stack whenever a signal comes, even while the GIL is stuck.

    A native thread does it, and needs no GIL: it answers while a C extension holds the GIL for
    ever, and while all threads wait for each other. Each thread is shown with what it does: holds
    the GIL, waits for the GIL, runs without it, or is blocked.

    Args:
        signal: For example ``signal.SIGUSR2``; what was done on it before is replaced. ``None``
            ends dumping and restores that.
        path: File that dumps are appended to (made with mode 0600); ``None`` is stderr.

    Raises:
        RprofStateError: The direct engine cannot be used here; the message says why.
        RprofValueError: The signal cannot be handled.
    """
    state = current()
    if signal is None:
        native().no_dump_on_signal()
        state.dumps = False
        return
    if isinstance(signal, bool) or not isinstance(signal, int):
        raise RprofTypeError(f"signal must be a number such as signal.SIGUSR2, not {signal!r}")
    if path is not None:
        path = absolute(os.fspath(path))
    module = _hooks.native()
    tell_native()
    state.dumps = True
    module.dump_on_signal(int(signal), path)
