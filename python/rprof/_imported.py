"""Learning of a module once, when the program has imported it."""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["learn", "settled"]

settled: "set[str]" = set()
"""The modules of which nothing more can be found out."""


def learn(name: str, tell: "Callable[[Any], None]", refuse: "Callable[[str], None]") -> None:
    """Have told what is known of a module, or why nothing is, once it is there."""
    module = sys.modules.get(name)
    if name in settled or module is None:
        return
    # Another thread may be importing it.
    if getattr(module.__spec__, "_initializing", False):
        return
    settled.add(name)
    try:
        tell(module)
    except Exception as problem:
        refuse(f"{type(problem).__name__}: {problem}")
