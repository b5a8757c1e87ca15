"""Serves one page on the loopback interface."""

from __future__ import annotations

import http.server
from collections.abc import Callable

from ..errors import RprofOSError
from ._console import say


class _Page(http.server.BaseHTTPRequestHandler):
    """Answers with one page and nothing else."""

    server: _Server

    def do_GET(self) -> None:
        """Send the page."""
        # A page elsewhere could point a name of its own at this address (DNS rebinding).
        host = self.headers.get("Host", "")
        if host.rpartition(":")[0] not in ("127.0.0.1", "localhost"):
            self.send_error(403, "wrong Host")
            return
        if self.path != "/":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(self.server.page)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(self.server.page)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, page: bytes) -> None:
        self.page = page
        super().__init__(("127.0.0.1", port), _Page)


def serve(page: str, port: int, opened: Callable[[str], None] | None) -> int:
    """Serve a page until Ctrl-C.

    Args:
        page: The HTML.
        port: Where on 127.0.0.1; 0 is any free port.
        opened: Called with the address once it answers.

    Raises:
        RprofOSError: The port is not to be had.
    """
    try:
        server = _Server(port, page.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise RprofOSError(
            f"cannot listen on 127.0.0.1:{port}: {error.strerror}; choose another --port"
        ) from error
    address = f"http://127.0.0.1:{server.server_port}/"
    say(f"serving {address} (Ctrl-C ends it)")
    if opened is not None:
        opened(address)
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0
