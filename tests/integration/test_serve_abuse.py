"""The endpoint under abuse: it answers whoever behaves, gives back what it took, and stays shut."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import re
import select
import signal
import socket
import struct
import sys
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import IDLE, PATIENCE, TOKEN, Service
from support import LONG

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the direct engine needs Linux")

CONNECTIONS = 10_000 if LONG else 2_000
BURST = 500
CASES = 3_000 if LONG else 300

STATUS = b"GET /debug/pprof/status HTTP/1.1\r\nHost: localhost\r\n\r\n"

# Bound to this one, a client never gets the endpoint's own port and with it a connection to itself,
# as can happen once nobody listens there.
ELSEWHERE = "127.0.0.2"


def connect(place: tuple[str, int], receive_bytes: int | None = None) -> socket.socket:
    connection = socket.socket()
    connection.settimeout(PATIENCE)
    if receive_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    try:
        connection.bind((ELSEWHERE, 0))
        connection.connect(place)
    except OSError:
        connection.close()
        raise
    return connection


def reset(connection: socket.socket) -> None:
    """Close without a goodbye."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def read_all(connection: socket.socket) -> bytes:
    """Read until the server hangs up, be it in the middle."""
    answer = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            answer += piece
    return answer


def exchange(service: Service, request: bytes, *, is_last: bool = False) -> bytes:
    """Send bytes and return all that comes back; after the last bytes, say that they were."""
    with connect(service.place) as connection:
        # A server that has heard enough may hang up before the end.
        with contextlib.suppress(ConnectionError):
            connection.sendall(request)
            if is_last:
                connection.shutdown(socket.SHUT_WR)
        return read_all(connection)


def code_of(answer: bytes) -> int:
    """Return the status of an answer; 0 is a connection that was closed without one."""
    if not answer:
        return 0
    version, code, _ = answer.split(b" ", 2)
    assert version in (b"HTTP/1.1", b"HTTP/1.0"), answer
    return int(code)


def ask(service: Service, target: str | bytes, **headers: str) -> tuple[int, bytes]:
    """Ask for a target exactly as it is written."""
    target = target.encode() if isinstance(target, str) else target
    lines = [b"GET " + target + b" HTTP/1.1", b"Host: localhost"]
    lines += [f"{name.replace('_', '-')}: {text}".encode() for name, text in headers.items()]
    answer = exchange(service, b"\r\n".join(lines) + b"\r\n\r\n")
    return code_of(answer), answer


def state(service: Service) -> dict:
    """Ask as somebody does whom nobody disturbs; the first try must do."""
    return json.loads(service.get("/debug/pprof/status"))


def state_in_the_crowd(service: Service) -> dict:
    """Ask as often as it takes: newcomers may put out whoever has not finished asking."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return state(service)
        except urllib.error.HTTPError:
            raise
        except (OSError, http.client.HTTPException):
            assert time.monotonic() < deadline, "nobody is answered"


def eventually(condition: Callable[[], bool], service: Service) -> None:
    """Ask the endpoint things until it is so."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        state_in_the_crowd(service)


def threads(pid: int) -> dict[int, str]:
    """Return the names of a process's threads by id."""
    names = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        # It may have ended by now.
        with contextlib.suppress(OSError):
            names[int(task.name)] = (task / "comm").read_text().strip()
    return names


def descriptors(pid: int) -> dict[str, int]:
    """Return how many descriptors are open to the program, and to the server in its own table."""
    server = next(task for task, name in threads(pid).items() if name == "rprof-serve")
    return {
        "program": len(os.listdir(f"/proc/{pid}/fd")),
        "server": len(os.listdir(f"/proc/{pid}/task/{server}/fd")),
    }


def resident_kb(pid: int) -> int:
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1])


class Abuse:
    """Clients of every bad kind, each at it again and again until the end of the block."""

    def __init__(self, place: tuple[str, int]) -> None:
        self.place = place
        self.times = dict.fromkeys(("silent", "dripping", "deaf", "raving", "leaving"), 0)
        self._is_over = threading.Event()
        self._clients = [
            threading.Thread(target=self._go_on, args=(kind,), daemon=True) for kind in self.times
        ]

    def __enter__(self) -> Abuse:
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._is_over.set()
        for client in self._clients:
            client.join()

    def has_gone_round(self, before: dict[str, int]) -> bool:
        """Whether every kind has been at it since."""
        return all(times > before[kind] for kind, times in self.times.items())

    def _go_on(self, kind: str) -> None:
        behave = getattr(self, "_" + kind)
        held: list[socket.socket] = []
        while not self._is_over.is_set():
            # Being shown the door, or finding it closed, is what it is all about.
            with contextlib.suppress(OSError):
                connection = connect(self.place)
                held.append(connection)
                behave(connection)
            self.times[kind] += 1
            while len(held) > (0 if kind == "leaving" else 12):
                reset(held.pop(0))
        for connection in held:
            connection.close()

    def _silent(self, connection: socket.socket) -> None:
        pass

    def _dripping(self, connection: socket.socket) -> None:
        for byte in STATUS[:-2]:
            connection.send(bytes([byte]))

    def _deaf(self, connection: socket.socket) -> None:
        connection.sendall(STATUS.replace(b"status", b"threads?debug=2"))

    def _raving(self, connection: socket.socket) -> None:
        connection.sendall(bytes(range(256)) * 100)

    def _leaving(self, connection: socket.socket) -> None:
        connection.sendall(STATUS.replace(b"status", b"wall?seconds=300"))


def test_heads_that_come_byte_by_byte_hold_no_place(services):
    service = services(IDLE)
    slow = [connect(service.place) for _ in range(100)]
    for byte in STATUS[:-2]:
        for connection in slow:
            # All but the last few have been put out.
            with contextlib.suppress(ConnectionError):
                connection.send(bytes([byte]))
        assert state(service)
    for connection in slow:
        connection.close()
    assert state(service)["connections_turned_away"] >= 90


def test_a_head_that_never_ends_is_hung_up_on(services):
    service = services(IDLE)
    with connect(service.place) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
        deadline = time.monotonic() + PATIENCE
        # It is the head as a whole that has its time, not each byte.
        while not select.select([connection], [], [], 0.1)[0]:
            assert time.monotonic() < deadline
            with contextlib.suppress(ConnectionError):
                connection.send(b"x")
            assert state(service)
        assert code_of(read_all(connection)) in (0, 408)


# All stacks are some megabytes: more than the system holds for somebody who does not read.
MANY = """
import sys, threading, rprof
sys.setrecursionlimit(10_000)
def deep(levels):
    if levels:
        return deep(levels - 1)
    ready.release()
    threading.Event().wait()
ready = threading.Semaphore(0)
threading.stack_size(1 << 23)
for _ in range(40):
    threading.Thread(target=deep, args=(900,), daemon=True).start()
for _ in range(40):
    ready.acquire()
print(rprof.serve().address, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("what", ["threads?debug=2", "report?seconds=0.01"])
def test_whoever_asks_and_does_not_read_holds_no_place(services, what):
    service = services(MANY)
    before = descriptors(service.process.pid)
    deaf = []
    for _ in range(20):
        connection = connect(service.place, receive_bytes=2048)
        connection.sendall(STATUS.replace(b"status", what.encode()))
        # The answer has begun, and nobody takes it.
        assert code_of(connection.recv(100, socket.MSG_PEEK)) == 200
        deaf.append(connection)
        assert state(service)
    if what.startswith("threads"):
        # Had they been sent all, the server had hung up; the page is small enough for that.
        assert descriptors(service.process.pid)["server"] >= before["server"] + 7
    for connection in deaf:
        connection.close()
    eventually(lambda: descriptors(service.process.pid) == before, service)
    service.end_well()


def test_a_burst_does_not_put_out_those_who_have_asked_already(services):
    service = services(IDLE)
    # As on a machine where the server's thread gets no turn for a while.
    service.process.send_signal(signal.SIGSTOP)
    with connect(service.place) as asking:
        asking.sendall(STATUS)
        silent = [connect(service.place) for _ in range(50)]
        service.process.send_signal(signal.SIGCONT)
        assert code_of(read_all(asking)) == 200
    for connection in silent:
        connection.close()


def test_thousands_of_connections_leave_nothing_behind(services):
    service = services(IDLE)
    pid = service.process.pid

    def one_by_one(times: int) -> None:
        for number in range(times):
            match number % 3:
                case 0:
                    connect(service.place).close()
                case 1:
                    reset(connect(service.place))
                case 2:
                    assert code_of(exchange(service, STATUS)) == 200

    def in_bursts(times: int) -> None:
        for _ in range(times // BURST):
            connections = []
            for number in range(BURST):
                connection = socket.socket()
                connection.setblocking(False)
                connection.bind((ELSEWHERE, 0))
                with contextlib.suppress(BlockingIOError):
                    connection.connect(service.place)
                # Where it has come through already; the others say nothing.
                with contextlib.suppress(OSError):
                    connection.send(STATUS[: number % len(STATUS)])
                connections.append(connection)
            assert state_in_the_crowd(service)
            for connection in connections:
                reset(connection)

    one_by_one(BURST)
    in_bursts(BURST)
    # The last connections may still be open: each exchange gives it time to see that they are not.
    files = min((descriptors(pid) for _ in range(20) if state(service)), key=lambda f: f["server"])
    tasks = threads(pid)
    resident = resident_kb(pid)
    one_by_one(CONNECTIONS)
    in_bursts(CONNECTIONS)
    eventually(lambda: descriptors(pid) == files, service)
    assert threads(pid) == tasks
    assert resident_kb(pid) < resident + 16_384
    assert state(service)
    service.end_well()


def test_oversized_heads(services):
    service = services(IDLE)
    head = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
    for request in (
        head + b"X: " + b"a" * 100_000 + b"\r\n\r\n",
        head + b"X" * 100_000 + b": a\r\n\r\n",
        head + b"X: y\r\n" * 1_000 + b"\r\n",
        b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /?" + b"a=b&" * 250_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"G" * 1_000_000,
    ):
        assert code_of(exchange(service, request)) in (0, 400, 405, 414, 431), request[:50]
        assert state(service)
    service.end_well()


_valid = st.sampled_from(
    [
        STATUS,
        STATUS.replace(b"status", b"threads?debug=2&format=text"),
        STATUS.replace(b"status", b"wall?seconds=0.01&rate=100&type=cpu"),
        STATUS.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
        STATUS.replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc"),
        STATUS.replace(b"/debug", b"http://localhost/debug"),
    ]
)
_piece = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([b"\r\n", b"\0", b" ", b":", b"%", b"HTTP/1.1", b"Host: x\r\n", b"\xff", b"9"]),
)


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    """A valid request with some places overwritten, left out or repeated."""
    request = draw(_valid)
    for _ in range(draw(st.integers(1, 4))):
        start, end = sorted(draw(st.tuples(*[st.integers(0, len(request))] * 2)))
        middle = draw(st.one_of(_piece, st.just(request[start:end] * 2)))
        request = request[:start] + middle + request[end:]
    return request


def test_whatever_bytes_are_sent_it_goes_on(services):
    service = services(IDLE)

    @settings(max_examples=CASES, deadline=None)
    @given(st.one_of(st.binary(max_size=2_000), _mutated()))
    def is_survived(request: bytes) -> None:
        code = code_of(exchange(service, request, is_last=True))
        assert code in (0, 200) or 400 <= code < 500

    is_survived()
    assert state(service)["pid"] == service.process.pid
    # A panic would be on stderr.
    service.end_well()


def test_paths_lead_to_known_places_only(services):
    service = services(IDLE)
    root = "http://localhost"
    for target in (
        "/debug/pprof/../../etc/passwd",
        "/debug/pprof/../../../../../../etc/passwd",
        "/debug/pprof/..",
        "/debug/pprof/%2e%2e/%2e%2e/etc/passwd",
        "/debug/pprof/%2E%2E%2Fstatus",
        "/debug/pprof/..%2f..%2fetc/passwd",
        "/debug/pprof/..;/status",
        "/debug/pprof/./status",
        "/debug/pprof//status",
        "//debug/pprof/status",
        "//etc/passwd",
        "///etc/passwd",
        "/etc/passwd",
        "/proc/self/environ",
        "/debug/pprof/status/",
        "/debug/pprof/status/..",
        "/debug/pprof/STATUS",
        "/debug/pprof/status%00",
        "/debug/pprof/status%00.html",
        "/debug/pprof/status;x=y",
        "/debug/pprof/status%3Fdebug=1",
        "/..\\..\\etc\\passwd",
        f"{root}/etc/passwd",
        f"{root}/debug/pprof/../../etc/passwd",
        f"{root}//debug/pprof/status",
        "file:///etc/passwd",
        "debug/pprof/status",
        "../etc/passwd",
        "*",
        "?",
        b"/debug/pprof/status\0",
        b"/debug/pprof/\xff\xfe",
        b"/debug/pprof/\x1b[2J",
        "/debug/pprof/status /etc/passwd",
    ):
        code, answer = ask(service, target)
        assert code in (400, 403, 404), (target, answer)
        assert b"root:" not in answer, target
        assert b"connections_turned_away" not in answer, target
    assert ask(service, f"{root}/debug/pprof/status")[0] == 200
    assert ask(service, f"{root}")[0] == 200
    service.end_well()


def test_arguments_are_within_bounds_or_refused(services):
    service = services(IDLE)
    numbers = (
        "1e308 1e309 -1 -0 0 nan NaN -nan inf -inf Infinity 300.1 0x10 1_0 1,5 %00 %31%00 9e99"
    )
    for name in ("seconds", "rate"):
        for number in (
            *numbers.split(),
            "",
            "%20",
            "%D9%A1",
            "9" * 5_000,
            "0." + "0" * 5_000 + "1",
        ):
            if (name, number) == ("rate", "300.1"):
                continue
            query = f"/debug/pprof/wall?seconds=0.01&{name}={number}"
            # The first of a name counts.
            query = query.replace("seconds=0.01&seconds", "seconds")
            code, answer = ask(service, query)
            assert code == 400, (query, answer)
            assert answer.endswith(b"\n")
            assert len(answer.partition(b"\r\n\r\n")[2].splitlines()) == 1
    for query in (
        "format=%0A%0D%1B[2J&x",
        "debug=%0A%0D%1B[2J",
        "debug=-1",
        "debug=99999999999999999999",
    ):
        code, answer = ask(service, f"/debug/pprof/threads?{query}")
        assert code == 400
        body = answer.partition(b"\r\n\r\n")[2]
        assert b"\x1b" not in body
        assert len(body.splitlines()) == 1
    service.end_well()


def test_bombs_of_arguments(services):
    service = services(IDLE)
    for query in ("a=b&" * 10_000, "&".join(f"a{number}" for number in range(10_000))):
        assert ask(service, f"/debug/pprof/status?{query}")[0] in (0, 400, 414, 431)
    for query in ("&" * 15_000, "a&" * 7_000, "=" * 15_000, "%" * 15_000, "%FF" * 5_000, "?" * 99):
        assert ask(service, f"/debug/pprof/status?{query}")[0] == 200, query[:9]
    service.end_well()


def test_only_names_of_this_machine_are_answered(services):
    service = services(IDLE)
    port = service.place[1]

    def code_for(*lines: bytes | str, target: str = "/debug/pprof/status") -> int:
        raw = [line.encode() if isinstance(line, str) else line for line in lines]
        head = [f"GET {target} HTTP/1.1".encode(), *raw, b"", b""]
        return code_of(exchange(service, b"\r\n".join(head)))

    for host in (
        "localhost",
        f"localhost:{port}",
        "LocalHost",
        "127.0.0.1",
        f"127.0.0.1:{port}",
        "127.1.2.3",
        "[::1]",
        f"[::1]:{port}",
        "[0:0:0:0:0:0:0:1]",
    ):
        assert code_for(f"Host: {host}") == 200, host
        assert code_for(f"hOST:\t{host} ") == 200, host
    for host in (
        "",
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.example.localhost",
        "evil.example:80",
        f"evil.example:{port}",
        "EVIL.EXAMPLE",
        "localhost.",
        "127.0.0.1.",
        "localhost:80:80",
        "localhost:80@evil.example",
        "localhost@evil.example",
        "evil.example@localhost",
        "localhost#.evil.example",
        "localhost/evil.example",
        "localhost evil.example",
        "localhost,evil.example",
        "localhost:-1",
        "localhost:http",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "127.000.000.001",
        "0.0.0.0",
        "0",
        "10.0.0.1",
        "169.254.169.254",
        "::1",
        "[::]",
        "[::1",
        "::1]",
        "[[::1]]",
        "[::1].evil.example",
        "[::1%25lo]",
        "[fe80::1]",
        "[::ffff:10.0.0.1]",
        "[127.0.0.1]",
        "[localhost]",
    ):
        assert code_for(f"Host: {host}") in (400, 403), host
    assert code_for(b"Host: localhost\xff") == 403
    assert code_for(b"Host: \xef\xbd\x8c\xef\xbd\x8f\xef\xbd\x83alhost") == 403
    # None, several, or one that only looks like it.
    assert code_for() in (400, 403)
    assert code_for("X-Forwarded-Host: localhost") in (400, 403)
    assert code_for("Host: localhost", "Host: evil.example") in (400, 403)
    assert code_for("Host: evil.example", "Host: localhost") in (400, 403)
    assert code_for("Host: localhost", "Host: localhost") in (400, 403)
    # As to a proxy.
    whole = "http://{}/debug/pprof/status"
    for name in ("evil.example", "localhost.evil.example", "localhost@evil.example", "[::2]"):
        assert code_for("Host: localhost", target=whole.format(name)) in (400, 403), name
    assert code_for("Host: evil.example", target=whole.format("localhost")) == 403
    assert code_for("Host: localhost", target=whole.format("localhost:1")) == 200
    service.end_well()


def test_pages_of_other_sites_start_nothing(services):
    service = services(IDLE)
    wall = "/debug/pprof/wall?seconds=0.01"
    for destination in ("image", "script", "iframe", "empty"):
        code, _ = ask(service, wall, Sec_Fetch_Site="cross-site", Sec_Fetch_Dest=destination)
        assert code == 403, destination
    # A link from elsewhere, and what a person types in.
    for site in ("cross-site", "none", "same-origin"):
        code, _ = ask(service, wall, Sec_Fetch_Site=site, Sec_Fetch_Dest="document")
        assert code == 200, site
    service.end_well()


def test_those_who_guess_tokens_do_not_lock_the_owner_out(services):
    service = services(
        f"""
        import sys, rprof
        print(rprof.serve("127.0.0.1:0", token={TOKEN!r}).address, flush=True)
        sys.stdin.read()
        """
    )

    def code_for(token: str) -> int:
        return ask(service, "/debug/pprof/status", Authorization=f"Bearer {token}")[0]

    # Showing nothing is no guess.
    assert {ask(service, "/")[0] for _ in range(30)} == {401}
    codes = [code_for(f"{TOKEN[:-1]}{number}") for number in range(30)]
    assert codes == [401] * 10 + [429] * 20
    for number in range(100):
        assert code_for(str(number)) == 429
        assert code_for(TOKEN) == 200
    assert ask(service, "/")[0] == 401
    for header in (f"bearer {TOKEN}", f"Bearer  {TOKEN}", f"Bearer {TOKEN},x", f"Basic {TOKEN}"):
        assert ask(service, "/", Authorization=header)[0] in (401, 429), header
    assert ask(service, f"/debug/pprof/status?token={TOKEN}")[0] == 401
    service.end_well()


def test_only_get_is_answered(services):
    service = services(IDLE)
    methods = "POST PUT PATCH DELETE OPTIONS TRACE HEAD get Get GETS BREW PROPFIND"
    for method in methods.split():
        answer = exchange(service, STATUS.replace(b"GET", method.encode()))
        assert code_of(answer) == 405, method
        assert b"\r\nallow: GET\r\n" in answer
    for target in (b"localhost:80", b"/debug/pprof/status"):
        request = b"CONNECT " + target + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
        assert code_of(exchange(service, request)) in (400, 405)
    for line in (
        b"OPTIONS * HTTP/1.1",
        b"PRI * HTTP/2.0",
        b"GET / HTTP/9.9",
        b"GET /",
        b" / HTTP/1.1",
    ):
        answer = exchange(service, line + b"\r\nHost: localhost\r\n\r\n")
        assert code_of(answer) in (0, 400, 405), line
    service.end_well()


def test_one_connection_is_one_answer(services):
    service = services(IDLE)
    head = STATUS[:-2]
    body = b"3\r\nabc\r\n0\r\n\r\n"
    for request in (
        STATUS * 50,
        STATUS.replace(b"HTTP/1.1", b"HTTP/1.0"),
        STATUS.replace(b"HTTP/1.1", b"HTTP/1.0")[:-2] + b"Connection: keep-alive\r\n\r\n" + STATUS,
        head + b"Connection: keep-alive\r\n\r\n" + STATUS,
        head + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        head + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n\r\n",
        # A body that comes, never comes, or is the next request in disguise.
        head + b"Transfer-Encoding: chunked\r\n\r\n" + body,
        head + b"Transfer-Encoding: chunked\r\n\r\n",
        head + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        head + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n" + STATUS,
        head + b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n" + body + STATUS,
        head + b"Transfer-Encoding: identity\r\n\r\n" + STATUS,
        head + b"Content-Length: 3\r\n\r\nabc" + STATUS,
        head + b"Content-Length: 1000000\r\n\r\n",
        head + b"Content-Length: 99999999999999999999\r\n\r\n",
        head + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n" + STATUS,
        head + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n",
        head + b"Expect: something-else\r\n\r\n",
        head + b"Range: bytes=0-1\r\nAccept-Encoding: gzip\r\nIf-None-Match: *\r\n\r\n",
    ):
        answer = exchange(service, request)
        assert code_of(answer) in (200, 400), (request, answer)
        assert answer.count(b"HTTP/1.") == 1, (request, answer)
        assert b"content-encoding" not in answer
    for kind in (b"", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 3\r\n"):
        assert code_of(exchange(service, head + kind + b"\r\n")) == 200, kind
    service.end_well()


def test_sockets_that_are_closed_by_half(services):
    service = services(IDLE)
    # Whoever has nothing more to say may be taken for one who has left, and is told nothing.
    for what in (b"", b"threads?debug=2", b"report?seconds=0.01", b"status", b"nothing"):
        answer = exchange(service, STATUS.replace(b"status", what), is_last=True)
        assert code_of(answer) in (0, 200, 404)
    # Their profiles end, so there is place for others.
    for _ in range(20):
        exchange(service, STATUS.replace(b"status", b"wall?seconds=300"), is_last=True)
    eventually(lambda: ask(service, "/debug/pprof/wall?seconds=0.01")[0] == 200, service)
    # The other half: who does not listen may still speak.
    with connect(service.place) as connection:
        connection.shutdown(socket.SHUT_RD)
        connection.sendall(STATUS)
        assert state(service)
    service.end_well()


COUNTING = """
import json, signal, sys, threading, rprof
count = signals = 0
is_over = False
def on_signal(number, frame):
    global signals
    assert threading.current_thread() is threading.main_thread()
    signals += 1
signal.signal(signal.SIGUSR1, on_signal)
def tell():
    global is_over
    for _ in sys.stdin:
        names = sorted(thread.name for thread in threading.enumerate())
        print(json.dumps([count, signals, names]), flush=True)
    is_over = True
threading.Thread(target=tell, name="teller").start()
print(rprof.serve().address, flush=True)
while not is_over:
    count += 1
"""


def test_the_program_goes_on_as_if_nothing_was(services):
    service = services(COUNTING)
    pid = service.process.pid
    names = ["MainThread", "teller"]
    quiet, signals, named = json.loads(service.tell(""))
    assert (signals, named) == (0, names)
    eventually(lambda: json.loads(service.tell(""))[0] > quiet, service)
    before = threads(pid)
    with Abuse(service.place) as abuse:
        for sent in range(1, 4):
            times, (count, _, _) = dict(abuse.times), json.loads(service.tell(""))
            eventually(lambda times=times: abuse.has_gone_round(times), service)
            service.process.send_signal(signal.SIGUSR1)
            eventually(lambda sent=sent: json.loads(service.tell(""))[1] == sent, service)
            later, _, named = json.loads(service.tell(""))
            assert later > count
            assert named == names
            # What it starts for the time being is limited, and deaf to the program's signals.
            mine = {task: name for task, name in threads(pid).items() if name.startswith("rprof")}
            assert len(mine) <= 10, mine
            for task in mine:
                with contextlib.suppress(OSError):
                    about = Path(f"/proc/{pid}/task/{task}/status").read_text()
                    blocked = int(re.search(r"SigBlk:\s+(\w+)", about)[1], 16)
                    assert blocked & 1 << (signal.SIGUSR1 - 1)
            assert state_in_the_crowd(service)["pid"] == pid
    eventually(lambda: sorted(threads(pid).values()) == sorted(before.values()), service)
    service.end_well()


OBEYING = """
import os, sys, rprof
endpoint = rprof.serve({address!r})
print(endpoint.address, flush=True)
child = 0
for line in sys.stdin:
    match line.strip():
        case "stop":
            endpoint.stop()
            print(rprof.status().endpoint)
        case "serve":
            endpoint = rprof.serve(endpoint.address)
            print(endpoint.address)
        case "fork":
            ends, begins = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(begins)
                print(rprof.status().endpoint, flush=True)
                # Until the parent lets go.
                os.read(ends, 1)
                sys.exit(0)
            os.close(ends)
            continue
        case "wait":
            os.close(begins)
            print(os.waitpid(child, 0)[1])
    sys.stdout.flush()
"""


def is_open(place: tuple[str, int]) -> bool:
    try:
        connect(place).close()
    except ConnectionRefusedError:
        return False
    # Accepted or not: somebody listens.
    except ConnectionError:
        return True
    return True


def rounds(abuse: Abuse, service: Service) -> Iterator[int]:
    """Go on when everybody has been at it."""
    for number in itertools.count():
        before = dict(abuse.times)
        eventually(lambda before=before: abuse.has_gone_round(before), service)
        yield number


def test_the_port_is_closed_after_stop_amid_abuse(services):
    service = services(OBEYING.format(address="127.0.0.1:0"))
    with Abuse(service.place) as abuse:
        for number in rounds(abuse, service):
            assert service.tell("stop") == ""
            assert not is_open(service.place)
            if number == 3:
                break
            assert service.tell("serve") == service.address
            assert state_in_the_crowd(service)
    service.end_well()


@pytest.mark.parametrize("is_fixed", [False, True], ids=["own", "none"])
def test_a_forked_child_does_not_keep_the_port_amid_abuse(services, is_fixed):
    service = services(OBEYING.format(address="127.0.0.1:0"))
    if is_fixed:
        # A port that was chosen: the child has no right to another one.
        service.tell("stop")
        service.tell("serve")
    with Abuse(service.place) as abuse:
        for number in rounds(abuse, service):
            own = service.tell("fork")
            assert own != service.address
            assert bool(own) is not is_fixed
            assert state_in_the_crowd(service)["pid"] == service.process.pid
            if number == 2:
                break
            assert service.tell("wait") == "0"
        # The child is there still, its parent's endpoint is not.
        assert service.tell("stop") == ""
        assert not is_open(service.place)
        if own:
            host, _, port = own.rpartition(":")
            assert is_open((host, int(port)))
        assert service.tell("wait") == "0"
        assert not own or not is_open((host, int(port)))
    service.end_well()


def test_the_port_is_closed_at_exit_amid_abuse(services):
    service = services(IDLE)
    with Abuse(service.place) as abuse:
        next(rounds(abuse, service))
        service.end_well()
        assert not is_open(service.place)
