"""The direct engine's line tables against what CPython says of the whole standard library."""

from __future__ import annotations

import bisect
import os
import sysconfig
import types
import warnings
from collections.abc import Iterator
from pathlib import Path

from rprof._loading import native

_native = native()

LONG = bool(os.environ.get("RPROF_CI_LONG"))
LIBRARY = Path(sysconfig.get_path("stdlib"))


def codes_of(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes_of(constant)


def test_lines_are_those_of_the_interpreter():
    files = sorted(LIBRARY.glob("*.py")) + sorted(LIBRARY.glob("[a-su-z]*/*.py"))
    compared = 0
    for file in files if LONG else files[::7]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                module = compile(file.read_bytes(), str(file), "exec")
        except SyntaxError:
            continue  # test data and templates
        for code in codes_of(module):
            stretches = _native.decode_lines(code.co_linetable, code.co_firstlineno)
            starts = [start for start, _ in stretches]
            for start, end, line in code.co_lines():
                for offset in {start, end - 2}:
                    ours = stretches[bisect.bisect_right(starts, offset) - 1][1]
                    assert ours == (line or 0), (code, offset)
            compared += 1
    assert compared > 500
