"""IPython and Jupyter: ``%load_ext rprof``, then ``%rprof`` and ``%%rprof``."""

from __future__ import annotations

import ast
import asyncio
import sys
from collections.abc import Coroutine
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

    def rprof(
        line: str, cell: str | None = None
    ) -> Profile | Coroutine[Any, Any, Profile | None] | None:
        """Profile a statement (``%rprof work()``) or a cell (``%%rprof``), also with ``await``.

        Options: ``-r HZ`` the rate (default 1000), ``-o FILE`` write gzip pprof there, ``-a`` all
        threads, not only this one, ``-t`` print the call tree and show no page. The profile is also
        in ``_rprof``.
        """
        try:
            options, statement = _parse(line)
            if cell is None and not statement:
                raise RprofValueError(f"there is nothing to profile; use {_USAGE}")
            tree = options.pop("tree", False)
            block = profile(**options)
            code = statement if cell is None else cell
            if _has_to_be_awaited(ipython, code):
                return _profile_awaiting(ipython, code, block, tree)
            with block:
                # The shell shows what goes wrong in a cell by itself, and goes on.
                ipython.run_cell(code)
            return _show(ipython, block, tree)
        except RprofError as error:
            print(f"rprof: {error}")
            return None

    ipython.register_magic_function(rprof, "line_cell", "rprof")
    others = [t for t in ipython.input_transformers_post if not isinstance(t, _AwaitMagics)]
    ipython.input_transformers_post[:] = [*others, _AwaitMagics(ipython)]


async def _profile_awaiting(ipython: Any, code: str, block: profile, tree: bool) -> Profile | None:
    """Profile code in which something is awaited, on the event loop that runs already."""
    cell, problem = _transformed(ipython, code)
    try:
        with block:
            result = None
            try:
                result = await ipython.run_cell_async(
                    code, transformed_cell=cell, preprocessing_exc_tuple=problem
                )
            finally:
                # Which run_cell does, and run_cell_async leaves to its caller.
                ipython.events.trigger("post_execute")
                ipython.events.trigger("post_run_cell", result)
        return _show(ipython, block, tree)
    except RprofError as error:
        print(f"rprof: {error}")
        return None


def _show(ipython: Any, block: profile, tree: bool) -> Profile | None:
    ipython.user_ns["_rprof"] = block.profile
    if tree:
        print(block.profile.tree())
        return None
    return block.profile


def _has_to_be_awaited(ipython: Any, code: str) -> bool:
    """Return whether code can be run only by awaiting it: in Jupyter an event loop runs already.

    In a terminal there is none, and the shell begins one.
    """
    if asyncio._get_running_loop() is None:
        return False
    cell, problem = _transformed(ipython, code)
    found: bool = ipython.should_run_async(
        code, transformed_cell=cell, preprocessing_exc_tuple=problem
    )
    return found


def _transformed(ipython: Any, code: str) -> tuple[str, Any]:
    """Return code without the shell's own syntax, and what was wrong with it, as the shell does."""
    try:
        return ipython.transform_cell(code), None
    except Exception:
        return code, sys.exc_info()


class _AwaitMagics:
    """Puts ``await`` before our magics, in code of which everything else is Python already.

    Only by that does the shell know that it has to await a cell.
    """

    def __init__(self, ipython: Any) -> None:
        self._ipython = ipython

    def __call__(self, lines: list[str]) -> list[str]:
        text = "".join(lines)
        if "rprof" not in text or "_magic(" not in text:
            return lines
        try:
            tree = ast.parse(text)
        except SyntaxError:
            # For the shell to tell.
            return lines
        # Columns count bytes. From the last to the first, so that those before stay where they are.
        encoded = text.encode().split(b"\n")
        for call in sorted(filter(self._has_to_await, ast.walk(tree)), key=_place, reverse=True):
            row, column = _place(call)
            line = encoded[row - 1]
            encoded[row - 1] = line[:column] + b"await " + line[column:]
        return b"\n".join(encoded).decode().splitlines(keepends=True)

    def _has_to_await(self, node: ast.AST) -> bool:
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            return False
        given = [word.value for word in node.args if isinstance(word, ast.Constant)]
        words = [word for word in given if isinstance(word, str)]
        if words[:1] != ["rprof"] or len(words) != len(node.args):
            return False
        if node.func.attr == "run_cell_magic" and len(words) == 3:
            return _has_to_be_awaited(self._ipython, words[2])
        if node.func.attr != "run_line_magic" or len(words) != 2:
            return False
        try:
            return _has_to_be_awaited(self._ipython, _parse(words[1])[1])
        except RprofError:
            # For the magic to tell.
            return False


def _place(node: Any) -> tuple[int, int]:
    return node.lineno, node.col_offset


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
