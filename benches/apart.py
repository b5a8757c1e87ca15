"""Figures that are taken in processes of their own, so that none meets what another left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any


def in_process(script: str, *words: str) -> dict[str, Any]:
    """Run a script of this directory again with these arguments; what its last line says, JSON."""
    ran = subprocess.run(
        [sys.executable, os.path.abspath(script), *words],
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    )
    return dict(json.loads(ran.stdout.splitlines()[-1]))
