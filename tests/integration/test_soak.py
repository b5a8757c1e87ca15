"""The soak, as anyone can run it: seconds of it here, ten minutes in the long run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import ENGINE, LONG

SOAK = Path(__file__).parent.parent / "soak.py"


@pytest.mark.skipif(sys.platform != "linux", reason="memory and descriptors are read from /proc")
@pytest.mark.parametrize("mode", ["", "1"] if LONG else [""], ids=lambda mode: f"devmode{mode}")
def test_a_hard_program_is_sampled_at_top_speed(mode):
    size = [] if LONG else ["--seconds", "5", "--threads", "500"]
    done = subprocess.run(
        [sys.executable, str(SOAK), "--engine", ENGINE, *size],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONDEVMODE": mode},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
