"""Make docs/report-page.png: the report page of a profile of examples/quickstart.py, in Chromium.

Run:  python docs/make/picture.py

Needs an installed rprof, and Chromium. Each run records a new profile, so the picture shows what
the example does on this machine.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import rprof

DOCS = Path(__file__).parents[1]
SIZE = "1100,600"


def main() -> None:
    browsers = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    browser = next(filter(None, browsers), None)
    if browser is None:
        raise SystemExit("there is no Chromium here")
    with tempfile.TemporaryDirectory() as directory:
        example = DOCS.parent / "examples" / "quickstart.py"
        subprocess.run([sys.executable, example], cwd=directory, check=True, timeout=300)
        (profile,) = Path(directory, "rprof").glob("*.pb.gz")
        page = Path(directory, "page.html")
        page.write_text(rprof.load(profile).to_html(), encoding="utf-8")
        shot = Path(directory, "shot.png")
        # As root Chromium has no sandbox, and the page is our own.
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        options += [f"--window-size={SIZE}", "--virtual-time-budget=5000", f"--screenshot={shot}"]
        address = page.as_uri() + "#type=cpu"
        subprocess.run([browser, *options, address], check=True, timeout=120)
        shutil.copyfile(shot, DOCS / "report-page.png")
    print(f"{DOCS / 'report-page.png'}: {(DOCS / 'report-page.png').stat().st_size} bytes")


if __name__ == "__main__":
    main()
