"""The exceptions of rprof: one family, each also the built-in it comes nearest to."""

__all__ = [
    "RprofError",
    "RprofMemoryError",
    "RprofOSError",
    "RprofStateError",
    "RprofTypeError",
    "RprofValueError",
]


class RprofError(Exception):
    """Anything rprof refuses; the message names the input and the remedy."""


class RprofValueError(RprofError, ValueError):
    """An option or a file has a value that is not acceptable."""


class RprofTypeError(RprofError, TypeError):
    """An option has the wrong type, or there is no such option."""


class RprofStateError(RprofError, RuntimeError):
    """The call does not fit what the profiler is doing at the moment."""


class RprofOSError(RprofError, OSError):
    """The operating system refused, for instance to write a file."""


class RprofMemoryError(RprofError, MemoryError):
    """There was no memory for it; nothing has changed."""
