"""The account of the process's memory: who has it."""

# Loaded when a recording begins, so it imports nothing that the interpreter has not imported by
# itself, as _config.

import sys

from ._loading import native
from ._rows import NamedTuple

__all__ = ["MemoryAccount", "memory_account"]

# Free memory that glibc keeps is worth a sentence from here on.
_MUCH_BYTES = 32 << 20
_MUCH_PART = 0.25

_WORDS = {
    "resident": "in memory",
    "anonymous": "heaps and stacks, of which",
    "arenas": "  arenas of Python's small objects",
    "malloc_used": "  malloc, in use",
    "malloc_kept": "  malloc, free but kept (at most)",
    "arrow": "  Arrow's own pool",
    "unexplained": "  not known to rprof",
    "file": "pages of files: code, mappings",
    "shared": "shared memory",
}


class MemoryAccount(NamedTuple):
    """Who has the memory of a process, in bytes; None where something is not known.

    ``resident`` is the sum of ``anonymous``, ``file`` and ``shared``; ``anonymous`` that of
    ``arenas``, ``malloc_used``, ``malloc_kept``, ``arrow`` and ``unexplained``.
    """

    resident: int | None
    """What is in memory (RSS)."""
    anonymous: int | None
    """Of no file: heaps and stacks."""
    file: int | None
    """Pages of files: code, and what is mapped."""
    shared: int | None
    """Shared memory."""
    python: int | None
    """In use in Python, estimated from samples; it lies in arenas and in what malloc has in use.
    What was allocated before ``memory=`` was on is not in it."""
    python_error: int | None
    """One standard deviation of ``python``."""
    arenas: int | None
    """Arenas of CPython's allocator of small objects, once ``memory=`` was on."""
    malloc_used: int | None
    """In use of what glibc's malloc has given: larger objects, arrays, what C libraries hold."""
    malloc_kept: int | None
    """Free, but kept by glibc for later, at most: of free memory that was given back to the system
    by ``malloc_trim`` glibc does not tell."""
    arrow: int | None
    """The pool of pyarrow, if that was imported and has one of its own."""
    unexplained: int | None
    """What is none of these: stacks of threads, other allocators, mappings."""

    @property
    def advice(self) -> str:
        """A sentence on memory that glibc keeps, if that is much; else empty."""
        kept, resident = self.malloc_kept, self.resident
        if not kept or not resident or kept < max(_MUCH_BYTES, _MUCH_PART * resident):
            return ""
        return (
            f"up to {native().format_value(kept, 'bytes')} ({kept / resident:.0%} of what is in "
            "memory) is free: glibc keeps it for later, so it is no leak; "
            "ctypes.CDLL(None).malloc_trim(0) gives it back now, MALLOC_ARENA_MAX=2 and "
            "MALLOC_TRIM_THRESHOLD_=131072 in the environment keep less"
        )

    def __str__(self) -> str:
        show = native().format_value
        lines = [
            f"{show(value, 'bytes'):>10}  {words}"
            for name, words in _WORDS.items()
            if (value := getattr(self, name)) is not None
        ]
        if self.python is not None and self.python_error is not None:
            error = show(self.python_error, "bytes")
            lines.append(f"{show(self.python, 'bytes'):>10}  in use in Python, ± {error}")
        if self.advice:
            lines.append(f"({self.advice})")
        return "\n".join(lines)


def memory_account() -> MemoryAccount:
    """Return who has the memory of this process now.

    It takes a tenth of a millisecond, and glibc takes another one for each 1,000 blocks that it has
    free, during which threads that allocate may wait. ``python`` and ``arenas`` are known where
    ``memory=`` is on.
    """
    return _account(in_passing=False)


def account_in_passing() -> MemoryAccount:
    """Return the same without what takes long to find out, or as it was a moment ago."""
    return _account(in_passing=True)


def _account(*, in_passing: bool) -> MemoryAccount:
    parts = dict(native().memory_account(in_passing))
    arrow = _arrow()
    unexplained = parts.get("unexplained")
    if arrow is not None and unexplained is not None:
        parts["unexplained"] = max(unexplained - arrow, 0)
    known = {name: parts.get(name) for name in MemoryAccount._fields if name != "arrow"}
    return MemoryAccount(**known, arrow=arrow)


def _arrow() -> int | None:
    """Return what the pool of pyarrow has, unless that is malloc's."""
    arrow = sys.modules.get("pyarrow")
    pool = getattr(arrow, "default_memory_pool", None)
    # Another thread may be importing it.
    if pool is None or (found := pool()).backend_name == "system":
        return None
    return int(found.bytes_allocated())
