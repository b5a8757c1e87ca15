"""The ``rprof`` command.

``rprof run`` begins the recording in the program itself, by a module of this package: so nothing is
imported here that the program might not have.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> int:
    """Run the command with the words of this process, and return its exit code."""
    from . import _main

    return _main.main()
