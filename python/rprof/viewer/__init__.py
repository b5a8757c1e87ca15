"""The report page: one HTML file with the profile inside it.

``page`` joins what lies beside this file in the source tree: the template ``page.html``,
``page.css``, and the modules of ``app.js``, which it links into one script. All of it is compiled
into the native module, so that programs that were frozen or moved have it too. The page loads
nothing from anywhere. Its policy names its script and its style by their hashes and forbids
everything else, the parsing of HTML at run time included; the browser decodes the profile, and
shows names only as text.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TypeAlias

from .. import _loading
from ..errors import RprofValueError
from . import sources

__all__ = ["asset", "frame", "page", "sources"]

# Name, pprof bytes, and, as far as they are known, the facts.
_Shown: TypeAlias = "tuple[str, bytes] | tuple[str, bytes, str]"
_ENTRY = "app.js"
_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([\w-]+\.js)";\n', re.MULTILINE)
_LINK_WORD = re.compile(r"^(?:import|export)\b.*", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async function|function|class|const|let) )", re.MULTILINE)
_PLACE = re.compile(r"@(policy|title|style|data|script)@")


def page(
    profiles: Sequence[_Shown],
    *,
    title: str,
    baseline: _Shown | None = None,
    sources: Mapping[str, str] | None = None,
) -> str:
    """Return a complete HTML document that shows profiles.

    Args:
        profiles: Name and pprof bytes, gzip-compressed or plain, of each profile, and its
            ``page_facts``, without which the page shows its comments as they are. With several,
            the page lets one choose.
        title: What the page is called.
        baseline: The same of what came before; the page then shows the difference.
        sources: Text by file name, as the profile names files, to be shown with what each line
            cost. Whoever gets the page can read it.

    Raises:
        RprofValueError: There is no profile.
    """
    if not profiles:
        raise RprofValueError("profiles is empty; give at least one profile to show")
    data = {
        "title": title,
        "measures": [
            {"name": name, "unit": unit, "meaning": meaning}
            for name, unit, _, meaning in _loading.native().measures()
        ],
        "profiles": [_embedded(*profile) for profile in profiles],
        "baseline": _embedded(*baseline) if baseline else None,
        "sources": _packed(json.dumps(dict(sources)).encode("ascii")) if sources else None,
    }
    script, style = _script(), asset("page.css")
    fill = {
        "policy": _policy(script, style),
        "title": html.escape(_printable(title)),
        "style": style,
        # In JSON, `<` is found in texts alone; without it nothing can end the element.
        "data": json.dumps(data).replace("<", "\\u003c"),
        "script": script,
    }
    return _PLACE.sub(lambda found: fill[found[1]], asset("page.html"))


def frame(title: str) -> tuple[str, str, str]:
    """Return what stands before, between and behind what a page has of its one profile.

    Its facts and base64 of a gzip pprof between the three make a page, where there is no Python to
    make it.
    """
    # Begins like gzip, so that it is taken as it is.
    mark = b"\x1f\x8b" + b"here goes the profile"
    facts = json.dumps(base64.b64encode(b"here go the facts").decode("ascii"))
    before, rest = page([(title, mark, facts)], title=title).split(facts)
    between, after = rest.split(base64.b64encode(mark).decode("ascii"))
    return before, between, after


def _embedded(name: str, content: bytes, facts: str = "null") -> dict[str, object]:
    if not content.startswith(b"\x1f\x8b"):
        content = gzip.compress(content, mtime=0)
    data = base64.b64encode(content).decode("ascii")
    return {"title": name, "facts": json.loads(facts), "data": data}


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, mtime=0)).decode("ascii")


def _printable(text: str) -> str:
    # The script writes the title with such characters made visible; before it runs they are absent.
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def _policy(script: str, style: str) -> str:
    rules = {
        "default-src": "'none'",
        "script-src": _hash(script),
        "style-src": _hash(style),
        # The icon, which is in the page too.
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        # Nothing may be parsed as HTML or run as a script at run time.
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


@cache
def asset(name: str) -> str:
    """Return the text of a file that the page is made of."""
    text: str = _loading.native().viewer_asset(name)
    if re.search(r"</(?:script|style)", text, re.IGNORECASE) and not name.endswith(".html"):
        raise AssertionError(f"{name} would end the element it is put into")
    return text


@cache
def _script() -> str:
    """Link the modules into one, each after those it imports.

    This is all the linking they need: they import by name from each other alone, and no two of
    them use the same name at their top level, which the browser would refuse.
    """
    linked: dict[str, str] = {}

    def add(name: str) -> None:
        if name in linked:
            return
        linked[name] = ""
        source = asset(name)
        for _, imported in _IMPORT.findall(source):
            add(imported)
        code = _EXPORT.sub("", _IMPORT.sub("", source))
        unlinked = _LINK_WORD.search(code)
        if unlinked:
            raise AssertionError(f"{name}: cannot link {unlinked[0]!r}")
        # Added anew, so that it comes after what it imports.
        del linked[name]
        linked[name] = f"// {name}\n{code}"

    add(_ENTRY)
    return "\n".join(linked.values())
