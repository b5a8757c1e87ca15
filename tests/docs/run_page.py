"""Run the examples of one page, in order, in the current directory.

Run:  python run_page.py PAGE

A block with a title is a file: it is written. A block of Python is executed, and knows what those
before it have defined; one of shell is run by bash. Two kinds of comments, which readers of the
site do not see, say more:

<!-- setup ... -->          Python that is executed as well, without being shown
<!-- not run: REASON -->    the next block is not executed; it has to be well-formed nevertheless
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LANGUAGES = ("python", "sh")
_FENCE = re.compile(r"^(```+)(\w*)(.*)$")
_TITLE = re.compile(r'title="([^"]+)"')
_SECONDS = 120


class Example(NamedTuple):
    """A block of a page."""

    language: str
    title: str
    reason: str
    """Why it is not run; empty if it is."""
    line: int
    """The line of its first line."""
    code: str


def examples(page: str) -> Iterator[Example]:
    """Yield the blocks of a page, hidden ones included, in order."""
    lines = page.splitlines()
    reason = ""
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if line.startswith("<!-- not run:"):
            reason = line.removeprefix("<!-- not run:").removesuffix("-->").strip()
            if not reason:
                raise ValueError(f"line {at}: say why it is not run")
        elif line == "<!-- setup":
            end = lines.index("-->", at)
            yield Example("python", "", "", at + 1, "\n".join(lines[at:end]))
            at = end + 1
        elif fence := _FENCE.match(line):
            end = lines.index(fence[1], at)
            title = _TITLE.search(fence[3])
            code = "\n".join(lines[at:end]) + "\n"
            yield Example(fence[2], title[1] if title else "", reason, at + 1, code)
            reason = ""
            at = end + 1


def check(example: Example) -> None:
    """Raise an exception if a block that is not run is not well-formed either."""
    if example.language == "python":
        # IPython's magics are no Python.
        lines = [line for line in example.code.splitlines() if not line.startswith("%")]
        ast.parse("\n".join(lines))
    elif example.language == "sh":
        subprocess.run(["bash", "-n", "-c", example.code], check=True, timeout=_SECONDS)


def main(path: str) -> None:
    """Run the examples of the page at `path`."""
    namespace = {"__name__": "example"}
    for example in examples(Path(path).read_text(encoding="utf-8")):
        if example.reason:
            check(example)
        elif example.title:
            Path(example.title).write_text(example.code, encoding="utf-8")
        elif example.language == "python":
            # Its lines are those of the page, also in tracebacks.
            code = "\n" * (example.line - 1) + example.code
            exec(compile(code, path, "exec"), namespace)
        elif example.language == "sh":
            print(f"{path}:{example.line}: {example.code}", flush=True)
            words = ["bash", "-euo", "pipefail", "-c", example.code]
            subprocess.run(words, check=True, timeout=_SECONDS)


if __name__ == "__main__":
    sys.path.insert(0, "")
    main(*sys.argv[1:])
