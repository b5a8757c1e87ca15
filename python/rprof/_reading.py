"""Reads profiles from files, and adds them up: ``rprof.load`` and ``rprof.merge``."""

# Imports nothing that the interpreter has not imported by itself, as _config.

import os

from ._profile import NativeProfile, Profile
from ._text import inert
from .errors import RprofOSError, RprofTypeError, RprofValueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

__all__ = ["load", "merge"]

# Compressed; the decoder bounds what comes out of it.
_MAX_FILE_BYTES = 256 << 20


def load(path: str | os.PathLike[str]) -> Profile:
    """Read a pprof file, gzip-compressed or plain, of rprof or any other profiler.

    The format is recognised by content, whatever the file is called. The file may be hostile: what
    it unpacks to and what that takes in memory is bounded. Other threads run meanwhile.

    Args:
        path: The file.

    Raises:
        RprofOSError: The file cannot be read.
        RprofValueError: It is no pprof file (the message says what it is instead, where that is
            known), is truncated, or is unreasonably large.
    """
    try:
        raw = os.fspath(path)
    except TypeError:
        raise RprofTypeError(f"path must be a file name, not {path!r}") from None
    # Names of files may hold anything, the message only what can be shown.
    name = inert(os.fsdecode(raw))
    try:
        with open(raw, "rb") as file:
            data = _read_bounded(file, name)
    except IsADirectoryError:
        raise RprofOSError(
            f"{name} is a directory; give one of the files in it, or merge them with rprof.merge"
        ) from None
    except OSError as error:
        raise RprofOSError(f"cannot read {name}: {error.strerror or error}") from error
    except ValueError as error:
        if isinstance(error, RprofValueError):
            raise
        raise RprofValueError(f"cannot read {name}: {error}") from error
    return Profile(NativeProfile.decode(data, name))


def _read_bounded(file: "BinaryIO", name: str) -> bytes:
    size = os.fstat(file.fileno()).st_size
    # A pipe or a device has no size; of those one byte too many is enough to know.
    data = b"" if size > _MAX_FILE_BYTES else file.read(_MAX_FILE_BYTES + 1)
    if max(size, len(data)) > _MAX_FILE_BYTES:
        raise RprofValueError(
            f"{name} is larger than {_MAX_FILE_BYTES >> 20} MiB, which no profile is; give a file "
            "written by rprof or another profiler's pprof output"
        )
    return data


def merge(sources: "Iterable[Profile | str | os.PathLike[str]]") -> Profile:
    """Add up profiles, or files of them, which are read one at a time.

    The result has the sample types of all. Where a profile did not measure one, as the ``gil``
    engine does not measure ``gil``, its samples count nothing there; a comment tells in how many
    profiles and for how long that was so, and so do ``doubts`` and every table of that type.
    Samples of equal stacks and labels are added up; threads, as all labels, are kept apart. What
    tells how much there was at the end, as memory in use (``SampleType.is_level``), is that of each
    process's last profile, and processes add up. Profiles are of one process if they name the same
    program and main thread and were not recorded at the same time. The
    first profile names the program, the period and the default sample type; the result begins
    with the earliest, and its length is the time in which at least one of them was recording:
    profiles of several processes at once count once, and gaps do not count. Of the comments the
    first 100 different ones are kept. Beyond 8,000,000 nodes stacks fold into ``<overflow>``,
    and a comment says so.

    Args:
        sources: Profiles and paths, in any order.

    Raises:
        RprofOSError: A file cannot be read.
        RprofValueError: A file is no profile, a sample type is in different units, together they
            have more than 32 different ones, or there is none.
    """
    return Profile(NativeProfile.merge(_loaded(sources)))


def _loaded(
    sources: "Iterable[Profile | str | os.PathLike[str]]",
) -> "Iterator[NativeProfile]":
    for source in sources:
        yield (source if isinstance(source, Profile) else load(source))._native
