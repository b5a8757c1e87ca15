"""The parts of the reference that are made from the code, between two marks in its pages.

Run:  python docs/make/reference.py            write them
      python docs/make/reference.py --check    say which pages are not up to date (exit code 1)

Needs rprof as it is to be described, installed. A page is right on every version of Python.
"""

from __future__ import annotations

import argparse
import contextlib
import html
import json
import math
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import rprof
from rprof._config import OPTIONS
from rprof.cli._main import VERBS

DOCS = Path(__file__).parents[1]
# Said of an upper limit that nobody reaches.
ENDLESS = "endless"
MODEL = DOCS.parent / "src" / "model"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def code(text: str) -> str:
    return f"`{text}`"


def cell(text: str) -> str:
    """Text for one cell of a table: on one line, and without what Markdown would take for it."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def meanings(docstring: str) -> dict[str, str]:
    """What the section `Args:` of a docstring says of each argument."""
    section = docstring.partition("Args:\n")[2].partition("\n\n")[0]
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        begun = re.match(r" +(\**\w+): (.*)", line)
        indent = len(line) - len(line.lstrip())
        # What an argument means goes on further to the right.
        if begun and indent <= 8:
            name = begun[1]
            found[name] = begun[2]
        elif name:
            found[name] += " " + line.strip()
    return found


def accepted(name: str) -> str:
    """What an option's own check says that it takes."""
    for wrong in (-math.inf, -1, "?"):
        with contextlib.suppress(rprof.RprofTypeError):
            try:
                OPTIONS[name].check(name, wrong)
            except rprof.RprofValueError as error:
                chosen = re.search(r"choose ([\d.e+]+) to ([\d.e+]+) \((.*)\)", str(error))
                if chosen:
                    low, high = (number(text) for text in chosen.groups()[:2])
                    unit = chosen[3].partition(",")[0]
                    return f"from {low} {unit}" if high == ENDLESS else f"{low} to {high} {unit}"
    return ""


def number(text: str) -> str:
    return f"{float(text):,.10g}" if float(text) < 1 << 53 else ENDLESS


def shown(value: object) -> str:
    """A default as one would write it."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1 << 20:
        return f"`{value >> 20} << 20` ({value >> 20} MiB)"
    return code(f"{value:g}" if isinstance(value, float) else repr(value))


def options() -> str:
    means = meanings(rprof.start.__doc__ or "")
    parts = []
    for name, option in OPTIONS.items():
        facts = [f"default {shown(option.default)}", accepted(name)]
        facts.append(code("RPROF_" + name.upper()))
        text = " ".join(means[name].replace("``", "`").split())
        parts.append(f"### {name}\n\n{' · '.join(filter(None, facts))}\n\n{text}")
    return "\n\n".join(parts)


def option_words(action: argparse.Action) -> str:
    if not action.option_strings:
        return code(str(action.metavar or action.dest))
    value = action.metavar
    if value is None and action.choices is not None:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    if action.nargs == 0:
        value = None
    elif action.nargs == "?":
        value = f"[{value}]"
    return ", ".join(code(f"{word} {value}" if value else word) for word in action.option_strings)


def command() -> str:
    parts = []
    for name in VERBS:
        module = import_module(f"rprof.cli.{name}")
        parser = argparse.ArgumentParser(prog=f"rprof {name}")
        module.add_arguments(parser)
        parts.append(f"## rprof {name}\n")
        parts.append(module.HELP[0].upper() + module.HELP[1:] + ".\n")
        if parser.usage:
            parts.append(f"```text\n{parser.usage}\n```\n")
        rows = [
            [option_words(action), cell(action.help or "").replace("%%", "%")]
            for group in parser._action_groups
            for action in group._group_actions
            if action.dest != "help"
        ]
        parts.append(table(["argument", "meaning"], rows) + "\n")
        parts.append(f"```text\n{module.EXAMPLES.strip()}\n```\n")
    return "\n".join(parts).strip()


def ask(path: str) -> str:
    with rprof.serve("127.0.0.1:0") as endpoint:
        answer = urllib.request.urlopen(f"http://{endpoint.address}{path}", timeout=60)
        return str(answer.read().decode())


def routes() -> str:
    found = re.findall(r'<a href="/debug/pprof/[^"]*">([^<]*)</a><td>([^\n]*)', ask("/"))
    rows = [[code(html.unescape(route)), cell(html.unescape(what))] for route, what in found]
    rows.append([code("POST next?count=100"), "the profile of the next requests; needs a token"])
    return table(["path", "answer"], rows)


def counters() -> str:
    names = json.loads(ask("/debug/pprof/status"))["counters"]
    return ", ".join(code(name) for name in names)


def frames() -> str:
    text = (MODEL / "function.rs").read_text(encoding="utf-8")
    found = re.findall(r'((?:/// .*\n)+)pub const \w+: &str = "(<[^"]+>)";', text)
    rows = [
        [code(name), " ".join(line.removeprefix("/// ") for line in doc.splitlines())]
        for doc, name in found
    ]
    rows.append([code("<N frames omitted>"), "The middle of a stack deeper than `max_depth`."])
    return table(["frame", "what it stands for"], rows)


def recorded(engine: str) -> list[str]:
    """The measures that an engine records; there is one engine for a process."""
    program = (
        f"import asyncio, rprof\nwith rprof.profile(engine={engine!r}) as block: pass\n"
        "print(*[kind.type for kind in block.profile.sample_types])"
    )
    words = [sys.executable, "-c", program]
    return subprocess.run(words, check=True, text=True, stdout=subprocess.PIPE).stdout.split()


def measures() -> str:
    text = (MODEL / "measure.rs").read_text(encoding="utf-8")
    begun = text.index("measures! {\n")
    found = re.findall(
        r'^    \w+ "(\w+)" (\w+) (\w+)\s+"([^"]+)",$', text[begun:], flags=re.MULTILINE
    )
    engines = {engine: recorded(engine) for engine in ("direct", "gil")}
    rows = []
    for name, unit, kind, meaning in found:
        by = [code(engine) for engine, names in engines.items() if name in names]
        sums = {"Flow": "add up", "Level": "the last one counts"}[kind]
        rows.append([code(name), unit.lower(), meaning, sums, ", ".join(by) or "-"])
    missing = set().union(*engines.values()) - {name for name, *_ in found}
    assert not missing, f"measure.rs does not list {missing}"
    return table(["name", "unit", "what it tells", "windows", "recorded by"], rows)


PARTS: dict[str, Callable[[], str]] = {
    "options": options,
    "command": command,
    "routes": routes,
    "counters": counters,
    "frames": frames,
    "measures": measures,
}
PART = re.compile(
    r"(<!-- made by docs/make/reference\.py: (\w+) -->\n).*?(<!-- /made -->)", re.DOTALL
)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    stale, seen = [], set()
    for page in sorted(DOCS.rglob("*.md")):
        old = page.read_text(encoding="utf-8")
        seen |= {name for _, name, _ in PART.findall(old)}
        new = PART.sub(lambda match: f"{match[1]}\n{PARTS[match[2]]()}\n\n{match[3]}", old)
        if new != old:
            stale.append(page.relative_to(DOCS).as_posix())
            if not check:
                page.write_text(new, encoding="utf-8")
    if seen != set(PARTS):
        print(f"no page has the part {', '.join(sorted(set(PARTS) - seen))}")
        return 1
    if stale:
        print(f"{'not up to date' if check else 'written'}: {', '.join(stale)}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
