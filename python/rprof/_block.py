"""Blocks: ``rprof.profile`` as a context manager and as a decorator."""

# Imports nothing that the interpreter has not imported by itself, as _config.

import os

# _continuous is loaded with this one: when that is asked for, no file may be readable any more.
from . import _continuous, _loading, _process, _recordings  # noqa: F401
from ._config import UNSET, given_options, program_name, resolve
from .errors import RprofError, RprofStateError, RprofValueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Any, TypeVar

    from ._config import Config, ThreadInfo
    from ._native import Block, Recording
    from ._profile import Profile

    _F = TypeVar("_F", bound=Callable[..., Any])
    _B = TypeVar("_B", bound="profile")
else:
    Block = _loading.block()

__all__ = ["profile"]


class profile(Block):
    """Profile a block of code, or each call of a function.

    As a context manager (``with`` or ``async with``) the result is in ``.profile`` afterwards, and
    in ``output`` if that was given. As a decorator it records each call of a function, coroutine
    function, generator function or asynchronous generator function; of generators only the time in
    which they themselves run. Blocks may nest and overlap freely, in any thread.

    Args:
        output: A path ending in ``.pb.gz`` to write at the end of the block, with ``{program}``,
            ``{pid}``, ``{time}`` and ``{seq}`` (number of the call) filled in, or ``None``. A file
            of another process or run keeps its name if there are such fields; this one's gets the
            next number.
        rate: Ticks per second, 0.01 to 10,000 Hz (default 100).
        engine: As for ``start``.
        max_overhead: As for ``start``; default 0.1, because a block is short and was asked for.
        max_nodes: As for ``start``.
        max_depth: As for ``start``.
        threads: As for ``start``, or a callable that takes a ``ThreadInfo`` and says whether to
            keep that thread.
        memory: As for ``start``; ``.heap`` is then the profile of what was allocated. With
            ``output`` that is written as well, to a name that ends in ``.heap.pb.gz``.
        locks: As for ``start``.
        **unknown: Refused, with a list of the options.

    Raises:
        RprofTypeError: An unknown option or a value of the wrong type.
        RprofValueError: A value out of range, or an output that is no ``.pb.gz`` file.
    """

    def __init__(
        self,
        output: str | os.PathLike[str] | None = None,
        *,
        rate: float = UNSET,
        engine: str = UNSET,
        max_overhead: float = UNSET,
        max_nodes: int = UNSET,
        max_depth: int = UNSET,
        threads: "str | Sequence[str] | Callable[[ThreadInfo], bool]" = UNSET,
        memory: "bool | int | None" = UNSET,
        locks: str | None = UNSET,
        **unknown: "Any",
    ) -> None:
        given = given_options(locals())
        unsuited = sorted(
            {
                "window",
                "keep_files",
                "keep_bytes",
                "recent",
                "recent_bytes",
                "exit_hooks",
                "task_steps",
            }
            & set(given)
        )
        if unsuited:
            raise RprofValueError(
                f"{', '.join(unsuited)} is for rprof.start(); a block has one window and one file"
            )
        self._config = resolve(given, "block")
        target = self._config.output
        if target is not None and not target.endswith(".pb.gz"):
            raise RprofValueError(
                f"output={target!r} is not a .pb.gz file; use for example "
                f"output='{target.rstrip('/')}.pb.gz'"
            )
        # A function may be decorated long before it is called, and much can have happened by then.
        _recordings.prepare()
        self._owner: Recording | None = None
        self._pid = 0
        self._calls = 0
        self._decorates = False
        self._result: Profile | None = None
        self._heap: Profile | None = None
        # The file written last, and the highest number of any.
        self._written: str | None = None
        self._numbered = 0

    def __getstate__(self) -> "tuple[Config, int, bool, Profile | None]":
        """Pickle the options, and the profile of a block.

        Not that of a decorator: wherever the function is sent, its result would go along.
        """
        result = None if self._decorates else self._result
        return self._config, self._calls, self._decorates, result

    def __reduce__(self) -> "tuple[Any, ...]":
        # The oldest protocols would ask the native base for a state of its own.
        import copyreg

        return copyreg.__newobj__, (type(self),), self.__getstate__()  # type: ignore[attr-defined]

    def __setstate__(self, state: "tuple[Config, int, bool, Profile | None]") -> None:
        self._config, self._calls, self._decorates, self._result = state
        _recordings.prepare()
        self._heap = None
        self._owner = None
        self._pid = 0
        self._written = None
        self._numbered = 0

    @property
    def profile(self) -> "Profile":
        """The finished profile.

        Raises:
            RprofStateError: The block has not ended, or ended in a forked child.
        """
        if self._result is None:
            raise RprofStateError(
                "there is no profile yet: the block has not ended, or it was entered before a fork "
                "and ended in the child"
            )
        return self._result

    @property
    def heap(self) -> "Profile":
        """What was allocated in the block, and what of the whole program was in use at its end.

        Of blocks of memory that were allocated before anything was sampled nothing is known.

        Raises:
            RprofStateError: The block has not ended, or was not begun with ``memory=``.
        """
        if self._heap is None:
            raise RprofStateError(
                "there is no heap profile: use rprof.profile(memory=True), and ask when the block "
                "has ended"
            )
        return self._heap

    def __enter__(self: "_B") -> "_B":
        if self._owner is not None and self._pid == os.getpid():
            raise RprofStateError(
                "this block is being recorded already; make another rprof.profile() to nest"
            )
        try:
            self._pid = os.getpid()
            self._calls += 1
            self._owner = _recordings.begin_block(self._config)
            return self
        except BaseException:
            # Nobody will end what could not be entered; it ends with its owner.
            self._owner = None
            raise

    def _leave(self) -> None:
        # Else it was entered before a fork, in the parent.
        if self._owner is not None and self._pid == os.getpid():
            self._end(self._owner)

    def _end(self, recording: "Recording") -> None:
        try:
            result = _recordings.end(recording)
        except RprofError as problem:
            # Whatever befalls the profiler, the block's own outcome stands.
            _process.log().warning("the block has no profile: %s", problem)
            return
        if result is None:
            # Ended by the end of the process.
            return
        accept = self._config.threads
        if callable(accept):
            result = result.only_threads(accept)
        self._result = result
        self._heap = _recordings.heap_of(recording)
        if self._config.output is not None:
            self._write(result, self._config.output)
        if self._config.output is not None and self._heap is not None:
            stem = self._config.output.removesuffix(".pb.gz")
            self._write_heap(self._heap, stem + ".heap.pb.gz")

    def _write(self, result: "Profile", output: str) -> None:
        try:
            # All calls of a function, and all entries of a block, know of each other's files.
            files = self._decorator if isinstance(self, _Call) else self
            own = None if "{seq}" in output else files._written
            # Not Profile.write(), which has to make a pathlib.Path.
            files._written, number = result._native.write_output(
                output, program_name(), self._calls, own, files._numbered
            )
            files._numbered = max(files._numbered, number)
        except RprofError as problem:
            _process.log().warning("the block's profile could not be written: %s", problem)

    def _write_heap(self, heap: "Profile", output: str) -> None:
        try:
            heap._native.write_output(output, program_name(), self._calls, None, 0)
        except RprofError as problem:
            _process.log().warning("the block's heap profile could not be written: %s", problem)

    async def __aenter__(self: "_B") -> "_B":
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: "TracebackType | None",
    ) -> None:
        self.__exit__(kind, error, traceback)

    def __call__(self, function: "_F") -> "_F":
        """Decorate a function; ``.profile`` is then the profile of the call that ended last."""
        from ._decorate import decorate

        self._decorates = True
        return decorate(function, self._call, profiler=self)  # type: ignore[no-any-return]

    def _call(self) -> "_Call":
        self._calls += 1
        return _Call(self, self._calls)


class _Call(profile):
    """One call of a decorated function; hands its result to the decorator."""

    def __init__(self, decorator: "profile", number: int) -> None:
        self._decorator = decorator
        self._config = decorator._config
        self._owner = None
        self._pid = 0
        self._calls = number - 1
        self._result = None
        self._heap = None

    def _leave(self) -> None:
        super()._leave()
        if self._result is not None:
            self._decorator._result = self._result
            self._decorator._heap = self._heap

    def pause(self) -> None:
        """A generator has yielded: what follows is its caller's."""
        if self._owner is not None and self._pid == os.getpid():
            self._owner.pause()

    def resume(self) -> None:
        """The generator goes on."""
        if self._owner is not None and self._pid == os.getpid():
            self._owner.resume()
