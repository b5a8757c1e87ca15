"""What the middleware costs: requests with and without it, in turns, in one run.

Run:  python benches/middleware.py [--quick] [--json FILE]      (needs flask, starlette, gunicorn,
uvicorn)
      python benches/middleware.py --baseline WHEEL      beside another build of rprof, in turns

The view returns at once, which is the worst case: any real one makes the part of the middleware
smaller. rprof samples at 100 Hz with and without it.

In process: the WSGI or ASGI callable is called in a loop, without server or client, and the CPU
time of the thread is what counts, so that other load on the machine does not. The requests go
through all of Flask or Starlette and nothing else.

Over sockets: gunicorn (one gthread worker) or uvicorn, one process that serves the application with
and without; two processes of the same program differ by more than what is looked for. For the same
reason it is begun anew several times. A client sends requests over one connection, one after the
other, or over 16, of which each sends its next when all have their answers. What counts is the time
that passes, client and kernel included, so other load does disturb.

A pair is a batch without and a batch with, in changing order. The table has microseconds for a
request, how much more they are, and the throughput with in percent of that without, with a 95 %
confidence interval: medians over all pairs in process, and over sockets medians over the servers of
their medians. `nothing` compares without to without: what differs there is chance.

What one process cannot show: the interpreter adapts the code of a framework to the objects that it
meets, and here it meets those of both.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import math
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers
import rprof

Builds = dict[str, dict[str, str]]
Pairs = list[tuple[float, float]]
# By build and kind; the empty name is the installed build.
Found = dict[tuple[str, str], Pairs]

KINDS: dict[str, dict[str, Any] | None] = {
    "nothing": None,
    "middleware": {},
    "slow_after=2.0": {"slow_after": 2.0},
}
TRIED = list(KINDS)[1:]
GOAL = 97.0
CONNECTIONS = (1, 16)
VARIABLE = "BENCH_MIDDLEWARE"


def flask_application(options: dict[str, Any] | None) -> Any:
    import flask

    app = flask.Flask(__name__)
    app.add_url_rule("/items/<int:number>", "items", lambda **_: "done")
    if options is not None:
        import rprof.middleware.flask

        rprof.middleware.flask.init_app(app, **options)
    return app


def starlette_application(options: dict[str, Any] | None) -> Any:
    from rprof.middleware.asgi import ASGIMiddleware
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def items(_: Any) -> PlainTextResponse:
        return PlainTextResponse("done")

    route: Any = Route("/items/{number:int}", items)
    if options is None:
        # The middleware wraps that of the class, for all applications of the program.
        route.handle = getattr(Route.handle, "__wrapped__", Route.handle).__get__(route)
    app = Starlette(routes=[route])
    if options is not None:
        app.add_middleware(ASGIMiddleware, **options)
    return app


FRAMEWORKS = {"flask": flask_application, "starlette": starlette_application}


def call_wsgi(app: Any, count: int) -> float:
    environ = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/items/7",
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    told: list[str] = []

    def start_response(status: str, _: Any, __: Any = None) -> None:
        told[:] = [status]

    began = time.thread_time()
    for _ in range(count):
        answer = app(dict(environ), start_response)
        body = b"".join(answer)
        if hasattr(answer, "close"):
            answer.close()
    passed = time.thread_time() - began
    assert (told, body) == (["200 OK"], b"done")
    return passed / count


def call_asgi(app: Any, count: int) -> float:
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/items/7",
        "raw_path": b"/items/7",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost")],
        "server": ("localhost", 80),
    }
    told: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        told.append(message)

    async def run() -> float:
        began = time.thread_time()
        for _ in range(count):
            told.clear()
            await app(dict(scope), receive, send)
        return time.thread_time() - began

    passed = asyncio.run(run())
    assert (told[0]["status"], told[1]["body"]) == (200, b"done")
    return passed / count


COMMANDS = {
    "flask": "-m gunicorn --worker-class gthread --threads 1 --keep-alive 60 --log-level "
    "warning --bind fd://{fd} middleware:served",
    "starlette": "-m uvicorn --log-level warning --no-access-log --fd {fd} middleware:served",
}


class Server:
    """A server of all kinds in a process of its own, and connections to it."""

    def __init__(self, framework: str, connections: int, variables: dict[str, str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            command = COMMANDS[framework].format(fd=listener.fileno()).split()
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=Path(__file__).parent,
                env=os.environ | variables | {VARIABLE: framework},
                pass_fds=[listener.fileno()],
            )
            address = listener.getsockname()
            self.connections = [
                socket.create_connection(address, timeout=60) for _ in range(connections)
            ]
        for connection in self.connections:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def call(self, kind: str, count: int) -> float:
        path = f"/items/{list(KINDS).index(kind)}"
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        rounds = max(1, count // len(self.connections))
        began = time.perf_counter()
        for _ in range(rounds):
            for connection in self.connections:
                connection.sendall(request)
            for connection in self.connections:
                receive(connection)
        return (time.perf_counter() - began) / (rounds * len(self.connections))

    def end(self) -> None:
        for connection in self.connections:
            connection.close()
        self.process.terminate()
        self.process.wait(60)


def receive(connection: socket.socket) -> None:
    answer = b""
    while not answer.endswith(b"done"):
        # gunicorn sends head and body apart, and would wait for this to be acknowledged.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        part = connection.recv(65536)
        if not part:
            raise SystemExit(f"the server has closed the connection after {answer!r}")
        answer += part


def served_by_number(framework: str) -> Any:
    """Return an application whose path chooses with what it is served: /items/0 has nothing."""
    applications = [FRAMEWORKS[framework](options) for options in KINDS.values()]

    def of(path: str) -> Any:
        return applications[int(path.rpartition("/")[2])]

    def wsgi(environ: dict[str, Any], start_response: Any) -> Any:
        return of(environ["PATH_INFO"])(environ, start_response)

    async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await of(scope.get("path", "0"))(scope, receive, send)

    return wsgi if framework == "flask" else asgi


def over_sockets(
    framework: str, connections: int, options: argparse.Namespace, builds: Builds
) -> Found:
    """Of each build and kind, seconds for a request without and with it: a pair a server."""
    found: Found = {}
    for _ in range(options.servers):
        for build, variables in builds.items():
            server = Server(framework, connections, variables)
            try:
                for kind in KINDS:
                    served = pairs(
                        lambda count, server=server: server.call("nothing", count),
                        lambda count, kind=kind, server=server: server.call(kind, count),
                        options.requests,
                        options.pairs,
                    )
                    without, other = zip(*served, strict=True)
                    medians = (statistics.median(without), statistics.median(other))
                    found.setdefault((build, kind), []).append(medians)
            finally:
                server.end()
    return found


def in_process(framework: str, options: argparse.Namespace) -> Found:
    """The same in this process, one pair a batch."""
    rprof.start(None, rate=100)
    make = FRAMEWORKS[framework]
    call = call_wsgi if framework == "flask" else call_asgi
    without = make(None)
    found: Found = {}
    for kind, chosen in KINDS.items():
        other = make(chosen)
        found["", kind] = pairs(
            lambda count: call(without, count),
            lambda count, app=other: call(app, count),
            16 * options.requests,
            options.pairs,
        )
    rprof.stop()
    return found


def in_processes(framework: str, options: argparse.Namespace, builds: Builds) -> Found:
    """As `in_process`, of each build in a process of its own, three times in turns."""
    found: Found = {}
    for _ in range(3):
        for build, variables in builds.items():
            command = [sys.executable, __file__, "--in-process", framework]
            command += [f"--pairs={options.pairs}", f"--requests={options.requests}"]
            done = subprocess.run(
                command,
                env=os.environ | variables,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            for kind, pairs in json.loads(done.stdout).items():
                found.setdefault((build, kind), []).extend(map(tuple, pairs))
    return found


def pairs(
    without: Callable[[int], float], other: Callable[[int], float], count: int, number: int
) -> Pairs:
    """Seconds for a request, of `number` pairs of batches of `count` requests."""
    without(count)
    other(count)
    found = []
    for turn in range(number):
        if turn % 2:
            one = without(count)
            found.append((one, other(count)))
        else:
            two = other(count)
            found.append((without(count), two))
    return found


def interval(values: list[float]) -> tuple[float, float]:
    """The 95 % confidence interval of the median, whatever the distribution (order statistics).

    Of fewer than six values it is their range, which is less sure.
    """
    ordered, number = sorted(values), len(values)
    below, place = 0.0, 0
    while place < number // 2:
        below += math.comb(number, place) / 2**number
        if below > 0.025:
            break
        place += 1
    place = max(place - 1, 0)
    return ordered[place], ordered[number - 1 - place]


def rows_of(where: str, framework: str, found: Found) -> list[dict[str, Any]]:
    rows = [
        row(where, framework, f"{build} {kind}".strip(), pairs)
        for (build, kind), pairs in found.items()
    ]
    more = {row["compared"]: row["us more"] for row in rows}
    for row_ in rows:
        base = more.get(f"baseline {row_['compared']}", 0.0)
        if row_["compared"] != "nothing" and base > 0:
            row_["ratio"] = row_["us more"] / base
            print(f"{'':47}{row_['ratio']:20.2f} of the baseline's {row_['compared']}")
    return rows


def row(where: str, framework: str, kind: str, found: Pairs) -> dict[str, Any]:
    low, high = interval([100 * one / two for one, two in found])
    figures = {
        "where": where,
        "framework": framework,
        "compared": kind,
        "us without": 1e6 * statistics.median(one for one, _ in found),
        "us with": 1e6 * statistics.median(two for _, two in found),
        "us more": 1e6 * statistics.median(two - one for one, two in found),
        "throughput percent": statistics.median(100 * one / two for one, two in found),
        "low": low,
        "high": high,
        "medians of": len(found),
    }
    print(
        f"{where:12}{framework:11}{kind:24}{figures['us without']:10.1f}{figures['us more']:10.2f}"
        f"{figures['throughput percent']:9.1f} % ({low:.1f} to {high:.1f})",
        flush=True,
    )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=60, help="of batches, of each kind (60)")
    parser.add_argument(
        "--requests",
        type=int,
        default=64,
        help="in a batch over sockets; 16 times that in process (64)",
    )
    parser.add_argument("--servers", type=int, default=12, help="begun one after the other (12)")
    parser.add_argument("--quick", action="store_true", help="few pairs of small batches")
    parser.add_argument("--baseline", metavar="WHEEL", type=Path, help="another build of rprof")
    parser.add_argument("--json", metavar="FILE", help="write the figures there as well")
    parser.add_argument("--in-process", choices=FRAMEWORKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.pairs, options.requests, options.servers = 10, 64, 2
    if options.in_process:
        found = in_process(options.in_process, options)
        print(json.dumps({kind: pairs for (_, kind), pairs in found.items()}))
        return
    load = os.getloadavg()[0]
    print(f"CPython {platform.python_version()}, load average {load:.1f} before the run")
    print(f"{'':47}{'µs':>10}{'µs more':>10}{'throughput':>11}")
    rows = []
    with contextlib.ExitStack() as stack:
        builds: Builds = {"": {}}
        if options.baseline:
            builds["baseline"] = stack.enter_context(peers.unpacked(options.baseline))
        for framework in FRAMEWORKS:
            found = in_processes(framework, options, builds)
            rows += rows_of("in process", framework, found)
        for framework in FRAMEWORKS:
            for connections in CONNECTIONS:
                found = over_sockets(framework, connections, options, builds)
                where = f"{connections} socket" + "s" * (connections > 1)
                rows += rows_of(where, framework, found)
    missed = [r for r in rows if r["compared"] in TRIED and r["high"] < GOAL]
    print(f"\nThe goal is {GOAL:g} % of the throughput or more. It is missed, beyond chance, in")
    print(
        "\n".join(f"  {r['where']}: {r['framework']}, {r['compared']}" for r in missed) or "  none"
    )
    if options.json:
        figures = {
            "benchmark": "middleware",
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
            "load": load,
            "requests": options.requests,
            "pairs": options.pairs,
            "servers": options.servers,
            "goal percent": GOAL,
            "rows": rows,
        }
        Path(options.json).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if VARIABLE in os.environ:
    rprof.start(None, rate=100)
    served = served_by_number(os.environ[VARIABLE])

if __name__ == "__main__":
    main()
