"""The endpoint: what it answers while everything hangs, and whom it does not answer."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
import rprof
from serving import IDLE, PATIENCE, TOKEN
from support import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the direct engine needs Linux")

GO = shutil.which("go")

STUCK = """
import ctypes, threading, rprof
one, two = threading.Lock(), threading.Lock()
met = threading.Barrier(3)
def first():
    with one:
        met.wait()
        two.acquire()
def second():
    with two:
        met.wait()
        one.acquire()
for target in (first, second):
    threading.Thread(target=target, name=target.__name__, daemon=True).start()
met.wait()
print(rprof.serve().address, flush=True)
def hold():
    sum(range(10**15))
hold()
"""


def test_every_stack_while_two_threads_deadlock_and_a_third_keeps_the_gil(services):
    service = services(STUCK)
    places = "line 8, in program.first", "line 12, in program.second", "in program.hold"

    def dump() -> str:
        text = service.get("/debug/pprof/threads?debug=2")
        return text if all(place in text for place in places) else ""

    text = eventually(dump, "all three where they stay")
    blocks = {block.split('"')[1]: block for block in text.split("\n\n") if "File" in block}
    assert "waits for a lock" in blocks["first"].splitlines()[0]
    assert "waits for a lock" in blocks["second"].splitlines()[0]
    assert "two.acquire()" not in text, "no source is shown"
    for name, lock, holder in (("first", "two", "second"), ("second", "one", "first")):
        waits = blocks[name].splitlines()[-1]
        assert waits.startswith(f"  waits for Lock program.{lock}, held by Thread "), waits
        assert f'"{holder}" in program.{holder} (' in waits
    assert text.splitlines()[-1].startswith("deadlock: Thread ")
    assert "holds the GIL" in blocks["MainThread"].splitlines()[0]
    threads = json.loads(service.get("/debug/pprof/threads?format=json"))["threads"]
    states = {thread["name"]: thread["state"] for thread in threads}
    assert states == {
        "MainThread": "holds the GIL",
        "first": "waits for a lock",
        "second": "waits for a lock",
    }
    assert {thread["frames"][0]["line"] for thread in threads} >= {8, 12}
    assert "threads: 3" in service.get("/debug/pprof/threads?debug=1")


def test_a_profile_while_ten_threads_compute(services, programs):
    service = services(
        """
        import threading, rprof
        from burning import burn_one
        for number in range(10):
            threading.Thread(target=burn_one, args=(600,), daemon=True).start()
        print(rprof.serve().address, flush=True)
        threading.Event().wait()
        """
    )
    path = programs.directory / "got.pb.gz"
    with service.open("/debug/pprof/profile?seconds=1") as answer:
        assert answer.headers["Content-Type"] == "application/octet-stream"
        path.write_bytes(answer.read())
    profile = rprof.load(path)
    assert next(iter(profile.top(1, "cpu"))).name.startswith("burning.")
    assert len([t for t in profile.threads if t.totals["wall"] > 0.5e9]) >= 10
    assert profile.totals["gil"] > 0.5e9
    if GO is None:
        pytest.skip("Go's pprof is not installed")
    address = f"http://{service.address}/debug/pprof/profile?seconds=1"
    done = subprocess.run(
        [GO, "tool", "pprof", "-top", address],
        env={**os.environ, "PPROF_TMPDIR": str(programs.directory)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Type: cpu" in done.stdout
    assert "burning.burn" in done.stdout


def test_profiles_at_a_time_share_the_sampler_and_leave_no_thread(services):
    service = services(
        """
        import os, sys, rprof
        print(rprof.serve().address, flush=True)
        for line in sys.stdin:
            print(sorted(open(f"/proc/self/task/{t}/comm").read().strip()
                         for t in os.listdir("/proc/self/task")), flush=True)
        """
    )
    waiting = []
    for _ in range(4):
        connection = http.client.HTTPConnection(service.address, timeout=PATIENCE)
        connection.request("GET", "/debug/pprof/wall?seconds=2&rate=50")
        waiting.append(connection)
    # The fifth finds all places taken once the four have been read.
    while True:
        try:
            with service.open("/debug/pprof/wall?seconds=0.01"):
                continue
        except urllib.error.HTTPError as error:
            refused = error.code
            break
    assert refused == 429
    for connection in waiting:
        answer = connection.getresponse()
        assert answer.status == 200
        assert gzip.decompress(answer.read())
        connection.close()
    # A client that goes away in the middle ends its recording.
    connection = http.client.HTTPConnection(service.address, timeout=PATIENCE)
    connection.request("GET", "/debug/pprof/wall?seconds=300")
    connection.close()
    for _ in range(1000):
        service.process.stdin.write("\n")
        service.process.stdin.flush()
        if "rprof-sampler" not in service.process.stdout.readline():
            break
        service.get("/debug/pprof/status")
    else:
        pytest.fail("the sampler runs on")


def test_the_report_page(services):
    service = services(IDLE)
    with service.open("/debug/pprof/report?seconds=0.2") as answer:
        page = answer.read().decode()
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "default-src" not in answer.headers["Content-Security-Policy"]
    assert "default-src 'none'; script-src 'sha256-" in page.replace("&#x27;", "'")
    data = json.loads(
        page.partition('type="application/json"')[2].partition(">")[2].partition("<")[0]
    )
    profile = base64.b64decode(data["profiles"][0]["data"])
    assert gzip.decompress(profile)
    facts = data["profiles"][0]["facts"]
    assert {"name": "engine", "value": "direct"} in facts["texts"]
    assert {"name": "asked_hz", "unit": "Hz"}.items() <= facts["numbers"][0].items()


def test_state_for_scripts_and_for_prometheus(services):
    service = services(IDLE, RPROF_OUTPUT="none")
    status = json.loads(service.get("/debug/pprof/status"))
    assert status["pid"] == service.process.pid
    assert status["engine"] == "direct"
    assert status["counters"]["late"] == 0
    lines = service.get("/metrics").splitlines()
    kinds = {line.split()[2]: line.split()[3] for line in lines if line.startswith("# TYPE")}
    values = {line.split()[0]: float(line.split()[1]) for line in lines if line[0] != "#"}
    assert set(kinds) == set(values)
    assert kinds["rprof_sampler_cpu_seconds_total"] == "counter"
    assert "<script" not in service.get("/")
    assert "go tool pprof" in service.get("/debug/pprof/")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/debug/pprof/profile?seconds=0", 400),
        ("/debug/pprof/profile?seconds=-1", 400),
        ("/debug/pprof/profile?seconds=nan", 400),
        ("/debug/pprof/profile?seconds=1e9", 400),
        ("/debug/pprof/profile?rate=1e9", 400),
        ("/debug/pprof/profile?seconds=0.01&type=money", 400),
        ("/debug/pprof/threads?debug=3", 400),
        ("/debug/pprof/threads?format=xml", 400),
        ("/debug/pprof/cmdline", 403),
        ("/debug/pprof/../../etc/passwd", 404),
        ("/debug/pprof/%2e%2e/status", 404),
        ("/debug/pprof/status%00", 404),
        ("//debug/pprof/status", 404),
        ("/etc/passwd", 404),
    ],
)
def test_what_is_wrong_is_said_as_go_says_it(services, path, code):
    error = services(IDLE).refusal(path)
    assert error.code == code
    assert error.headers["X-Go-Pprof"] == "1"
    assert error.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert error.headers["X-Content-Type-Options"] == "nosniff"
    assert len(error.read().splitlines()) == 1


def test_other_names_for_this_machine_are_not_answered(services):
    service = services(IDLE)
    for host in ("example.org", "127.0.0.1.example.org", "", "localhost.example:80"):
        assert service.refusal("/debug/pprof/status", Host=host).code == 403
    assert json.loads(service.get("/debug/pprof/status", Host="localhost:1"))


def test_methods_other_than_get(services):
    service = services(IDLE)
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "HEAD"):
        connection = http.client.HTTPConnection(service.address, timeout=PATIENCE)
        connection.request(method, "/debug/pprof/status")
        assert connection.getresponse().status in (400, 404, 405), method
        connection.close()


def test_tokens(services):
    service = services(
        f"""
        import sys, rprof
        print(rprof.serve("127.0.0.1:0", token={TOKEN!r}).address, flush=True)
        sys.stdin.read()
        """
    )
    good = f"Bearer {TOKEN}"
    assert service.get("/debug/pprof/status", Authorization=good, Host="anything.example")
    for wrong in (None, "", "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}"):
        headers = {} if wrong is None else {"Authorization": wrong}
        assert service.refusal("/debug/pprof/status", **headers).code == 401


def test_whoever_sends_nothing_does_not_keep_others_out(services):
    service = services(IDLE)
    host, port = service.address.split(":")
    slow = [socket.create_connection((host, int(port)), PATIENCE) for _ in range(300)]
    for number, connection in enumerate(slow):
        # The oldest have been shown the door by the newest.
        try:
            connection.sendall(b"GET /debug/pprof/status HTTP/1.1\r\nHost: local" * (number % 2))
        except (BrokenPipeError, ConnectionResetError):
            continue
    status = json.loads(service.get("/debug/pprof/status"))
    assert status["connections_turned_away"] >= 250
    for connection in slow:
        connection.close()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 1_000 + b"\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"\0" * 1000,
        b"\r\n" * 1000,
    ],
    ids=["header", "headers", "path", "tls", "http2", "length", "space", "zeros", "lines"],
)
def test_malformed_requests_end_their_connection_and_nothing_else(services, request_bytes):
    service = services(IDLE)
    host, port = service.address.split(":")
    with socket.create_connection((host, int(port)), PATIENCE) as connection:
        try:
            connection.sendall(request_bytes)
            connection.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        except OSError:
            # The server has hung up, which is an answer too.
            answer = b""
    assert answer == b"" or answer.split()[1] in (b"400", b"414", b"431"), answer
    assert json.loads(service.get("/debug/pprof/status"))


def test_a_socket_for_its_owner_only(services, programs):
    path = programs.directory / "rprof.sock"
    services(
        f"""
        import sys, rprof
        print(rprof.serve("unix:{path}").address, flush=True)
        sys.stdin.read()
        """
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(str(path))
        connection.sendall(b"GET /debug/pprof/status HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200")


def test_it_opens_and_closes_and_leaves_nothing(programs):
    programs.check(
        """
        import os, socket, rprof
        def resources():
            return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))
        before = resources()
        def answers(address):
            host, port = address.split(":")
            try:
                socket.create_connection((host, int(port)), 60).close()
            except ConnectionRefusedError:
                return False
            return True
        for _ in range(20):
            with rprof.serve() as endpoint:
                assert rprof.status().endpoint == endpoint.address
                assert answers(endpoint.address)
                try: rprof.serve()
                except rprof.RprofStateError as error: assert "stop it first" in str(error)
                else: raise AssertionError
            assert rprof.status().endpoint == ""
            assert not answers(endpoint.address)
        assert resources() == before, (resources(), before)
        """
    )


def test_forks(programs):
    programs.check(
        """
        import os, sys, urllib.request, rprof
        def pid_at(address):
            import json
            url = f"http://{address}/debug/pprof/status"
            return json.load(urllib.request.urlopen(url, timeout=60))["pid"]
        endpoint = rprof.serve()
        for _ in range(10):
            child = os.fork()
            if child == 0:
                own = rprof.status().endpoint
                assert own and own != endpoint.address, own
                assert pid_at(own) == os.getpid()
                sys.exit(0)
            assert os.waitpid(child, 0)[1] == 0
            assert pid_at(endpoint.address) == os.getpid()
        port = endpoint.address.split(":")[1]
        endpoint.stop()
        fixed = rprof.serve(f"127.0.0.1:{port}")
        child = os.fork()
        if child == 0:
            sys.exit(rprof.status().endpoint != "")
        assert os.waitpid(child, 0)[1] == 0
        assert pid_at(fixed.address) == os.getpid()
        """,
        "-W",
        "error",
    )


def test_from_the_environment(services):
    service = services(
        """
        import sys, rprof, rprof.auto
        print(rprof.status().endpoint, flush=True)
        sys.stdin.read()
        """,
        RPROF_SERVE="127.0.0.1:0",
        RPROF_OUTPUT="none",
    )
    status = json.loads(service.get("/debug/pprof/status"))
    assert status["pid"] == service.process.pid


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("'6060'", "is no address"),
        ("'0.0.0.0:0'", "other machines"),
        ("'0.0.0.0:0', allow_remote=True", "other machines"),
        ("'0.0.0.0:0', token='x' * 16", "other machines"),
        ("token='short'", "at least 16"),
        ("'unix:relative'", "absolute path"),
        ("'unix:/nonexistent/directory/s'", "cannot listen"),
        ("'192.0.2.1:80', allow_remote=True, token='x' * 16", "cannot listen"),
        ("7", "must be text"),
    ],
)
def test_addresses_that_cannot_be(programs, arguments, said):
    out = programs.check(
        f"""
        import rprof
        try: rprof.serve({arguments})
        except rprof.RprofError as error: print(error)
        """
    )
    assert said in out


WORKING = f"""
import sys, threading, rprof
from burning import burn_one, burn_two
rprof.start("out/", rate=500, max_overhead=1.0)
stop = threading.Event()
def serve():
    while not stop.is_set():
        with rprof.request("GET /wanted", route="/wanted"): burn_one(0.01)
        with rprof.request("GET /other", route="/other"): burn_two(0.005)
thread = threading.Thread(target=serve, name="worker")
thread.start()
print(rprof.serve("127.0.0.1:0", token={TOKEN!r}).address, flush=True)
sys.stdin.read()
stop.set()
thread.join()
"""
SHOWN = {"Authorization": f"Bearer {TOKEN}"}


def test_the_next_requests_of_a_route_by_post(services, programs):
    service = services(WORKING)
    request = urllib.request.Request(
        f"http://{service.address}/debug/pprof/next?count=5&route=/wanted&rate=1000",
        method="POST",
        headers=SHOWN,
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        assert answer.headers["X-Rprof-Requests"] == "5/5"
        (programs.directory / "next.pb.gz").write_bytes(answer.read())
    profile = rprof.load(programs.directory / "next.pb.gz")
    names = {row.name for row in profile.top(100)}
    assert "burning.burn_one" in names
    assert "burning.burn_two" not in names
    assert profile.labels()["route"] == ["/wanted"]
    request.full_url = f"http://{service.address}/debug/pprof/next?route=/never&seconds=0.1"
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=PATIENCE)
    assert caught.value.code == 504
    assert "of /never" in caught.value.read().decode()
    # What was given up makes room for others.
    for _ in range(20):
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(request, timeout=PATIENCE)


def test_control_needs_a_token_and_post(services):
    service = services(IDLE)
    request = urllib.request.Request(f"http://{service.address}/debug/pprof/next", method="POST")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=PATIENCE)
    assert caught.value.code == 403
    assert service.refusal("/debug/pprof/next").code == 405


def test_the_last_minutes(services, programs):
    service = services(WORKING)

    def last() -> bytes:
        return gzip.decompress(service.open("/debug/pprof/profile?last=60", **SHOWN).read())

    eventually(lambda: b"burn_one" in last(), "samples of the work")
    page = service.get("/debug/pprof/report", **SHOWN)
    assert "<html" in page[:200]
    refusal = service.refusal("/debug/pprof/profile?last=-1", **SHOWN)
    assert (refusal.code, "last=" in refusal.read().decode()) == (400, True)


def test_nothing_keeps_the_last_minutes_unless_it_is_started(services):
    service = services(IDLE)
    refusal = service.refusal("/debug/pprof/report")
    assert (refusal.code, "rprof.start()" in refusal.read().decode()) == (503, True)


def test_metrics_of_requests_and_of_the_gil(services):
    service = services(WORKING)

    def value(name: str) -> float:
        lines = service.get("/metrics", **SHOWN).splitlines()
        found = [float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + " ")]
        return found[0] if found else 0.0

    count = 'rprof_request_seconds_count{route="/wanted"}'
    eventually(lambda: value(count) >= 3, "three requests")
    assert 0 < value('rprof_request_seconds{route="/wanted",quantile="0.5"}') < 60
    eventually(lambda: value("rprof_gil_held_seconds_total") >= 0.05, "ticks with the GIL held")
    assert "\nrprof_gil_wait_seconds_total " in service.get("/metrics", **SHOWN)


def test_dumps_tell_labels_and_since_when(services):
    service = services(
        """
        import sys, threading, rprof
        rprof.start("out/", rate=200)
        def wait():
            with rprof.labels(route="/stuck"): threading.Event().wait()
        threading.Thread(target=wait, name="stuck", daemon=True).start()
        print(rprof.serve().address, flush=True)
        sys.stdin.read()
        """
    )

    def stuck() -> dict:
        threads = json.loads(service.get("/debug/pprof/threads?format=json"))["threads"]
        return next(thread for thread in threads if thread["name"] == "stuck")

    eventually(lambda: stuck()["labels"] == {"route": "/stuck"}, "the thread under its labels")
    eventually(lambda: (stuck()["standing_seconds"] or 0) >= 0.3, "it has stood for a while")
    text = service.get("/debug/pprof/threads?debug=2")
    line = next(line for line in text.splitlines() if '"stuck"' in line)
    assert "waits for a lock for " in line
    assert "[route=/stuck]" in line
