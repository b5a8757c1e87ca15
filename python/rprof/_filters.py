"""Which part of a profile is wanted: how much, which labels, which functions."""

# Imports nothing that the interpreter has not imported by itself, as _config; what only some
# filters need, they import.

from .errors import RprofTypeError, RprofValueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Mapping

__all__ = ["check_branches", "check_count", "has_labels", "matching"]

# Deeper than any stack that is recorded or read.
_MAX_TREE_DEPTH = 1_000_000


def check_count(n: int, what: str) -> None:
    """Refuse a number of rows that is none.

    Raises:
        RprofTypeError: It is no whole number.
        RprofValueError: It is negative.
    """
    if isinstance(n, bool) or not isinstance(n, int):
        raise RprofTypeError(f"n must be a whole number, not {n!r}")
    if n < 0:
        raise RprofValueError(f"n={n} is negative; ask for at least 0 {what}")


def check_branches(min_fraction: float, max_depth: int | None) -> None:
    """Refuse bounds of a call tree that are none.

    Raises:
        RprofTypeError: A depth that is no whole number.
        RprofValueError: A number that is out of range.
    """
    if not 0 <= min_fraction <= 1:
        raise RprofValueError(f"min_fraction={min_fraction!r} is out of range; choose 0 to 1")
    if max_depth is not None and not isinstance(max_depth, int):
        raise RprofTypeError(f"max_depth must be a whole number, not {max_depth!r}")
    if max_depth is not None and not 1 <= max_depth <= _MAX_TREE_DEPTH:
        raise RprofValueError(
            f"max_depth={max_depth!r} is out of range; choose 1 to {_MAX_TREE_DEPTH:,}"
        )


def has_labels(patterns: "Mapping[str, str]") -> "Callable[[Mapping[str, str]], bool]":
    """Return what tells whether labels have all of these values, with ``*`` and ``?`` in them.

    Raises:
        RprofTypeError: A value that is no text, or no label at all.
    """
    from fnmatch import fnmatchcase

    if not patterns or not all(isinstance(value, str) for value in patterns.values()):
        raise RprofTypeError("only_labels() needs labels, for example route='/checkout*'")

    def accept(labels: "Mapping[str, str]") -> bool:
        return all(
            key in labels and fnmatchcase(labels[key], value) for key, value in patterns.items()
        )

    return accept


def matching(
    option: str, expression: "str | re.Pattern[str] | None", names: list[str]
) -> list[bool] | None:
    """Return which of these names an expression finds; None without one.

    Raises:
        RprofValueError: It is no regular expression.
    """
    if expression is None:
        return None
    import re

    try:
        found = re.compile(expression).search
    except (re.error, TypeError) as error:
        raise RprofValueError(
            f"{option}={expression!r} is no regular expression: {error}"
        ) from None
    return [found(name) is not None for name in names]
