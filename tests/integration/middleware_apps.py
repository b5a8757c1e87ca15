"""The same small application in every framework, as text for programs of their own.

Each module `application` has `call(path, query)`, which makes one request in process and returns
status and body, and `serve(count, route)`, which makes many, some at a time.
"""

from __future__ import annotations

VIEWS = """
import json, os, threading, time, rprof
from burning import burn

OPTIONS = json.loads(os.environ.get("MIDDLEWARE", "{}"))
looked = threading.Event()
steps = []

class Trouble(Exception): pass
trouble = Trouble("as it was")

def work(): burn(0.02)
def brief(): burn(0.001)
def slow():
    end = time.monotonic() + 60
    while not looked.is_set() and time.monotonic() < end: burn(0.01)
def parts():
    for number in range(3):
        steps.append(rprof.current_labels().get("route"))
        with rprof.labels(step="mine"):
            burn(0.005)
            yield b"part"
def fail(): raise trouble
"""

CALL_WSGI = """
import io, threading
closed = []
between = []
def request(path, query="", **more):
    told = []
    def start_response(status, headers, exc_info=None):
        told[:] = [int(status.split()[0])]
        return lambda data: None
    environ = {
        "REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": query,
        "SERVER_NAME": "localhost", "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0), "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(), "wsgi.multithread": True, "wsgi.multiprocess": False,
        "wsgi.run_once": False, **more,
    }
    return environ, start_response, told
def call(path, query=""):
    environ, start_response, told = request(path, query)
    answer = application(environ, start_response)
    body = b""
    try:
        for part in answer:
            between.append(rprof.current_labels())
            body += part
    finally:
        if hasattr(answer, "close"): answer.close()
    return told[0], body
def serve(paths):
    def run(own):
        for path in own: assert call(path)[0] == 200
    threads = [threading.Thread(target=run, args=(paths[k::4],)) for k in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
"""

CALL_ASGI = """
import asyncio, contextvars
between = []
async def acall(path, query=""):
    told = []
    begun = asyncio.Event()
    async def receive():
        if begun.is_set(): await asyncio.Event().wait()
        begun.set()
        return {"type": "http.request", "body": b"", "more_body": False}
    async def send(message):
        told.append(message)
        # What another task of the server has meanwhile.
        await contextvars.Context().run(loop.create_task, note())
    async def note(): between.append(rprof.current_labels())
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
        "method": "GET", "scheme": "http", "path": path, "raw_path": path.encode(),
        "query_string": query.encode(), "root_path": "", "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }
    await application(scope, receive, send)
    scopes.append(scope)
    assert rprof.current_labels() == {}, rprof.current_labels()
    return told[0]["status"], b"".join(message.get("body", b"") for message in told[1:])
scopes = []
loop = asyncio.new_event_loop()
def call(path, query=""): return loop.run_until_complete(acall(path, query))
def serve(paths):
    async def run(own):
        for path in own: assert (await acall(path))[0] == 200
    async def all(): await asyncio.gather(*(run(paths[k::20]) for k in range(20)))
    loop.run_until_complete(all())
"""

WSGI = """
from rprof.middleware.wsgi import WSGIMiddleware
class Parts:
    def __init__(self): self.inner = parts()
    def __iter__(self): return self.inner
    def close(self):
        closed.append(rprof.current_labels().get("route"))
        self.inner.close()
def plain(environ, start_response):
    path = environ["PATH_INFO"]
    start_response("404 Not Found" if path.startswith("/nothing") else "200 OK", [])
    if path.startswith("/items/"): work()
    elif path.startswith("/r"): brief()
    elif path == "/slow": slow()
    elif path == "/fail": fail()
    elif path == "/stream": return Parts()
    return [b"done"]
application = WSGIMiddleware(plain, **OPTIONS)
"""

FLASK = """
import flask
import rprof.middleware.flask
app = flask.Flask("application")
app.config["PROPAGATE_EXCEPTIONS"] = True
rprof.middleware.flask.init_app(app, **OPTIONS)
@app.get("/items/<int:n>")
def items(n): work(); return "done"
@app.get("/fast")
def fast(): return "done"
@app.get("/slow", endpoint="slow")
def slowly(): slow(); return "done"
@app.get("/fail", endpoint="fail")
def failing(): fail()
@app.get("/stream")
def stream():
    def again():
        try: yield from parts()
        finally: closed.append(rprof.current_labels().get("route")); assert flask.request.path
    return flask.Response(flask.stream_with_context(again()))
for k in range(20):
    app.add_url_rule(f"/r{k}/<int:n>", f"r{k}", lambda n: (brief(), "done")[1])
application = app
"""

DJANGO = """
import django
from django.conf import settings
settings.configure(
    ROOT_URLCONF="application", ALLOWED_HOSTS=["*"], DEBUG_PROPAGATE_EXCEPTIONS=True, RPROF=OPTIONS,
    MIDDLEWARE=["rprof.middleware.django.RprofMiddleware",
                "django.middleware.common.CommonMiddleware"],
)
django.setup()
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django.urls import path, re_path
def items(request, n): work(); return HttpResponse("done")
async def later(request, n):
    work()
    await asyncio.sleep(0)
    return HttpResponse("done")
def fast(request): return HttpResponse("done")
def slowly(request): slow(); return HttpResponse("done")
def failing(request): fail()
def brief_view(request, n): brief(); return HttpResponse("done")
def own_file(request): return FileResponse(open(__file__, "rb"))
def stream(request):
    def again():
        try: yield from parts()
        finally: closed.append(rprof.current_labels().get("route"))
    return StreamingHttpResponse(again())
async def stream_later(request):
    async def again():
        for part in parts():
            await asyncio.sleep(0)
            yield part
    return StreamingHttpResponse(again())
closed = []
urlpatterns = [
    path("items/<int:n>", items), path("later/<int:n>", later), path("fast", fast),
    path("slow", slowly), path("fail", failing), path("file", own_file), path("stream", stream),
    path("stream-later", stream_later),
    *(path(f"r{k}/<int:n>", brief_view) for k in range(20)),
]
"""

DJANGO_WSGI = DJANGO + "from django.core.wsgi import get_wsgi_application as make\n"
DJANGO_ASGI = DJANGO + "from django.core.asgi import get_asgi_application as make\n"

ASGI = """
from rprof.middleware.asgi import ASGIMiddleware
async def plain(scope, receive, send):
    path = scope["path"]
    if path.startswith("/items/"): await asyncio.to_thread(work)
    elif path.startswith("/r"): brief()
    elif path == "/slow": slow()
    elif path == "/fail": fail()
    status = 404 if path.startswith("/nothing") else 200
    await send({"type": "http.response.start", "status": status, "headers": []})
    if path == "/stream":
        for part in parts():
            await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b"" if path == "/stream" else b"done"})
application = ASGIMiddleware(plain, **OPTIONS)
"""

STARLETTE = """
from rprof.middleware.asgi import ASGIMiddleware
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route
async def items(request): work(); return PlainTextResponse("done")
def fast(request): return PlainTextResponse("done")
async def slowly(request): slow(); return PlainTextResponse("done")
async def failing(request): fail()
async def brief_view(request): brief(); return PlainTextResponse("done")
async def stream(request):
    async def again():
        for part in parts(): yield part
    return StreamingResponse(again())
async def outside(request, call_next):
    with rprof.labels(tenant="acme"): return await call_next(request)
application = Starlette(
    routes=[
        Route("/items/{n:int}", items), Route("/fast", fast), Route("/slow", slowly),
        Route("/fail", failing), Route("/stream", stream),
        *(Route(f"/r{k}/{{n:int}}", brief_view) for k in range(20)),
        Mount("/of/{tenant}", routes=[Route("/items/{n:int}", items)]),
        Mount("/files", app=PlainTextResponse("done")),
    ],
    # The other one runs what is below it in a task of its own.
    middleware=[
        Middleware(ASGIMiddleware, **OPTIONS), Middleware(BaseHTTPMiddleware, dispatch=outside)
    ],
)
"""

FASTAPI = """
from fastapi import APIRouter, FastAPI
from fastapi.responses import StreamingResponse
from rprof.middleware.asgi import ASGIMiddleware
application = FastAPI()
application.add_middleware(ASGIMiddleware, **OPTIONS)
@application.get("/items/{n}")
def items(n: int): work(); return "done"
@application.get("/fast")
async def fast(): return "done"
@application.get("/slow")
async def slowly(): slow(); return "done"
@application.get("/fail")
async def failing(): fail()
@application.get("/stream")
async def stream():
    async def again():
        for part in parts(): yield part
    return StreamingResponse(again())
for k in range(20):
    @application.get(f"/r{k}/{{n}}")
    async def brief_view(n: int): brief(); return "done"
inner = APIRouter()
@inner.get("/items/{n}")
def inner_items(n: int): return "done"
router = APIRouter()
router.include_router(inner, prefix="/inner")
application.include_router(router, prefix="/outer/{tenant}")
below = FastAPI()
below.include_router(inner, prefix="/inner")
application.mount("/below/{tenant}", below)
"""

_MAKE = "application = make()\n"
APPLICATIONS = {
    "wsgi": CALL_WSGI + WSGI,
    "flask": CALL_WSGI + FLASK,
    "django": CALL_WSGI + DJANGO_WSGI + _MAKE,
    "asgi": CALL_ASGI + ASGI,
    "starlette": CALL_ASGI + STARLETTE,
    "fastapi": CALL_ASGI + FASTAPI,
    "django-asgi": CALL_ASGI + DJANGO_ASGI + _MAKE,
}
PATTERNS = {
    "wsgi": "{}",
    "asgi": "{}",
    "flask": "<int:n>",
    "django": "<int:n>",
    "django-asgi": "<int:n>",
    "starlette": "{n:int}",
    "fastapi": "{n}",
}
"""What the route has where the path has a number."""
MODULES = {"django-asgi": "django", "flask": "flask", "django": "django"}
MODULES |= {name: name for name in ("starlette", "fastapi")}
"""What must be installed."""


def text(name: str) -> str:
    """Return the module `application` of a framework."""
    return f"import asyncio\n{VIEWS}\n{APPLICATIONS[name]}"
