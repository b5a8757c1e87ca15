"""What the verbs read: files and directories of profiles, narrowed by filters."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RprofOSError, RprofValueError
from ._console import progress

if TYPE_CHECKING:
    from .._profile import Profile


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Add the argument for profiles."""
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="pprof files, or directories of them; several are merged",
    )


def add_sample_type(parser: argparse.ArgumentParser) -> None:
    """Add the choice of what is measured."""
    parser.add_argument(
        "--by",
        metavar="TYPE",
        help="sample type that the profile has, as wall, cpu, samples, exceptions or inuse_space "
        "(default: the profile's own)",
    )


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add what narrows a profile down."""
    group = parser.add_argument_group("filters")
    group.add_argument(
        "--thread",
        action="append",
        metavar="NAME",
        help="only threads of this name, with * and ?; may be repeated",
    )
    group.add_argument(
        "--main-thread",
        action="store_true",
        help="only the main thread of each process, whatever it is called",
    )
    group.add_argument(
        "--label",
        action="append",
        metavar="NAME=VALUE",
        help="only samples with this label, as route=/checkout, with * and ?; may be repeated",
    )
    group.add_argument(
        "--root",
        metavar="NAME",
        help="put the value of this label at the root of each stack that has it, as task, route, "
        "lock or 'thread name'",
    )
    group.add_argument("--focus", metavar="REGEX", help="only stacks with a function that matches")
    group.add_argument("--ignore", metavar="REGEX", help="no stacks with a function that matches")


HEAP_SUFFIX = ".heap.pb.gz"
"""How the names of heap profiles end, which stand beside windows."""

_HEAP_TYPES = ("alloc_objects", "alloc_space", "inuse_objects", "inuse_space")


def files_of(path: str, by: str | None = None) -> list[Path]:
    """Return the profiles that an argument means: the file, or those in the directory.

    Args:
        path: The argument.
        by: The sample type that is asked for. One of the heap takes the heaps in a directory,
            any other its windows.

    Raises:
        RprofOSError: There are none.
    """
    given = Path(path)
    if not given.is_dir():
        return [given]
    found = sorted(given.glob("*.pb.gz"))
    if not found:
        raise RprofOSError(f"there is no .pb.gz file in {path}; was the program profiled there?")
    wanted = [file for file in found if file.name.endswith(HEAP_SUFFIX) == (by in _HEAP_TYPES)]
    return wanted or found


def read(paths: Sequence[str], by: str | None = None) -> Profile:
    """Read profiles and merge them into one.

    Args:
        paths: Files and directories.
        by: The sample type that is asked for; see ``files_of``.

    Raises:
        RprofError: One cannot be read, or they do not fit together.
    """
    from .._reading import load, merge

    files = [file for path in paths for file in files_of(path, by)]
    if len(files) == 1:
        with progress(f"reading {files[0].name}"):
            return load(files[0])
    with progress("reading", len(files)) as shown:
        return merge(shown.steps(files))


def narrow(profile: Profile, options: argparse.Namespace) -> Profile:
    """Apply the filters.

    Raises:
        RprofValueError: An expression is none, or nothing is left.
    """
    if options.thread:
        names = options.thread
        profile = profile.only_threads(lambda t: any(fnmatchcase(t.name, n) for n in names))
        if not profile.threads:
            raise RprofValueError(f"no thread is called {' or '.join(names)}")
    if options.main_thread:
        if not profile.main_threads:
            raise RprofValueError(
                "the profile does not tell which thread is the main one; choose it by --thread"
            )
        profile = profile.only_threads(lambda thread: thread.main)
    if options.label:
        wanted = {}
        for text in options.label:
            name, equals, value = text.partition("=")
            if not equals:
                raise RprofValueError(f"--label {text} has no value; say for example {text}=...")
            wanted[name] = value
        known = profile.labels()
        profile = profile.only_labels(wanted)
        if not any(profile.totals.values()):
            raise RprofValueError(
                f"no sample has {' and '.join(options.label)}; its labels are {', '.join(known)}"
            )
    if options.focus is not None or options.ignore is not None:
        profile = profile.only_stacks(focus=options.focus, ignore=options.ignore)
    if options.root is not None:
        known = profile.labels()
        if options.root not in known:
            raise RprofValueError(
                f"no sample has a label {options.root}; there are {', '.join(known)}"
            )
        profile = profile.rooted(options.root)
    return profile
