"""What `rprof live` asks goes to this machine alone, and so does the token."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

TOKEN = "a-token-of-some-length-that-nobody-else-is-to-see"
PROXIES = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "https_proxy")


class Recorder(ThreadingHTTPServer):
    """A server that notes what it was asked, and answers always the same."""

    def __init__(self, status=403, location=None):
        self.asked = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.server.asked.append((self.path, str(self.headers)))
                self.send_response(status)
                if location is not None:
                    self.send_header("Location", location)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self):
        return self.server_address[1]


@pytest.fixture
def proxy():
    with Recorder() as server:
        yield server
        server.shutdown()


def live(address, **variables):
    environment = {name: text for name, text in os.environ.items() if name not in PROXIES}
    environment.pop("no_proxy", None)
    environment.pop("NO_PROXY", None)
    return subprocess.run(
        [sys.executable, "-m", "rprof", "live", address, "--once", "--interval", "0.1"],
        env={**environment, "RPROF_SERVE_TOKEN": TOKEN, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1.2.3", "LOCALHOST"])
def test_this_machine_is_asked_without_a_proxy(proxy, host):
    code = f"""
import rprof, subprocess, sys
endpoint = rprof.serve("127.0.0.1:0", token={TOKEN!r})
print(endpoint.address, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as served:
        port = served.stdout.readline().strip().rstrip("/").rpartition(":")[2]
        through = dict.fromkeys(PROXIES, f"http://127.0.0.1:{proxy.port}")
        done = live(f"http://{host}:{port}", **through)
        served.stdin.close()
    assert not proxy.asked
    if host != "127.1.2.3":  # the endpoint listens at 127.0.0.1 alone
        assert done.returncode == 0, done.stderr


def test_the_token_does_not_leave_this_machine(proxy):
    done = live("http://example.invalid:6060", http_proxy=f"http://127.0.0.1:{proxy.port}")
    assert done.returncode != 0
    assert "tunnel" in done.stderr
    assert len(proxy.asked) == 1, "another machine may be asked through a proxy"
    assert TOKEN not in str(proxy.asked) + done.stderr + done.stdout


def test_a_redirect_is_not_followed(proxy):
    with Recorder(302, f"http://127.0.0.1:{proxy.port}/debug/pprof/wall") as other:
        done = live(f"http://127.0.0.1:{other.port}")
        other.shutdown()
    assert done.returncode != 0
    assert "refuses" in done.stderr
    assert not proxy.asked


@pytest.mark.parametrize(
    ("address", "token"),
    [
        (f"http://{TOKEN}@127.0.0.1:1", ""),
        (f"http://user:{TOKEN}@127.0.0.1:1", ""),
        ("http://127.0.0.1:1", f"{TOKEN}\nX: y"),
        ("http://127.0.0.1:1", f"{TOKEN}\u00e4"),
        ("http://127.0.0.1:wrong", TOKEN),
        ("http://", TOKEN),
    ],
)
def test_what_cannot_be_asked_is_one_sentence_without_the_token(address, token):
    done = live(address, RPROF_SERVE_TOKEN=token)
    assert done.returncode == 2
    assert done.stderr.startswith("rprof: ")
    assert done.stderr.count("\n") == 1
    assert TOKEN not in done.stderr


def test_by_every_spelling_of_a_loopback_address(proxy):
    from rprof.cli._fetch import _is_this_machine

    for host in ("127.0.0.1", "127.255.0.3", "localhost", "::1", "::ffff:127.0.0.1", "0x7f000001"):
        assert _is_this_machine(host), host
    for host in ("192.0.2.1", "::", "0.0.0.0", "2001:db8::1", "::ffff:192.0.2.1"):
        assert not _is_this_machine(host), host


def test_a_traceback_that_shows_variables_does_not_show_the_token():
    from rprof._process import EndpointRequest

    request = EndpointRequest("127.0.0.1:0", TOKEN)
    assert TOKEN not in f"{request} {request!r} {[request]}"
