"""Compares the offset tables in src/layout with the headers of installed CPython versions.

    python check.py [PYTHON ...]

Compiles a C program against the private headers of each interpreter (without one: of this one)
and compares what `offsetof` says with src/layout/v3_*.rs. Only 3.10-3.12 have such tables; later
versions bring their own, whose shape is checked here as well. Exit code 0: all agree; 1: they
differ; 2: nothing could be compared.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[2] / "src" / "layout"

ASK = """
import json, sys, sysconfig
print(json.dumps([sys.version_info[:2], sysconfig.get_path("include")]))
"""

RUNTIME = "_PyRuntimeState"
INTERPRETER = "PyInterpreterState"
THREAD = "PyThreadState"
FRAME = "_PyInterpreterFrame"
CODE = "PyCodeObject"
GIL = "struct _gil_runtime_state"

# Place in the Rust table: C type and field.
COMMON = {
    "runtime.interpreters_head": (RUNTIME, "interpreters.head"),
    "runtime.finalizing": (RUNTIME, "_finalizing"),
    "interpreter.next": (INTERPRETER, "next"),
    "interpreter.id": (INTERPRETER, "id"),
    "interpreter.threads_head": (INTERPRETER, "threads.head"),
    "interpreter.collecting": (INTERPRETER, "gc.collecting"),
    "gil.holder": (GIL, "last_holder"),
    "gil.locked": (GIL, "locked"),
    "gil.switches": (GIL, "switch_number"),
    "thread.next": (THREAD, "next"),
    "thread.interpreter": (THREAD, "interp"),
    "thread.ident": (THREAD, "thread_id"),
    "code.filename": (CODE, "co_filename"),
    "code.linetable": (CODE, "co_linetable"),
    "code.first_line": (CODE, "co_firstlineno"),
    "code.length": ("PyVarObject", "ob_size"),
    "text.length": ("PyASCIIObject", "length"),
    "text.state": ("PyASCIIObject", "state"),
    "text.ascii_data": ("PyASCIIObject", None),
    "text.compact_data": ("PyCompactUnicodeObject", None),
    "bytes.length": ("PyBytesObject", "ob_base.ob_size"),
    "bytes.data": ("PyBytesObject", "ob_sval"),
}
HEAP_FRAMES = {
    "interpreter.threads_head": (INTERPRETER, "tstate_head"),
    "gil.place": (RUNTIME, "ceval.gil"),
    "thread.frame": (THREAD, "frame"),
    "frame.previous": ("PyFrameObject", "f_back"),
    "frame.code": ("PyFrameObject", "f_code"),
    "frame.instruction": ("PyFrameObject", "f_lasti"),
    "frame.owner": ("PyFrameObject", "f_state"),
    "code.qualname": (CODE, "co_name"),
}
STACK_FRAMES = {
    "gil.place": (RUNTIME, "ceval.gil"),
    "thread.native_id": (THREAD, "native_thread_id"),
    "thread.frame": (THREAD, "cframe"),
    "thread.frame.1": ("_PyCFrame", "current_frame"),
    "thread.chunk": (THREAD, "datastack_chunk"),
    "frame.previous": (FRAME, "previous"),
    "frame.code": (FRAME, "f_code"),
    "frame.instruction": (FRAME, "prev_instr"),
    "frame.owner": (FRAME, "owner"),
    "code.qualname": (CODE, "co_qualname"),
    "code.instructions": (CODE, "co_code_adaptive"),
}
TABLES = {
    (3, 10): COMMON | HEAP_FRAMES,
    (3, 11): COMMON | STACK_FRAMES,
    (3, 12): COMMON | STACK_FRAMES | {"gil.place": (INTERPRETER, "ceval.gil")},
}
HEADERS = {
    (3, 10): ["pycore_runtime.h", "pycore_interp.h", "pycore_gil.h", "../frameobject.h"],
    (3, 11): ["pycore_runtime.h", "pycore_interp.h", "pycore_gil.h", "pycore_frame.h"],
    (3, 12): ["pycore_runtime.h", "pycore_interp.h", "pycore_gil.h", "pycore_frame.h"],
}


def table_of(version: tuple[int, int]) -> dict[str, int]:
    """What the Rust source says: `section.field` to the number."""
    text = (SOURCES / f"v{version[0]}_{version[1]}.rs").read_text(encoding="utf-8")
    table: dict[str, int] = {}
    section = ""
    for line in text.splitlines():
        if begun := re.fullmatch(r"    (\w+): \w+ \{", line):
            section = begun[1]
        elif said := re.fullmatch(r"        (\w+): (?:\w+(?:::\w+)?\()?([\d, ]+)\)?,", line):
            for place, number in enumerate(said[2].split(", ")):
                table[f"{section}.{said[1]}" + (f".{place}" if place else "")] = int(number)
    return table


def offsets_of(version: tuple[int, int], include: str) -> dict[str, int]:
    """What the headers say."""
    lines = ["#define Py_BUILD_CORE 1", "#include <Python.h>", "#include <frameobject.h>"]
    lines += ["#include <stdio.h>", "#include <stddef.h>"]
    for header in HEADERS[version]:
        lines.append(f'#include "internal/{header}"')
    lines.append("int main(void) {")
    for place, (kind, field) in TABLES[version].items():
        value = f"sizeof({kind})" if field is None else f"offsetof({kind}, {field})"
        lines.append(f'    printf("{place} %zu\\n", {value});')
    lines.append("    return 0;\n}")
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory, "offsets.c")
        source.write_text("\n".join(lines), encoding="utf-8")
        program = source.with_suffix("")
        compiled = subprocess.run(
            ["cc", "-w", f"-I{include}", str(source), "-o", str(program)],
            check=False,
            capture_output=True,
            text=True,
        )
        if compiled.returncode:
            raise SystemExit(f"the headers in {include} do not compile:\n{compiled.stderr}")
        said = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout
    return {name: int(number) for name, number in (line.split() for line in said.splitlines())}


def differences(version: tuple[int, int], include: str) -> list[str]:
    """Every field on which the table and the headers disagree."""
    table = table_of(version)
    return [
        f"{version[0]}.{version[1]} {place}: table {table.get(place)}, headers {number}"
        for place, number in offsets_of(version, include).items()
        if table.get(place) != number
    ]


def main(pythons: list[str]) -> int:
    """Compare for each interpreter."""
    compared = different = 0
    for python in pythons or [sys.executable]:
        said = subprocess.run([python, "-c", ASK], check=True, capture_output=True, text=True)
        version, include = json.loads(said.stdout)
        version = tuple(version)
        if version not in TABLES:
            print(f"{python}: {version[0]}.{version[1]} has no table here")
        elif not Path(include, "internal").is_dir():
            print(f"{python}: its headers are not installed ({include})")
        else:
            compared += 1
            found = differences(version, include)
            different += len(found)
            print("\n".join(found) or f"{python}: {len(TABLES[version])} offsets agree")
    if not compared:
        return 2
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
