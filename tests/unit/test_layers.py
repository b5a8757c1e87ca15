"""The one-way flow of the source tree, checked: who may import whom, and where `unsafe` may stand.

The Rust half is read with a small scanner of our own (comments and literals dropped, braces
followed) because the question is only which room a path names. The Python half uses `ast`.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest

# A room may use the rooms of lower levels, and itself.
LEVELS = {
    "error": 0,
    "model": 0,
    "clock": 0,
    "memory": 0,
    "layout": 1,
    "fold": 1,
    "unwind": 2,
    "pprof": 2,
    "report": 2,
    "capture": 3,
    "sink": 3,
    "session": 4,
    "serve": 5,
    "py": 6,
}
# Every room reports through the one public error, so its equals may use it too.
OPEN_TO_ITS_LEVEL = {"error"}
# lib.rs lists the rooms and re-exports from them; only the door stays closed to it.
CRATE_ROOT = "lib.rs"
DOOR = "py"

# The seams: the only files in which `unsafe` may stand. Globs, relative to src/.
SEAMS = (
    "clock/cpu.rs",
    "clock/descriptors.rs",
    "clock/kernel.rs",
    "memory/own.rs",
    "memory/reserve.rs",
    "sink/lock.rs",
    "session/fork.rs",
    "session/native_thread.rs",
    "py/gil/*.rs",
    "py/direct/code_events.rs",
    "py/direct/self_test.rs",
    "py/dump.rs",
    "py/labels.rs",
    "py/last_window.rs",
    "py/hooks.rs",
    "py/resume.rs",
)
# How far above `unsafe {` its reason may end: a statement may be broken over a few lines.
SAFETY_REACH = 3

# Python: the only module that drives the extension, the one that loads it and says why it cannot be
# loaded, and the names that are open to all: what users get from it as it is, and the base class of
# what has a `with` block.
NATIVE_DRIVER = "rprof._session"
NATIVE_LOADER = "rprof._loading"
NATIVE = "rprof._native"
NATIVE_OPEN_NAMES = {"Block", "Profile", "__version__", "current_labels", "labels", "request"}
CLI = "rprof.cli"
# `python -m rprof` is the command.
CLI_ENTRY = "rprof.__main__"

REPOSITORY = Path(__file__).resolve().parents[2]
RUST_SOURCES = REPOSITORY / "src"
PYTHON_SOURCES = REPOSITORY / "python" / "rprof"

needs_rust_sources = pytest.mark.skipif(
    not (RUST_SOURCES / CRATE_ROOT).is_file(),
    reason=f"no src/{CRATE_ROOT} beside tests/: these tests run against an installed wheel",
)
needs_python_sources = pytest.mark.skipif(
    not (PYTHON_SOURCES / "__init__.py").is_file(),
    reason="no python/rprof beside tests/: these tests run against an installed wheel",
)


class Violation(NamedTuple):
    file: str
    line: int
    rule: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.rule}"


class Token(NamedTuple):
    text: str
    line: int


# ---------------------------------------------------------------------------------------------
# Rust
# ---------------------------------------------------------------------------------------------

_RAW_STRING_OPENING = re.compile(r'(?:b|c)?r(#*)"')
_STRING_OPENING = re.compile(r'(?:b|c)?"')
# 'a' and '\n' are characters, 'a without a closing quote is a lifetime.
_CHARACTER = re.compile(r"b?'(?:\\(?:u\{[0-9a-fA-F_]*\}|x[0-9a-fA-F]{2}|.)|[^\\'\n])'")
_LIFETIME = re.compile(r"'[A-Za-z_]\w*")
_NAME = re.compile(r"(?:r#)?[A-Za-z_]\w*")
_NUMBER = re.compile(r"[0-9][\w]*")
_SYMBOL = re.compile(r"::|.", re.DOTALL)


def rust_tokens(source: str) -> Iterator[Token]:
    """Names and symbols of a Rust source, without comments, literals and lifetimes."""
    position = 0
    line = 1
    while position < len(source):
        end, visible = _next_rust_token(source, position)
        text = source[position:end]
        if visible:
            yield Token(text.removeprefix("r#"), line)
        line += text.count("\n")
        position = end


def _next_rust_token(source: str, position: int) -> tuple[int, bool]:
    """Where the token at `position` ends, and whether the scan wants it."""
    if source[position].isspace():
        return position + 1, False
    if source.startswith("//", position):
        newline = source.find("\n", position)
        return (len(source) if newline < 0 else newline), False
    if source.startswith("/*", position):
        return _end_of_block_comment(source, position), False
    if opening := _RAW_STRING_OPENING.match(source, position):
        closing = source.find('"' + opening.group(1), opening.end())
        return (len(source) if closing < 0 else closing + 1 + len(opening.group(1))), False
    if opening := _STRING_OPENING.match(source, position):
        return _end_of_string(source, opening.end()), False
    for pattern in (_CHARACTER, _LIFETIME, _NUMBER):
        if literal := pattern.match(source, position):
            return literal.end(), False
    match = _NAME.match(source, position) or _SYMBOL.match(source, position)
    assert match is not None
    return match.end(), True


def _end_of_block_comment(source: str, position: int) -> int:
    depth = 0
    for mark in re.compile(r"/\*|\*/").finditer(source, position):
        depth += 1 if mark.group() == "/*" else -1
        if depth == 0:
            return mark.end()
    return len(source)


def _end_of_string(source: str, position: int) -> int:
    while position < len(source) and source[position] != '"':
        position += 2 if source[position] == "\\" else 1
    return position + 1


@dataclass
class RustPath:
    """`crate::a::b`, or what a chain of `super::` comes to, as names below the crate's root."""

    names: list[str]
    line: int


@dataclass
class RustScan:
    paths: list[RustPath] = field(default_factory=list)
    unsafe_lines: list[int] = field(default_factory=list)
    unsafe_block_lines: list[int] = field(default_factory=list)


def scan_rust(source: str, module: list[str]) -> RustScan:
    """Reads one file; `module` is its place below the crate's root, `["clock", "cpu"]`."""
    tokens = [*rust_tokens(source), Token("", 0), Token("", 0), Token("", 0)]
    scan = RustScan()
    # One entry an open brace: the inline module's name, or None for any other brace.
    open_braces: list[str | None] = []
    index = 0
    while tokens[index].text:
        token, following = tokens[index : index + 2]
        previous = tokens[index - 1].text if index else ""
        if token.text == "{":
            named = index > 1 and tokens[index - 2].text == "mod"
            open_braces.append(previous if named else None)
        elif token.text == "}" and open_braces:
            open_braces.pop()
        elif token.text == "unsafe":
            scan.unsafe_lines.append(token.line)
            if following.text == "{":
                scan.unsafe_block_lines.append(token.line)
        elif token.text == DOOR and following.text == "::" and previous != "::" and not module:
            # In the crate's root a room is in scope by its bare name.
            scan.paths += [RustPath(names, line) for names, line in _use_tree(tokens, index)]
        elif token.text in ("crate", "super") and following.text == "::" and previous != "::":
            here = [*module, *(name for name in open_braces if name)]
            supers = 0
            start = index + 2
            while token.text == "super" and tokens[start - 2].text == "super":
                supers += 1
                if tokens[start].text != "super" or tokens[start + 1].text != "::":
                    break
                start += 2
            # More `super`s than modules do not compile; a path that stays inside its own room
            # is read like any other and passes.
            base = [] if token.text == "crate" else here[: max(0, len(here) - supers)]
            scan.paths += [
                RustPath([*base, *names], line) for names, line in _use_tree(tokens, start)
            ]
        index += 1
    return scan


def _use_tree(tokens: list[Token], index: int) -> list[tuple[list[str], int]]:
    """The paths that a use tree beginning at `index` names: `a::{b, c::d}` names two."""
    return _use_branch(tokens, index)[0]


def _use_branch(tokens: list[Token], index: int) -> tuple[list[tuple[list[str], int]], int]:
    token = tokens[index]
    if token.text == "{":
        paths: list[tuple[list[str], int]] = []
        index += 1
        while tokens[index].text not in ("}", ""):
            if tokens[index].text == ",":
                index += 1
                continue
            branch, index = _use_branch(tokens, index)
            paths += branch
            # `as name`, or anything else up to the next comma, renames and adds no path.
            while tokens[index].text not in (",", "}", ""):
                index += 1
        return paths, index + 1
    names = [token.text]
    if tokens[index + 1].text == "::" and (
        tokens[index + 2].text == "{" or _NAME.fullmatch(tokens[index + 2].text)
    ):
        branch, index = _use_branch(tokens, index + 2)
        return [(names + rest, line) for rest, line in branch], index
    return [(names, token.line)], index + 1


def module_of(relative: str) -> list[str]:
    """`clock/cpu.rs` is module clock::cpu, `clock/mod.rs` is clock, `lib.rs` is the root."""
    parts = relative.removesuffix(".rs").split("/")
    if parts[-1] in ("mod", "lib", "main"):
        parts.pop()
    return parts


def rust_violations(relative: str, source: str) -> list[Violation]:
    """What a file, named relative to src/, does against the rules."""
    shown = f"src/{relative}"
    scan = scan_rust(source, module_of(relative))
    found = [*_room_violations(relative, shown, scan), *_unsafe_violations(relative, shown, scan)]
    lines = source.splitlines()
    for line in scan.unsafe_block_lines:
        if not _has_safety_comment(lines, line):
            rule = f"`unsafe {{` without a `// SAFETY:` comment in the {SAFETY_REACH} lines above"
            found.append(Violation(shown, line, rule))
    return sorted(set(found), key=lambda violation: violation.line)


def _room_violations(relative: str, shown: str, scan: RustScan) -> Iterator[Violation]:
    if relative == CRATE_ROOT:
        for path in scan.paths:
            if path.names[0] == DOOR:
                yield Violation(shown, path.line, f"nobody imports `{DOOR}`")
        return
    room = relative.split("/", maxsplit=1)[0].removesuffix(".rs")
    if room not in LEVELS:
        yield Violation(shown, 1, f"room `{room}` is not in the table of rooms")
        return
    for path in scan.paths:
        named = path.names[0]
        if named == room:
            continue
        if named not in LEVELS:
            rule = f"`crate::{named}` is not a room: name the room that the item lives in"
        elif named == DOOR:
            rule = f"nobody imports `{DOOR}`"
        elif LEVELS[named] > LEVELS[room]:
            rule = (
                f"`{room}` (level {LEVELS[room]}) imports `{named}` (level {LEVELS[named]}):"
                " a room imports lower levels only"
            )
        elif LEVELS[named] == LEVELS[room] and named not in OPEN_TO_ITS_LEVEL:
            rule = f"`{room}` imports `{named}`: rooms of one level ({LEVELS[room]}) never meet"
        else:
            continue
        yield Violation(shown, path.line, rule)


def _unsafe_violations(relative: str, shown: str, scan: RustScan) -> Iterator[Violation]:
    if not any(_matches(relative, seam) for seam in SEAMS):
        for line in scan.unsafe_lines:
            yield Violation(shown, line, "`unsafe` outside the seam files")


def _matches(relative: str, seam: str) -> bool:
    # fnmatch would let `*` cross a directory.
    return re.fullmatch(re.escape(seam).replace(r"\*", "[^/]*"), relative) is not None


def _has_safety_comment(lines: list[str], line: int) -> bool:
    """Whether a comment that says SAFETY: ends within reach above the 1-based `line`."""
    above = [text.lstrip() for text in reversed(lines[: line - 1])]
    gap = next((i for i, text in enumerate(above) if text.startswith("//")), len(above))
    if gap >= SAFETY_REACH:
        return False
    comment = itertools.takewhile(lambda text: text.startswith("//"), above[gap:])
    return any(text.startswith("// SAFETY:") for text in comment)


# ---------------------------------------------------------------------------------------------
# Python
# ---------------------------------------------------------------------------------------------


def python_violations(relative: str, source: str) -> list[Violation]:
    """What a file, named relative to python/rprof/, does against the rules."""
    shown = f"python/rprof/{relative}"
    parts = ["rprof", *relative.removesuffix(".py").split("/")]
    package = parts[:-1]
    if parts[-1] == "__init__":
        parts.pop()
    module = ".".join(parts)
    found = []
    for node in ast.walk(ast.parse(source, shown)):
        for imported, names, line in _imports(node, package):
            if _is_below(imported, CLI) and not _is_below(module, CLI) and module != CLI_ENTRY:
                found.append(Violation(shown, line, f"nobody imports `{CLI}`"))
            if (
                _is_below(imported, NATIVE)
                and module not in (NATIVE_DRIVER, NATIVE_LOADER)
                and not (names and names <= NATIVE_OPEN_NAMES)
            ):
                what = ", ".join(sorted(names - NATIVE_OPEN_NAMES)) or "the module itself"
                rule = f"only `{NATIVE_DRIVER}` drives `{NATIVE}`: it imports {what}"
                found.append(Violation(shown, line, rule))
    return sorted(set(found), key=lambda violation: violation.line)


def _is_below(module: str, root: str) -> bool:
    return module == root or module.startswith(root + ".")


def _imports(node: ast.AST, package: list[str]) -> Iterator[tuple[str, set[str], int]]:
    """The modules a node reaches, with the names taken from each (none: the module itself)."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.name, set(), node.lineno
    elif isinstance(node, ast.ImportFrom):
        origin = package[: len(package) - node.level + 1] if node.level else []
        base = ".".join([*origin, *(node.module.split(".") if node.module else [])])
        yield base, {alias.name for alias in node.names}, node.lineno
        # `from rprof import _native` takes a module, not a name of one.
        for alias in node.names:
            if f"{base}.{alias.name}" in (NATIVE, CLI):
                yield f"{base}.{alias.name}", set(), node.lineno
    elif isinstance(node, ast.Attribute) and ast.unparse(node) == NATIVE:
        # `import rprof` and then `rprof._native`; an attribute of that name elsewhere is free.
        yield NATIVE, set(), node.lineno
    elif isinstance(node, ast.Call) and node.args:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        called = node.func.id if isinstance(node.func, ast.Name) else called
        argument = node.args[0]
        if (
            called in ("import_module", "__import__")
            and isinstance(argument, ast.Constant)
            and isinstance(argument.value, str)
        ):
            name = argument.value
            name = ".".join(package) + name if name.startswith(".") else name
            yield name, set(), node.lineno


# ---------------------------------------------------------------------------------------------
# The tree as it stands
# ---------------------------------------------------------------------------------------------


def _report(violations: list[Violation]) -> str:
    return "\n".join(["", *map(str, violations)])


def _files(root: Path, pattern: str) -> list[Path]:
    return sorted(path for path in root.rglob(pattern) if path.is_file())


@needs_rust_sources
def test_rust_rooms_import_lower_rooms_only_and_unsafe_stays_in_the_seams() -> None:
    violations = [
        violation
        for path in _files(RUST_SOURCES, "*.rs")
        for violation in rust_violations(
            path.relative_to(RUST_SOURCES).as_posix(), path.read_text(encoding="utf-8")
        )
    ]
    assert not violations, _report(violations)


@needs_rust_sources
def test_every_listed_seam_exists() -> None:
    files = [path.relative_to(RUST_SOURCES).as_posix() for path in _files(RUST_SOURCES, "*.rs")]
    stale = [seam for seam in SEAMS if not any(_matches(file, seam) for file in files)]
    assert not stale, f"listed as seams, but not in src/: {stale}"


@needs_python_sources
def test_python_modules_reach_the_extension_through_the_session_only() -> None:
    violations = [
        violation
        for path in _files(PYTHON_SOURCES, "*.py")
        for violation in python_violations(
            path.relative_to(PYTHON_SOURCES).as_posix(), path.read_text(encoding="utf-8")
        )
    ]
    assert not violations, _report(violations)


# ---------------------------------------------------------------------------------------------
# The scan itself: it finds what it must, and nothing else
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("relative", "source", "line", "rule"),
    [
        ("fold/window.rs", "use crate::session::Config;", 1, "imports `session`"),
        ("fold/mod.rs", "\nfn f(w: crate::sink::Sink) {}", 2, "imports `sink`"),
        ("fold.rs", "use crate::{\n    model::Stack,\n    capture::Engine,\n};", 3, "`capture`"),
        ("fold/mod.rs", "use crate::{model::{a, b}, layout as l};", 1, "never meet"),
        ("clock/mod.rs", "use crate::model::Stack;", 1, "never meet"),
        ("error.rs", "use crate::model::Stack;", 1, "never meet"),
        ("serve/mod.rs", "use crate::py::door;", 1, "nobody imports `py`"),
        ("lib.rs", "mod py;\npub use crate::py::door;", 2, "nobody imports `py`"),
        ("lib.rs", "mod py;\npub use py::{door, other};", 2, "nobody imports `py`"),
        ("fold/mod.rs", "use crate::Error;", 1, "is not a room"),
        ("extras/mod.rs", "", 1, "not in the table"),
        ("clock/ticker.rs", "use super::super::fold::Window;", 1, "imports `fold`"),
        ("clock/mod.rs", "use super::fold::Window;", 1, "imports `fold`"),
        ("clock/mod.rs", "mod tests { use super::super::{fold::W, error::E}; }", 1, "`fold`"),
        ("clock/mod.rs", "macro_rules! m { () => { $crate::fold::f() } }", 1, "imports `fold`"),
        ("clock/mod.rs", "pub(in crate::session) fn f() {}", 1, "imports `session`"),
        ("fold/mod.rs", "// SAFETY: no\nfn f() { unsafe { g() } }", 2, "outside the seam"),
        ("fold/mod.rs", "unsafe impl Send for A {}", 1, "outside the seam"),
        ("py/gil/deep/a.rs", "#[unsafe(no_mangle)]\nfn f() {}", 1, "outside the seam"),
        ("clock/cpu.rs", "fn f() {\n    unsafe { g() }\n}", 2, "without a `// SAFETY:`"),
        ("clock/cpu.rs", "// SAFETY: far\n\n\n\nunsafe { g() }", 5, "without a `// SAFETY:`"),
        ("clock/cpu.rs", "// a reason\nunsafe { g() }", 2, "without a `// SAFETY:`"),
    ],
)
def test_a_rust_violation_is_found(relative: str, source: str, line: int, rule: str) -> None:
    violations = rust_violations(relative, source)
    assert [violation.line for violation in violations] == [line], _report(violations)
    assert rule in violations[0].rule
    assert violations[0].file == f"src/{relative}"


@pytest.mark.parametrize(
    ("relative", "source"),
    [
        ("lib.rs", "mod error;\npub mod py;\npub use crate::session::Session;"),
        ("clock/cpu.rs", "use crate::{error::{Error, Kind}, clock::ticker};"),
        ("clock/cpu.rs", "use super::ticker::Ticker;\nuse super::super::error::Error;"),
        ("clock/mod.rs", "mod tests { use super::*; mod fold { use super::super::f; } }"),
        ("py/gil/walk.rs", "use crate::capture::Engine;\nuse crate::py::hooks::Hook;"),
        ("fold/mod.rs", "//! crate::session\n/* /* */ unsafe { crate::py::a } */ fn f() {}"),
        ("fold/mod.rs", 'const A: &str = "unsafe { crate::py::a } \\" crate::session::b";'),
        ("fold/mod.rs", 'const A: &str = r#"" crate::py::a "#; const B: char = \'"\';'),
        ("fold/mod.rs", "fn f<'a>(a: &'a str) -> char { '\\'' }"),
        ("fold/mod.rs", "#![forbid(unsafe_code)]\npub(crate) fn r#unsafe_name() {}"),
        ("clock/cpu.rs", "// SAFETY: the clock id\n// is ours.\nlet a =\n    unsafe { g() };"),
        ("py/gil/walk.rs", "// SAFETY: held.\nunsafe { g() }"),
        ("py/hooks.rs", "/// # Safety\nunsafe fn f() {}"),
    ],
)
def test_lawful_rust_passes(relative: str, source: str) -> None:
    violations = rust_violations(relative, source)
    assert not violations, _report(violations)


@pytest.mark.parametrize(
    ("relative", "source", "rule"),
    [
        ("auto.py", "from rprof._native import start", "it imports start"),
        ("__init__.py", "from ._native import Profile, stop", "it imports stop"),
        ("__init__.py", "from . import _native", "the module itself"),
        ("cli/top.py", "from .._native import start", "it imports start"),
        ("auto.py", "import rprof._native", "the module itself"),
        ("auto.py", "import rprof\nrprof._native.start()", "the module itself"),
        ("auto.py", "import importlib\nimportlib.import_module('._native', 'rprof')", "itself"),
        ("_session.py", "from rprof import cli", "nobody imports `rprof.cli`"),
        ("_session.py", "def f():\n    from .cli.top import run", "nobody imports `rprof.cli`"),
        ("pytest_plugin.py", "import rprof.cli.top", "nobody imports `rprof.cli`"),
    ],
)
def test_a_python_violation_is_found(relative: str, source: str, rule: str) -> None:
    violations = python_violations(relative, source)
    assert len(violations) == 1, _report(violations)
    assert rule in violations[0].rule
    assert violations[0].file == f"python/rprof/{relative}"


@pytest.mark.parametrize(
    ("relative", "source"),
    [
        ("_session.py", "from . import _native\nfrom rprof._native import start\n_native.stop()"),
        ("__init__.py", "from rprof._native import Profile\nfrom ._session import start"),
        ("cli/top.py", "from . import tree\nfrom rprof.cli.arguments import parse"),
        ("auto.py", "from rprof import _native_helper, client"),
        ("_profile.py", "def top(self):\n    return self._native.top()"),
    ],
)
def test_lawful_python_passes(relative: str, source: str) -> None:
    violations = python_violations(relative, source)
    assert not violations, _report(violations)
