"""Log records from a thread that ``threading`` is not to know."""

from __future__ import annotations

import logging
import sys
import threading
from types import FunctionType
from typing import Any

from ._process import log

__all__ = ["abandon", "forget_thread", "tell"]

_NAMES = ("rprof.slow", "rprof.watch")
# Another thread may be in the handler as well, and leaves it.
_LOCK_SECONDS = 0.1
_THREAD_NAME = "rprof-reporter"


def tell(name: str, level: str, message: str, *args: Any, **more: Any) -> None:
    """Log a message, with ``extra`` as the methods of a logger take it."""
    # A handler that prints nothing, unless the application wants it.
    log()
    logger = logging.getLogger(name)
    number: int = getattr(logging, level)
    if logger.isEnabledFor(number):
        logger.handle(_record(logger, number, message, args, more.get("extra") or {}))


def _record(
    logger: logging.Logger, level: int, message: str, args: tuple[Any, ...], extra: dict[str, Any]
) -> logging.LogRecord:
    line = sys._getframe(2).f_lineno
    origin = (logger.name, level, __file__, line, message, args, None, "tell")
    initialise: Any = logging.LogRecord.__init__
    if (
        _is_own(logging.Logger.makeRecord)
        and type(logger).makeRecord is logging.Logger.makeRecord
        and logging.getLogRecordFactory() is logging.LogRecord
        and _is_own(initialise)
    ):
        # A record asks threading for the current thread, which adds one that it does not know to
        # those of threading.enumerate(), and a program that joins them all fails. So it begins as
        # where logging.logThreads is off, for this record alone.
        begun = FunctionType(initialise.__code__, {**vars(logging), "logThreads": False})
        begun.__defaults__ = initialise.__defaults__
        record = logging.LogRecord.__new__(logging.LogRecord)
        begun(record, *origin)
        record.thread = threading.get_ident()
        vars(record).update(extra)
    else:
        # The application makes its records itself.
        record = logger.makeRecord(*origin, extra)
    record.threadName = _THREAD_NAME
    return record


def _is_own(function: Any) -> bool:
    """Whether a function is logging's own, not one that was put in its place."""
    return (
        type(function) is FunctionType
        and function.__globals__ is vars(logging)
        and function.__closure__ is None
    )


def abandon() -> None:
    """Give handlers in which a report is stuck new locks, at the end of the process.

    ``logging.shutdown()`` takes the lock of every handler, and would wait for one that is held by a
    thread which waits for something else, perhaps for ever.
    """
    for name in _NAMES:
        logger: logging.Logger | None = logging.getLogger(name)
        while logger is not None:
            for handler in logger.handlers:
                lock: Any = handler.lock
                if lock is None:
                    continue
                if lock.acquire(timeout=_LOCK_SECONDS):
                    lock.release()
                else:
                    handler.createLock()
            logger = logger.parent


def forget_thread() -> None:
    """Take the calling thread out of those that ``threading`` lists.

    It is there if a handler has asked for the current thread; up to CPython 3.12 it would stay for
    ever.
    """
    active = threading._active  # type: ignore[attr-defined]
    with threading._active_limbo_lock:  # type: ignore[attr-defined]
        known = active.get(threading.get_ident())
        if isinstance(known, threading._DummyThread):
            del active[threading.get_ident()]
            threading._dangling.discard(known)  # type: ignore[attr-defined]
