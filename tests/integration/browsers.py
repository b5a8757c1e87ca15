"""Headless Chromium for the tests of the report page."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
MISSING = [
    name
    for name, there in (("chromium", CHROMIUM), ("playwright", find_spec("playwright")))
    if not there
]
# Root and many containers have no sandbox, and the pages are our own. The rest keeps the browser
# from talking to its makers.
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Tab:
    """A tab that remembers what it asked the network for, and what went wrong in it."""

    def __init__(self, browser, directory: Path, **options) -> None:
        self.directory = directory
        self.context = browser.new_context(accept_downloads=True, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog {dialog.message}"))
        self.page.on(
            "console",
            lambda line: (
                self.complaints.append(line.text) if line.type in ("error", "warning") else None
            ),
        )

    def open(self, document: str, fragment: str = "") -> Tab:
        """Write a page to a file, open it, and wait until it is drawn."""
        file = self.directory / "page.html"
        file.write_text(document, encoding="utf-8")
        self.address = file.as_uri()
        return self.visit(fragment)

    def visit(self, fragment: str = "") -> Tab:
        """Open the page anew at a fragment."""
        self.page.goto("about:blank")
        self.page.goto(self.address + fragment)
        self.ready()
        return self

    def ready(self) -> None:
        self.page.wait_for_selector("html[data-ready]", state="attached")

    def wait_until(self, expression: str) -> None:
        """Wait until an expression is true.

        Playwright's own wait_for_function calls eval() in the page, which its policy forbids.
        """
        deadline = time.monotonic() + 60
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, f"never true: {expression}"
            self.page.evaluate("new Promise(done => requestAnimationFrame(done))")

    def fragment(self) -> str:
        return self.page.evaluate("location.hash")

    def asked_the_network(self) -> list[str]:
        """Everything it loaded but for the page itself and what is inside it."""
        return [
            url
            for url in self.requests
            if not url.startswith(("file:", "about:", "data:", "blob:file:", "blob:null"))
            or (url.startswith("file:") and url.partition("#")[0] != self.address)
        ]

    def table(self) -> dict[int, tuple[int, int]]:
        """The table's exact self and total by the page's number of the function."""
        self.page.click("#tab-table")
        more = self.page.locator("#table button.more")
        if more.is_visible():
            more.click()
        rows = self.page.eval_on_selector_all(
            "#table tbody tr",
            """rows => rows.map(row => [row.dataset.function,
                ...[...row.querySelectorAll("[data-exact]")].map(cell => cell.dataset.exact)])""",
        )
        return {int(row[0]): (int(row[1]), int(row[2])) for row in rows}

    def rows(self) -> list[tuple[str, int, int]]:
        """The table as shown: name, self, total."""
        numbers = self.table()
        names = self.page.eval_on_selector_all(
            "#table tbody tr",
            """rows => rows.map(row =>
                [row.dataset.function, row.querySelector(".name").textContent])""",
        )
        return [(name, *numbers[int(index)]) for index, name in names]


@contextmanager
def chromium() -> Iterator:
    """Start the browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()
