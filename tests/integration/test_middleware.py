"""The middleware: routes, labels, slow requests, answers that stream, and no harm done."""

from __future__ import annotations

import base64
import importlib.util
import json
import shutil
import subprocess

import pytest
import rprof
from middleware_apps import APPLICATIONS, MODULES, PATTERNS, text
from rprof.errors import RprofTypeError, RprofValueError
from rprof.middleware import Options
from rprof.middleware._options import generic_route
from rprof.middleware.paste import filter_factory
from support import ENGINE

GO = shutil.which("go")
SECRET = "a-secret-that-nobody-guesses"
NO_ROUTE = "(no route)"


def needs(name: str):
    module = MODULES.get(name)
    is_here = module is None or importlib.util.find_spec(module) is not None
    return pytest.param(
        name, marks=pytest.mark.skipif(not is_here, reason=f"{module} is not installed")
    )


ALL = [needs(name) for name in APPLICATIONS]
BY_WSGI = [needs(name) for name in ("wsgi", "flask", "django")]


@pytest.fixture
def run(programs):
    """Runs a program beside an application; returns what it printed, as data."""

    def run(name: str, code: str, **options: object) -> object:
        (programs.directory / "application.py").write_text(text(name), encoding="utf-8")
        done = programs.run(code, MIDDLEWARE=json.dumps(options))
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


ROUTES = """
import json, rprof
from application import call
for path in PATHS: call(path)
with rprof.profile("x.pb.gz", rate=1000, max_overhead=1.0, engine=ENGINE):
    for number in range(10): assert call(f"/items/{number}") [0] == 200
assert call("/nothing/here")[0] == 404
assert rprof.current_labels() == {}
print(json.dumps({row.route: row.ended for row in rprof.routes() if row.ended}))
"""


@pytest.mark.parametrize("name", ALL)
def test_routes_and_labels(programs, run, name):
    route = f"/items/{PATTERNS[name]}"
    code = ROUTES.replace("PATHS", "['/fast']").replace("ENGINE", repr(ENGINE))
    ended = run(name, code)
    unknown = "/nothing/here" if name in ("wsgi", "asgi") else NO_ROUTE
    assert ended == {"/fast": 1, route: 10, unknown: 1}
    profile = rprof.load(programs.directory / "x.pb.gz").only_stacks(focus=r"\.work$")
    assert profile.totals["cpu"] > 0.1e9
    labelled = profile.only_labels(route=route)
    # A sampler that gets no CPU in the middle of a look gives the labels up.
    assert labelled.totals["wall"] >= 0.98 * profile.totals["wall"]
    if name == "starlette":
        # Another middleware's own labels are there as well.
        assert labelled.labels()["tenant"] == ["acme"]
    if GO is not None and name in ("wsgi", "fastapi"):
        done = subprocess.run(
            [GO, "tool", "pprof", "-tags", str(programs.directory / "x.pb.gz")],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert route in done.stdout.partition(" route: ")[2]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        pytest.param(
            "fastapi",
            {
                "/outer/acme/inner/items/3": "/outer/{tenant}/inner/items/{n}",
                "/below/acme/inner/items/4": "/below/{tenant}/inner/items/{n}",
            },
            marks=needs("fastapi").marks,
        ),
        pytest.param(
            "starlette",
            {"/of/acme/items/3": "/of/{tenant}/items/{n:int}", "/files/a/b": "/files/{path}"},
            marks=needs("starlette").marks,
        ),
        ("asgi", {"/a/0f5d3c2e-8b7a-4c1d-9e2f-001122334455/b": "/a/{}/b"}),
        pytest.param(
            "django",
            {"/later/3": "/later/<int:n>", "/file": "/file"},
            marks=needs("django").marks,
        ),
        pytest.param("django-asgi", {"/later/3": "/later/<int:n>"}, marks=needs("django").marks),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_routes_of_what_is_nested_or_async(run, name, found):
    code = """
    import json, rprof
    from application import call
    for path in PATHS: assert call(path)[0] == 200
    print(json.dumps([row.route for row in rprof.routes() if row.ended]))
    """.replace("PATHS", repr(list(found)))
    assert set(run(name, code)) == set(found.values())


SLOW = """
import json, logging, threading, rprof
from application import call, looked
from burning import burn
records, told, done = [], threading.Event(), threading.Event()
# The first request may take long: a framework imports what it needs.
call("/fast")
class Keep(logging.Handler):
    def emit(self, record):
        records.append([record.getMessage(), record.rprof])
        if "profile" in record.rprof: told.set()
        else: looked.set()
logging.getLogger("rprof.slow").addHandler(Keep())
def other():
    while not done.is_set(): burn(0.01)
beside = threading.Thread(target=other)
beside.start()
call("/fast")
call("/slow", "token=private")
call("/fast")
assert told.wait(60)
done.set()
beside.join()
print(json.dumps(records))
"""


@pytest.mark.parametrize("name", ALL)
def test_a_slow_request_is_told_and_its_profile_written(programs, run, name):
    records = run(name, SLOW, slow_after=0.5, repeat=0)
    assert len(records) == 2, records
    (look, looked), (end, ended) = records
    assert "GET /slow" in look
    assert "application.slow" in looked["stack"]
    assert "GET /slow" in end
    assert "private" not in look + end
    assert looked["route"] == ended["route"] == "/slow"
    profile = rprof.load(programs.directory / ended["profile"])
    assert "/slow" in (routes := profile.labels()["route"])
    assert set(routes) <= {"/slow", NO_ROUTE}
    stacks = [[frame.name for frame in frames] for frames, _ in profile.stacks()]
    # The view, and a little before and behind it.
    inside = profile.only_stacks(focus=r"^application\.slow$").totals["wall"]
    assert inside >= 0.8 * profile.totals["wall"]
    assert not any("program.other" in frames for frames in stacks)


STREAM = """
import json, rprof
import application
from application import call, between, steps
closed = getattr(application, "closed", [])
for _ in range(2):
    status, body = call(PATH)
    assert (status, body) == (200, b"part" * 3), (status, body)
assert rprof.current_labels() == {}
(row,) = [row for row in rprof.routes() if row.ended]
print(json.dumps([steps, between, closed, row.ended, row.under_way]))
"""


@pytest.mark.parametrize("name", ALL)
def test_an_answer_that_streams_belongs_to_its_request(run, name):
    steps, between, closed, ended, under_way = run(name, STREAM.replace("PATH", "'/stream'"))
    assert steps == ["/stream"] * 6
    if name in ("wsgi", "flask"):
        # What the server does with the first part of each answer is part of the request.
        assert [labels["route"] for labels in between[::3]] == ["/stream"] * 2
        del between[::3]
    # Else the route is not the server's; what a generator leaves in force between its steps is.
    assert not any("route" in labels for labels in between), between
    assert set(closed) <= {"/stream"}
    assert (ended, under_way) == (2, 0)


@pytest.mark.parametrize("name", [needs("django-asgi")])
def test_an_async_answer_of_django(run, name):
    steps, between, *_ = run(name, STREAM.replace("PATH", "'/stream-later'"))
    assert steps == ["/stream-later"] * 6
    assert not any(between), between


@pytest.mark.parametrize("name", BY_WSGI)
def test_a_client_that_goes_away(run, name):
    code = """
    import json, rprof
    from application import application, closed, request
    environ, start_response, _ = request("/stream")
    answer = application(environ, start_response)
    assert next(iter(answer)) == b"part"
    (row,) = [row for row in rprof.routes() if row.under_way]
    assert row.route == "/stream"
    answer.close()
    assert rprof.current_labels() == {}
    assert closed == ["/stream"], closed
    answer.close()
    print(json.dumps([row.under_way for row in rprof.routes()]))
    """
    assert set(run(name, code)) == {0}


@pytest.mark.parametrize("name", ALL)
def test_an_exception_passes_unchanged(run, name):
    code = """
    import json, rprof
    from application import call, trouble
    for _ in range(2):
        try:
            call("/fail")
        except BaseException as error:
            assert error is trouble, error
        else:
            raise AssertionError("nothing was raised")
    assert rprof.current_labels() == {}
    print(json.dumps([row[:3] for row in rprof.routes() if row.ended or row.under_way]))
    """
    assert run(name, code) == [["/fail", 2, 0]]


ON_DEMAND = """
import json, rprof
from application import call
many = "&".join(f"a{number}=1" for number in range(200)) + "&rprof="
print(json.dumps([
    [status, body.decode()]
    for status, body in (
        call("/items/7", query)
        for query in ("rprof=SECRET", "rprof=wrong", "rprof=", "rprof=%C3%A4", many, "")
    )
]))
"""


@pytest.mark.parametrize("name", ALL)
def test_one_request_on_demand(programs, run, name):
    code = ON_DEMAND.replace("SECRET", SECRET)
    (status, page), *others = run(name, code, on_demand=SECRET)
    assert status == 200
    assert page.startswith("<!doctype html>")
    assert "GET /items/7" in page
    data = page.partition('type="application/json"')[2].partition(">")[2].partition("<")[0]
    path = programs.directory / "one.pb.gz"
    path.write_bytes(base64.b64decode(json.loads(data)["profiles"][0]["data"]))
    profile = rprof.load(path)
    assert any(row.name == "burning.burn" for row in profile.top(100))
    route = f"/items/{PATTERNS[name]}"
    # What came before the route was found is part of it.
    assert route in (routes := profile.labels()["route"])
    assert set(routes) <= {route, NO_ROUTE}
    assert {status for status, _ in others} == {200}
    assert {body.strip('"') for _, body in others} == {"done"}


@pytest.mark.parametrize("name", ALL)
def test_on_demand_is_off_by_default(run, name):
    answers = run(name, ON_DEMAND.replace("SECRET", SECRET))
    assert {body.strip('"') for _, body in answers} == {"done"}


NEXT = """
import json, rprof
from application import call, serve
paths = [f"/r3/{k}" if k % 5 == 0 else f"/r{k % 20}/{k}" for k in range(1000)]
capture = rprof.profile_next(100, route=ROUTE, rate=1000, max_overhead=1.0)
serve(paths)
assert capture.done
profile = capture.result(timeout=60)
print(json.dumps([
    capture.count, len(capture.durations), profile.labels()["route"], profile.totals["samples"],
    sum(row.ended for row in rprof.routes()),
    [row.ended for row in rprof.routes() if row.route == ROUTE],
]))
"""


@pytest.mark.parametrize("name", ALL)
def test_the_next_requests_of_a_route_and_no_others(run, name):
    route = f"/r3/{PATTERNS[name]}"
    code = NEXT.replace("ROUTE", repr(route))
    count, durations, routes, samples, ended, of_route = run(name, code)
    assert (count, durations, routes) == (100, 100, [route])
    assert samples > 0
    assert ended == 1000
    # A fifth of them, and one in twenty of those of other numbers.
    assert of_route == [250]


def test_scopes_that_are_no_requests_pass_untouched(programs):
    programs.check(
        """
        import asyncio, rprof
        from rprof.middleware.asgi import ASGIMiddleware
        seen = []
        async def application(*args): seen.append(args)
        async def receive(): pass
        async def send(message): pass
        wrapped = ASGIMiddleware(application, slow_after=1.0, on_demand=lambda scope: True)
        for kind in ("websocket", "lifespan", "something new"):
            scope = {"type": kind, "path": "/", "query_string": b"rprof=1"}
            before = dict(scope)
            asyncio.run(wrapped(scope, receive, send))
            assert seen[-1][0] is scope and seen[-1][1] is receive and seen[-1][2] is send
            assert scope == before
        assert rprof.routes() == []
        """
    )


@pytest.mark.parametrize("name", [needs("starlette"), needs("fastapi")])
def test_the_scope_of_the_server_has_what_the_router_found(run, name):
    code = """
    import json
    from application import call, scopes
    call("/items/3")
    print(json.dumps([str(scopes[0]["path_params"]["n"]), "endpoint" in scopes[0]]))
    """
    assert run(name, code) == ["3", True]


@pytest.mark.parametrize("name", [needs("starlette")])
def test_a_router_is_served_the_scope_of_the_server(run, name):
    code = """
    import asyncio, gc, json, logging, weakref, rprof
    from rprof.middleware.asgi import ASGIMiddleware
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Host, Mount, Route
    served, told = [], []
    class Told(logging.Handler):
        def emit(self, record): told.append(record.getMessage())
    logging.getLogger("rprof").addHandler(Told())
    class Scope(dict): pass
    class Odd(Route):
        path = property(lambda self: 1 / 0 if served else "/odd", lambda self, value: None)
    class Own(Route):
        async def handle(self, scope, receive, send): await self.app(scope, receive, send)
    async def view(request):
        served.append(request.scope)
        return PlainTextResponse("done")
    inner = Starlette(routes=[Route("/x/{n:int}", view)])
    inner.add_middleware(ASGIMiddleware)
    outer = Starlette(routes=[
        Host("other", app=inner), Route("/x/{n}", view), Mount("/of/{tenant}", app=inner),
        Odd("/odd", view), Own("/own/{n}", view),
    ])
    outer.add_middleware(ASGIMiddleware, route=lambda scope: "mine" if "mine" in scope else None)
    outer.add_middleware(ASGIMiddleware)
    async def receive(): return {"type": "http.request", "body": b"", "more_body": False}
    async def send(message): pass
    def call(path, host=b"here", **more):
        scope = Scope(type="http", method="GET", path=path, root_path="", query_string=b"",
                      headers=[(b"host", host)], **more)
        asyncio.run(outer(scope, receive, send))
        assert served.pop() is scope
        return weakref.ref(scope)
    routes = lambda: {row.route: row.ended for row in rprof.routes() if row.ended}
    found = []
    gc.disable()
    for path, host in (
        ("/x/1", b""), ("/of/acme/x/3", b""), ("/x/4", b"other"), ("/own/5", b""),
    ):
        before = routes()
        # Nothing of ours is in a circle with it.
        assert call(path, host)() is None
        found.append({route: ended - before.get(route, 0) for route, ended in routes().items()
                      if ended != before.get(route, 0)})
    call("/x/1", mine=True)
    assert routes()["mine"] == 1 and not told
    served.append(None)
    call("/odd")
    # A request is served though its route cannot be told.
    print(json.dumps([found, told]))
    """
    assert run(name, code) == [
        [
            {"/x/{n}": 2},
            {"/of/{tenant}/x/{n:int}": 2, "/x/{n:int}": 1},
            {"/x/{n:int}": 3},
            {"/own/{n}": 2},
        ],
        ["the route of a request cannot be told"],
    ]


@pytest.mark.parametrize("name", [needs("django")])
def test_files_are_left_to_the_server(run, name):
    code = """
    import json, rprof
    from application import application, request
    class Wrapper:
        def __init__(self, file, size=8192): self.file = file
        def __iter__(self): return iter(lambda: self.file.read(8192), b"")
        def close(self): self.file.close()
    environ, start_response, _ = request("/file", **{"wsgi.file_wrapper": Wrapper})
    answer = application(environ, start_response)
    assert type(answer) is Wrapper
    assert b"urlpatterns" in b"".join(answer)
    answer.close()
    assert answer.file.closed
    print(json.dumps([row[:3] for row in rprof.routes() if row.ended or row.under_way]))
    """
    assert run(name, code) == [["/file", 1, 0]]


def test_what_a_wsgi_server_gets(programs):
    programs.check(
        """
        import io, rprof
        from rprof.middleware.wsgi import WSGIMiddleware
        class Wrapper:
            def __init__(self, file): pass
        lasting = [[b"a"], (b"a",), io.BytesIO(b"a"), Wrapper(None)]
        for answer in lasting:
            application = WSGIMiddleware(lambda environ, start_response: answer)
            assert application({"wsgi.file_wrapper": Wrapper}, None) is answer
        # A file belongs to its request until the server has closed it.
        assert [row.under_way for row in rprof.routes()] == [1]
        lasting[2].close()
        class Broken:
            closed = 0
            def __iter__(self): raise ZeroDivisionError
            def close(self): self.closed += 1
        broken = Broken()
        try:
            WSGIMiddleware(lambda *_: broken)({}, None)
        except ZeroDivisionError:
            pass
        assert broken.closed == 1
        class Late(Broken):
            def __iter__(self):
                yield b"a"
                raise ZeroDivisionError
        late = Late()
        answer = WSGIMiddleware(lambda *_: late)({}, None)
        parts = iter(answer)
        assert next(parts) == b"a"
        try:
            next(parts)
        except ZeroDivisionError:
            pass
        assert rprof.current_labels() == {}
        answer.close()
        answer.close()
        assert late.closed == 1
        empty = WSGIMiddleware(lambda *_: iter(()))({}, None)
        assert list(empty) == []
        empty.close()
        # A server that breaks the rules and closes nothing leaves no request behind.
        answer = WSGIMiddleware(lambda *_: late)({}, None)
        del answer
        assert rprof.current_labels() == {}
        # Not even if it is an exception that has it go, which goes on.
        def break_off():
            for part in WSGIMiddleware(lambda *_: Late(), slow_after=0.0)({}, None):
                raise ZeroDivisionError("kept")
        try:
            break_off()
        except ZeroDivisionError as error:
            assert str(error) == "kept"
        else:
            raise SystemExit("it was lost")
        assert [row.under_way for row in rprof.routes()] == [0]
        """
    )


def test_functions_of_the_application_that_fail(programs):
    done = programs.run(
        """
        import rprof
        from rprof.middleware.wsgi import WSGIMiddleware
        def fail(environ): raise ZeroDivisionError
        application = WSGIMiddleware(lambda *_: [b"a"], route=fail, on_demand=fail)
        environ = {"PATH_INFO": "/a/1", "QUERY_STRING": "rprof=x"}
        assert application(environ, None) == [b"a"]
        application = WSGIMiddleware(lambda *_: [b"a"], route=lambda environ: None)
        assert application(environ, None) == [b"a"]
        application = WSGIMiddleware(lambda *_: [b"a"], route=lambda environ: "mine")
        assert application(environ, None) == [b"a"]
        assert {row.route: row.ended for row in rprof.routes()} == {"/a/{}": 2, "mine": 1}
        """
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"on_demand": "short"}, RprofValueError),
        ({"on_demand": "ä" * 20}, RprofValueError),
        ({"on_demand": True}, RprofTypeError),
        ({"route": "/x"}, RprofTypeError),
        ({"slow_after": "2"}, RprofTypeError),
        ({"slow_after": -1}, RprofValueError),
        ({"slow_after": 1.0, "repeat": -1}, RprofValueError),
    ],
    ids=str,
)
def test_options_are_checked_at_once(options, error):
    with pytest.raises(error):
        Options(**options)


needs_paste = pytest.mark.skipif(
    importlib.util.find_spec("paste") is None, reason="PasteDeploy is not installed"
)
PASTE_INI = """
[pipeline:main]
pipeline = rprof plain
[app:plain]
paste.app_factory = application:make
[filter:rprof]
use = egg:rprof
start = true
output = %(here)s/profiles
rate = 50
route = application:tell_route
serve = unix:%(here)s/socket
"""
PASTE = """
import os, sys, types, paste.deploy, rprof
application = types.ModuleType("application")
application.tell_route = lambda environ: environ["PATH_INFO"].partition("/items")[1] or None
def plain(environ, start_response):
    start_response("200 OK", [])
    return [environ["rprof.request"].route.encode()]
application.make = lambda conf: plain
sys.modules["application"] = application
assert not rprof.status().running
app = paste.deploy.loadapp("config:" + os.path.abspath("app.ini"))
status = rprof.status()
assert status.running and status.rate == 50 and status.endpoint.endswith("/socket")
for path in ("/items/a", "/x/17"): print(*app({"PATH_INFO": path}, lambda *_: None))
rprof.stop()
assert len(os.listdir("profiles")) >= 1
"""


@needs_paste
def test_a_filter_of_paste(programs):
    (programs.directory / "app.ini").write_text(PASTE_INI, encoding="utf-8")
    assert programs.check(PASTE).splitlines() == ["b'/items'", "b'/x/{}'"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"slow_afer": "2"}, "unknown option slow_afer; the options are slow_after, "),
        ({"slow_after": "2s"}, "slow_after='2s' cannot be read; write for example slow_after = 2"),
        ({"slow_after": "1", "repeat": "-1"}, "repeat=-1.0 is out of range"),
        ({"on_demand": "short"}, "on_demand must have at least 16 ASCII characters"),
        ({"route": "json:nothing"}, "route='json:nothing' cannot be read (module 'json' has no"),
        ({"start": "maybe"}, "start='maybe' cannot be read; write for example start = true"),
        ({"rate": "50"}, "rate is an option of profiling: add start = true"),
        ({"start": "true", "rate": "x"}, "rate='x' cannot be read; write for example rate = 100"),
        ({"start": "true", "rate": "0"}, "rate=0.0 is out of range"),
        ({"serve": "0.0.0.0:1"}, "serve='0.0.0.0:1': address="),
    ],
)
def test_options_of_a_filter_are_checked_at_once(options, told):
    with pytest.raises(rprof.RprofError) as raised:
        filter_factory({"__file__": "app.ini"}, **options)(print)
    assert str(raised.value).startswith("the filter of rprof in app.ini: ")
    assert told in str(raised.value)


def test_a_filter_that_is_turned_off_starts_nothing():
    filter_factory({}, start="off", rate="50")(print)
    assert not rprof.status().running


def test_generic_routes():
    routes = {
        "/": "/",
        "": "",
        "/users/42/orders/7": "/users/{}/orders/{}",
        "/a/0f5d3c2e-8b7a-4c1d-9e2f-001122334455": "/a/{}",
        "/a/0123456789abcdef0123": "/a/{}",
        "/a/dQw4w9WgXcQ-long-enough-7": "/a/{}",
        "/how-to-write-a-very-long-title": "/how-to-write-a-very-long-title",
        "/v2/api": "/v2/api",
        "/" + "a/" * 100: "/" + "/".join("a" * 8),
    }
    assert {path: generic_route(path) for path in routes} == routes
