"""The form of the source tree, checked: who may import whom, where `unsafe` may stand, and how long
a file and a function may be.

The Rust half is read with a small scanner of our own (comments and literals dropped, braces
followed) because the question is only which room a path names. The Python half uses `ast`.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterable, Iterator
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
    "account": 2,
    "heap": 2,
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
    "memory/own/*.rs",
    "memory/reserve.rs",
    "memory/reserve/region.rs",
    "sink/lock.rs",
    "session/fork.rs",
    "session/native_thread.rs",
    "py/gil/*.rs",
    "py/direct/code_events.rs",
    "py/direct/self_test.rs",
    "py/dump.rs",
    "py/exact_locks/*.rs",
    "py/greenlets.rs",
    "py/labels/contexts.rs",
    "py/labels/locate.rs",
    "py/labels/notes.rs",
    "py/last_window.rs",
    "py/late.rs",
    "py/memory/*.rs",
    "py/hooks.rs",
    "py/resume.rs",
    "py/steps.rs",
)
# How far above `unsafe {` its reason may end: a statement may be broken over a few lines.
SAFETY_REACH = 3

# What can be read at once, tests included. Rust may have a reason for more, in the documentation of
# the file or of the function: a sentence that begins so.
LONGEST_FILE = 500
LONGEST_FUNCTION = 80
FILE_REASON = f"Longer than {LONGEST_FILE} lines, because "
FUNCTION_REASON = f"Longer than {LONGEST_FUNCTION} lines, because "

# Python: a module imports modules of lower levels only, at its head and in its functions, so that
# there are no circles. Imports for annotations alone (`if TYPE_CHECKING`) do not count. The modules
# of a package share its level; they may import each other, but in no circle.
PYTHON_LEVELS = {
    "errors": 0,
    "_rows": 0,
    "_standing_in": 0,
    "_imported": 0,
    "_text": 0,
    "_documentation": 0,
    "_freezing": 0,
    "_config": 1,
    "_decorate": 1,
    "_filters": 1,
    "_greenlets": 1,
    "_tasks": 1,
    "_trio": 1,
    "_loading": 2,
    "_process": 3,
    "viewer": 3,
    "_diff": 3,
    "_tables": 3,
    "_waits": 3,
    "_formats": 4,
    "_account": 4,
    "_native_options": 4,
    "_records": 4,
    "_hooks": 5,
    "_profile": 5,
    "_dumps": 6,
    "_reading": 6,
    "_recordings": 7,
    "_continuous": 8,
    "_block": 9,
    "_endpoint": 9,
    "_requests": 9,
    "_leaks": 9,
    "_ipython": 10,
    "_pytest_budget": 10,
    "_reports": 10,
    "auto": 10,
    "_watch": 11,
    "pytest_plugin": 11,
    "__init__": 12,
    "middleware": 12,
    "cli": 13,
    "__main__": 14,
}
# The only module that loads the extension, and hands in what that calls.
NATIVE_LOADER = "rprof._loading"
NATIVE = "rprof._native"
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


def rust_lengths(relative: str, source: str) -> list[Violation]:
    """What is too long in a file, named relative to src/, and does not say why."""
    shown = f"src/{relative}"
    lines = source.splitlines()
    found = []
    head = itertools.takewhile(lambda line: line.startswith("//!"), lines)
    if len(lines) > LONGEST_FILE and FILE_REASON not in _documentation(head, "//!"):
        found.append(Violation(shown, 1, f"{len(lines)} lines"))
    for name, first, last in _rust_functions(source):
        length = last - first + 1
        above = itertools.takewhile(_is_of_a_head, reversed(lines[: first - 1]))
        said = _documentation(reversed(list(above)), "///")
        if length > LONGEST_FUNCTION and FUNCTION_REASON not in said:
            found.append(Violation(shown, first, f"`{name}` has {length} lines"))
    return found


def _documentation(lines: Iterable[str], mark: str) -> str:
    """The text of the comments among these lines, which may be broken anywhere."""
    stripped = (line.strip() for line in lines)
    return " ".join(line.removeprefix(mark).strip() for line in stripped if line.startswith(mark))


def _is_of_a_head(line: str) -> bool:
    """Whether a line above `fn` still belongs to it: a comment, or a part of an attribute."""
    stripped = line.strip()
    return stripped.startswith("//") or (bool(stripped) and not stripped.endswith(("{", "}", ";")))


def _rust_functions(source: str) -> Iterator[tuple[str, int, int]]:
    """Name, first and last line of each function that has a body, inner ones as well."""
    tokens = list(rust_tokens(source))
    for index, token in enumerate(tokens[:-1]):
        name = tokens[index + 1]
        # `fn(u8)` is a type.
        if token.text == "fn" and _NAME.fullmatch(name.text):
            last = _end_of_body(tokens, index)
            if last is not None:
                yield name.text, token.line, last


def _end_of_body(tokens: list[Token], index: int) -> int | None:
    """The line of the brace that ends the function at `index`; None if it is only declared."""
    braces = brackets = 0
    for token in tokens[index:]:
        if token.text in ("(", "["):
            brackets += 1
        elif token.text in (")", "]"):
            brackets -= 1
        elif token.text == "{":
            braces += 1
        elif token.text == "}":
            braces -= 1
            if braces == 0 and brackets == 0:
                return token.line
        elif token.text == ";" and braces == 0 and brackets == 0:
            return None
    return None


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


class PythonImport(NamedTuple):
    """A module below the package that a node reaches, and what is taken from it (none: itself)."""

    module: str
    names: frozenset[str]
    line: int


def python_module_of(relative: str) -> str:
    """`cli/top.py` is module rprof.cli.top, `cli/__init__.py` is rprof.cli."""
    parts = ["rprof", *relative.removesuffix(".py").split("/")]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def python_imports(relative: str, source: str) -> list[PythonImport]:
    """What a file, named relative to python/rprof/, imports of the package when it runs."""
    package = ["rprof", *relative.split("/")[:-1]]
    found = []
    for node in _running_nodes(ast.parse(source, relative)):
        for imported in _imports(node, package):
            if _is_below(imported.module, "rprof"):
                found.append(imported)
    return found


def _running_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those for annotations alone."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield from _running_nodes(other)
        else:
            yield from _running_nodes(child)


def python_violations(relative: str, source: str) -> list[Violation]:
    """What a file, named relative to python/rprof/, does against the rules."""
    shown = f"python/rprof/{relative}"
    module = python_module_of(relative)
    room = _python_room(module)
    if room not in PYTHON_LEVELS:
        return [Violation(shown, 1, f"`{room}` is not in the table of levels")]
    found = []
    for imported in python_imports(relative, source):
        line = imported.line
        if _is_below(imported.module, CLI) and not _is_below(module, CLI) and module != CLI_ENTRY:
            found.append(Violation(shown, line, f"nobody imports `{CLI}`"))
            continue
        if _is_below(imported.module, NATIVE):
            if module != NATIVE_LOADER:
                rule = f"only `{NATIVE_LOADER}` imports `{NATIVE}`"
                found.append(Violation(shown, line, rule))
            continue
        for named in _python_rooms(imported):
            level = PYTHON_LEVELS.get(named)
            if named != room and (level is None or level >= PYTHON_LEVELS[room]):
                rule = f"`{room}` (level {PYTHON_LEVELS[room]}) imports `{named}` (level {level})"
                found.append(Violation(shown, line, f"{rule}: lower levels only"))
    return sorted(set(found), key=lambda violation: violation.line)


def _python_room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def _python_rooms(imported: PythonImport) -> set[str]:
    """The rooms that an import names: `from . import a, b` names two, or what __init__ has."""
    if imported.module != "rprof":
        return {_python_room(imported.module)}
    return {name if name in PYTHON_LEVELS else "__init__" for name in imported.names or {""}}


def python_circles(sources: dict[str, str]) -> list[str]:
    """Modules that import each other, as `a -> b -> a`; files by name relative to python/rprof/."""
    modules = {python_module_of(relative): relative for relative in sources}
    reached = {
        module: sorted(
            {
                name
                for imported in python_imports(relative, sources[relative])
                for name in _modules_of(imported, modules)
            }
            - {module}
        )
        for module, relative in modules.items()
    }
    circles = []
    left: set[str] = set()

    def follow(module: str, path: list[str]) -> None:
        if module in path:
            circle = path[path.index(module) :]
            if circle[0] == min(circle):
                circles.append(" -> ".join([*circle, module]))
        elif module not in left:
            for following in reached[module]:
                follow(following, [*path, module])
            left.add(module)

    for module in sorted(reached):
        follow(module, [])
    return circles


def _modules_of(imported: PythonImport, modules: dict[str, str]) -> Iterator[str]:
    below = {f"{imported.module}.{name}" for name in imported.names} & set(modules)
    yield from below
    if len(below) < max(1, len(imported.names)) and imported.module in modules:
        yield imported.module


def _is_below(module: str, root: str) -> bool:
    return module == root or module.startswith(root + ".")


def _imports(node: ast.AST, package: list[str]) -> Iterator[PythonImport]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield PythonImport(alias.name, frozenset(), node.lineno)
    elif isinstance(node, ast.ImportFrom):
        origin = package[: len(package) - node.level + 1] if node.level else []
        base = ".".join([*origin, *(node.module.split(".") if node.module else [])])
        names = {alias.name for alias in node.names}
        # `from rprof import _native` takes a module, not a name of one.
        for name in sorted(names):
            if f"{base}.{name}" in (NATIVE, CLI):
                names.remove(name)
                yield PythonImport(f"{base}.{name}", frozenset(), node.lineno)
        if names:
            yield PythonImport(base, frozenset(names), node.lineno)
    elif isinstance(node, ast.Attribute) and ast.unparse(node) == NATIVE:
        # `import rprof` and then `rprof._native`; an attribute of that name elsewhere is free.
        yield PythonImport(NATIVE, frozenset(), node.lineno)
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
            yield PythonImport(name, frozenset(), node.lineno)


def door_imports(source: str) -> list[str]:
    """The modules of ours that a Rust source imports by name."""
    return re.findall(r'import(?:_bound)?\(\s*c?"(rprof[\w.]*)"', source)


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
def test_rust_files_and_functions_can_be_read_at_once() -> None:
    violations = [
        violation
        for path in _files(RUST_SOURCES, "*.rs")
        for violation in rust_lengths(
            path.relative_to(RUST_SOURCES).as_posix(), path.read_text(encoding="utf-8")
        )
    ]
    assert not violations, _report(violations)


@needs_rust_sources
def test_every_listed_seam_exists() -> None:
    files = [path.relative_to(RUST_SOURCES).as_posix() for path in _files(RUST_SOURCES, "*.rs")]
    stale = [seam for seam in SEAMS if not any(_matches(file, seam) for file in files)]
    assert not stale, f"listed as seams, but not in src/: {stale}"


@needs_rust_sources
def test_the_door_imports_no_module_of_ours() -> None:
    named = {
        path.name: door_imports(path.read_text(encoding="utf-8"))
        for path in _files(RUST_SOURCES, "*.rs")
    }
    assert not {name: found for name, found in named.items() if found}


def _python_sources() -> dict[str, str]:
    return {
        path.relative_to(PYTHON_SOURCES).as_posix(): path.read_text(encoding="utf-8")
        for path in _files(PYTHON_SOURCES, "*.py")
        if path.name not in ("sitecustomize.py", "hook-rprof.py")
    }


@needs_python_sources
def test_python_modules_import_lower_levels_only_and_one_loads_the_extension() -> None:
    violations = [
        violation
        for relative, source in _python_sources().items()
        for violation in python_violations(relative, source)
    ]
    assert not violations, _report(violations)


@needs_python_sources
def test_no_python_modules_import_each_other() -> None:
    assert not python_circles(_python_sources())


@needs_python_sources
def test_every_listed_python_module_exists() -> None:
    rooms = {_python_room(python_module_of(relative)) for relative in _python_sources()}
    assert rooms == set(PYTHON_LEVELS)


@needs_python_sources
def test_python_files_and_functions_can_be_read_at_once() -> None:
    long = [
        f"{relative}: {source.count(chr(10))} lines"
        for relative, source in _python_sources().items()
        if source.count("\n") > LONGEST_FILE
    ]
    for relative, source in _python_sources().items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    long.append(f"{relative}: {node.name} has {lines} lines")
    assert not long


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


def _function(lines: int, head: str = "") -> str:
    """A Rust function of so many lines, with what stands above it."""
    return head + "fn f(a: [u8; 2]) {\n" + "    g();\n" * (lines - 2) + "}\n"


@pytest.mark.parametrize(
    ("source", "line", "rule"),
    [
        ("//! A room.\n" * 501, 1, "501 lines"),
        ("\n//! Longer than 500 lines, because it is.\n" + "a;\n" * 500, 1, "502 lines"),
        ("//! Longer than 80 lines, because it is.\n" * 501, 1, "501 lines"),
        (_function(81), 1, "`f` has 81 lines"),
        ("impl A {\n" + _function(81, "pub(super) unsafe ") + "}\n", 2, "`f` has 81 lines"),
        (_function(81, "trait A { fn g(&self) -> [u8; 2]; }\n"), 2, "`f` has 81 lines"),
        (_function(81, "/// Longer than 80 lines, so.\n"), 2, "`f` has 81 lines"),
        (
            _function(81, "/// Longer than 80 lines, because of it.\nfn g() {}\n\n"),
            4,
            "`f` has 81 lines",
        ),
    ],
)
def test_what_is_too_long_is_found(source: str, line: int, rule: str) -> None:
    assert rust_lengths("fold/mod.rs", source) == [Violation("src/fold/mod.rs", line, rule)]


@pytest.mark.parametrize(
    "source",
    [
        "//! A room.\n" * 500,
        "//! A room. Longer than 500\n//! lines, because it is one table.\n" + "a;\n" * 500,
        _function(80),
        _function(80) + _function(80),
        _function(81, "/// Does it. Longer than 80\n/// lines, because so.\n#[inline]\n"),
        "type A = fn(u8);\n" + 'const B: &str = "fn f() {";\n' * 81,
    ],
)
def test_what_is_short_or_says_why_it_is_not_passes(source: str) -> None:
    violations = rust_lengths("fold/mod.rs", source)
    assert not violations, _report(violations)


@pytest.mark.parametrize(
    ("relative", "source", "rule"),
    [
        ("auto.py", "from rprof._native import start", "only `rprof._loading`"),
        ("__init__.py", "from ._native import Profile", "only `rprof._loading`"),
        ("__init__.py", "from . import _native", "only `rprof._loading`"),
        ("cli/top.py", "from .._native import start", "only `rprof._loading`"),
        ("auto.py", "import rprof._native", "only `rprof._loading`"),
        ("auto.py", "import importlib\nimportlib.import_module('._native', 'rprof')", "only"),
        ("_block.py", "from rprof import cli", "nobody imports `rprof.cli`"),
        ("_block.py", "def f():\n    from .cli.top import run", "nobody imports `rprof.cli`"),
        ("pytest_plugin.py", "import rprof.cli.top", "nobody imports `rprof.cli`"),
        ("_profile.py", "from ._block import profile", "lower levels only"),
        ("_profile.py", "def f():\n    from . import _block", "lower levels only"),
        ("_block.py", "from . import _endpoint", "lower levels only"),
        ("_block.py", "from . import start", "imports `__init__`"),
        ("_block.py", "if TYPE_CHECKING:\n    pass\nelse:\n    from . import _watch", "_watch"),
        ("_news.py", "", "not in the table"),
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
        ("_loading.py", "from . import _native\nfrom rprof._native import start\n_native.stop()"),
        ("__init__.py", "from ._continuous import start\nfrom . import _loading, _watch"),
        ("cli/top.py", "from . import tree\nfrom rprof.cli.arguments import parse"),
        ("cli/top.py", "from .. import __version__, _formats"),
        ("_profile.py", "if TYPE_CHECKING:\n    from ._native import Profile"),
        ("_profile.py", "def top(self):\n    return self._native.top()"),
    ],
)
def test_lawful_python_passes(relative: str, source: str) -> None:
    violations = python_violations(relative, source)
    assert not violations, _report(violations)


def test_a_circle_of_python_modules_is_found() -> None:
    sources = {
        "a.py": "from .b import f",
        "b.py": "def f():\n    from . import c",
        "c.py": "from rprof.a import g\nif TYPE_CHECKING:\n    from .d import h",
        "d.py": "from . import a",
        "e/__init__.py": "from . import inner",
        "e/inner.py": "from ..d import x",
    }
    assert python_circles(sources) == ["rprof.a -> rprof.b -> rprof.c -> rprof.a"]
    assert not python_circles({**sources, "c.py": "from .f import g"})


def test_an_import_by_the_door_is_found() -> None:
    assert door_imports('let a = py.import("rprof._watch")?; py.import("os")?;') == ["rprof._watch"]
