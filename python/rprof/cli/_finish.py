"""What ``rprof run`` has another interpreter do when the program has ended; see ``_ending``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import _formats
from ..errors import RprofError
from . import _inputs
from ._console import complain, progress, say, suggest

if TYPE_CHECKING:
    from .._profile import Profile


def main(words: Sequence[str]) -> int:
    """Write what was asked for.

    Args:
        words: What was recorded, a file or a directory of those of several processes; the file to
            write; what to call it; whether the first is a directory, whether to open the report
            page and whether to be quiet, each "0" or "1"; how many functions to print, or "".

    Returns:
        0, or 2 where something could not be done and it was said what.
    """
    recorded, output, shown, *flags, top = words
    follow, view, quiet = (flag == "1" for flag in flags)
    try:
        profile = _inputs.read([recorded])
        if recorded != output:
            with progress("writing"):
                remark = _formats.write(profile, output)
            if remark is not None:
                say(remark)
            _remove(Path(recorded), is_directory=follow)
    except (RprofError, MemoryError) as error:
        complain(str(error) or "there is not enough memory")
        verb = "merge" if follow and output.endswith(".pb.gz") else "export"
        complain(f"what was recorded is in {recorded}; try: rprof {verb} {recorded} -o {output}")
        return 2
    _show(profile, shown, int(top) if top else None, view=view, quiet=quiet)
    return 0


def _show(profile: Profile, output: str, top: int | None, *, view: bool, quiet: bool) -> None:
    if top is not None:
        say(str(profile.top(top)))
    if not quiet:
        say(f"profile in {output}")
    if view:
        from .view import show

        show(profile)
    elif not quiet:
        suggest(*(["xdg-open", output] if output.endswith(".html") else ["rprof", "view", output]))


def _remove(recorded: Path, *, is_directory: bool) -> None:
    """Remove what has been written in another form; a process that goes on may add to it again."""
    try:
        if is_directory:
            for file in recorded.glob("*.pb.gz"):
                file.unlink(missing_ok=True)
            recorded.rmdir()
        else:
            os.unlink(recorded)
    except OSError as error:
        complain(f"cannot remove {recorded}: {error.strerror}")
