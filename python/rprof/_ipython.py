"""IPython and Jupyter: ``%load_ext rprof``, then ``%rprof`` and ``%%rprof``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._block import profile
from .errors import RprofError, RprofValueError

if TYPE_CHECKING:
    from ._profile import Profile

__all__ = ["load_ipython_extension"]

_OPTIONS = "[-r HZ] [-o FILE] [-a] [-t]"
_USAGE = f"%rprof {_OPTIONS} statement, or %%rprof {_OPTIONS} over a cell"


def load_ipython_extension(ipython: Any) -> None:
    """Add the magics; called by ``%load_ext rprof``."""

    def rprof(line: str, cell: str | None = None) -> Profile | None:
        """Profile a statement (``%rprof work()``) or a cell (``%%rprof``).

        Options: ``-r HZ`` the rate (default 1000), ``-o FILE`` write gzip pprof there, ``-a`` all
        threads, not only this one, ``-t`` print the call tree and show no page. The profile is also
        in ``_rprof``.
        """
        try:
            options, statement = _parse(line)
            if cell is None and not statement:
                raise RprofValueError(f"there is nothing to profile; use {_USAGE}")
            tree = options.pop("tree", False)
            with profile(**options) as block:
                # The shell shows what goes wrong in a cell by itself, and goes on.
                ipython.run_cell(statement if cell is None else cell)
        except RprofError as error:
            print(f"rprof: {error}")
            return None
        ipython.user_ns["_rprof"] = block.profile
        if tree:
            print(block.profile.tree())
            return None
        return block.profile

    ipython.register_magic_function(rprof, "line_cell", "rprof")


def _parse(line: str) -> tuple[dict[str, Any], str]:
    """Split the options from the statement behind them."""
    options: dict[str, Any] = {"rate": 1000.0, "threads": "current"}
    rest = line.strip()
    while rest.startswith("-"):
        option, _, rest = rest.partition(" ")
        if option == "-t":
            options["tree"] = True
        elif option == "-a":
            options["threads"] = "all"
        elif option in ("-r", "-o"):
            value, _, rest = rest.strip().partition(" ")
            options["rate" if option == "-r" else "output"] = value
        else:
            raise RprofValueError(f"{option} is no option; use {_USAGE}")
        rest = rest.strip()
    try:
        options["rate"] = float(options["rate"])
    except ValueError:
        raise RprofValueError(f"-r {options['rate']!r} is no number of Hz; use {_USAGE}") from None
    return options, rest
