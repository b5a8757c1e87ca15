"""The ``rprof`` command.

``rprof run`` begins the recording in the program itself, by a module of this package: so nothing is
imported here that the program might not have.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with these words, or those of this process, and return its exit code."""
    from . import _main

    return _main.main(arguments)
