"""The script of the short loop says what it takes, and CONTRIBUTING.md names all of it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEV = ROOT / ".ci" / "dev"
VERBS = re.findall(r"^#   \.ci/dev (\w+)", DEV.read_text(encoding="utf-8"), flags=re.MULTILINE)


@pytest.mark.parametrize("words", [[], ["rest"]], ids=["nothing", "an unknown verb"])
def test_what_is_not_a_verb_is_answered_with_the_verbs(words):
    done = subprocess.run(
        [DEV, *words], capture_output=True, text=True, timeout=60, check=False, cwd="/"
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.findall(r"^  \.ci/dev (\w+)", done.stderr, flags=re.MULTILINE) == VERBS


def test_every_verb_is_one_that_the_script_takes():
    text = DEV.read_text(encoding="utf-8")
    taken = re.search(r"^([\w |]+)\) shift ;;$", text, flags=re.MULTILINE)
    assert taken is not None
    assert taken[1].split(" | ") == VERBS
    assert [verb for verb in VERBS if not re.search(rf"^{verb}\)$", text, re.MULTILINE)] == []


def test_contributors_are_told_of_every_verb():
    told = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert [verb for verb in VERBS if f".ci/dev {verb}" not in told] == []
