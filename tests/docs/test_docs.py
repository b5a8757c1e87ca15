"""The documentation says what is true: its examples run, its reference is that of the code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from run_page import examples

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
RUN = [page for page in PAGES if "```" in page.read_text(encoding="utf-8")]


def run(directory, *words):
    environment = {name: text for name, text in os.environ.items() if not name.startswith("RPROF_")}
    # `rprof` and `pytest` of the interpreter that runs this, first.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.relative_to(ROOT).with_suffix("").name)
def test_examples_run(page, tmp_path):
    done = run(tmp_path, ROOT / "tests" / "docs" / "run_page.py", page)
    assert done.returncode == 0, done.stdout


def test_the_reference_is_that_of_the_code(tmp_path):
    done = run(tmp_path, DOCS / "make" / "reference.py", "--check")
    assert done.returncode == 0, f"{done.stdout}\nrun: python docs/make/reference.py"


def test_the_readme_is_short_and_its_links_lead_somewhere():
    readme = PAGES[0].read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 150
    links = re.findall(r"\]\(([^)#]+)", readme)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_what_rprof_points_to_is_there(tmp_path):
    sources = [file.read_text(encoding="utf-8") for file in (ROOT / "python").rglob("*.py")]
    named = {name for text in sources for name in re.findall(r"""\bpage\(["']([\w/-]+)""", text)}
    assert {"index", "reference/options"} <= named
    assert [name for name in named if not (DOCS / f"{name}.md").is_file()] == []
    for words, name in (([], "index"), (["top"], "reference/command")):
        assert f"documentation: docs/{name}.md" in run(tmp_path, "-m", "rprof", *words, "-h").stdout
    done = run(tmp_path, "-c", "import rprof; rprof.start(None, wimdow=5)")
    assert "see docs/reference/options.md" in done.stdout


def test_blocks_are_told_apart():
    page = (
        '<!-- setup\nx = 1\n-->\n```python title="a.py"\nA\n```\n'
        "<!-- not run: no -->\n```sh\nB\n```\n```text\nC\n```\n"
    )
    found = [(e.language, e.title, e.reason, e.line, e.code) for e in examples(page)]
    assert found == [
        ("python", "", "", 2, "x = 1"),
        ("python", "a.py", "", 5, "A\n"),
        ("sh", "", "no", 9, "B\n"),
        ("text", "", "", 12, "C\n"),
    ]
    with pytest.raises(ValueError, match="say why"):
        list(examples("<!-- not run: -->\n"))
