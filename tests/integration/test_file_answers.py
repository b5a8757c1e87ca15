"""Answers that a WSGI server sends by itself belong to their request until they are closed."""

from __future__ import annotations

import io
import threading
import urllib.request
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.util import FileWrapper

import pytest
import rprof
from rprof.middleware.wsgi import WSGIMiddleware


class Slots:
    """A wrapper on which nothing can be noted."""

    __slots__ = ("file",)

    def __init__(self, file, size=8192):
        self.file = file

    def __iter__(self):
        return iter(lambda: self.file.read(8192), b"")

    def close(self):
        self.file.close()


class Plain(Slots):
    """One with a method ``close`` of its class, as waitress has it."""

    def __init__(self, file, size=8192):
        super().__init__(file)


def answered(make, wrapper, route):
    """Return what an application answers, and its file."""
    file = io.BytesIO(b"content")

    def application(environ, start_response):
        start_response("200 OK", [])
        return make(environ, file)

    wrapped = WSGIMiddleware(application, route=lambda _: route)
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "wsgi.file_wrapper": wrapper}
    return wrapped(environ, lambda *_: None), file


def figures(route):
    row = {row.route: row for row in rprof.routes()}[route]
    return row.ended, row.under_way


def by_wrapper(environ, file):
    return environ["wsgi.file_wrapper"](file)


@pytest.mark.parametrize("wrapper", [FileWrapper, Plain, lambda file: file])
def test_a_file_belongs_to_its_request_until_it_is_closed(wrapper):
    route = f"/file/{id(wrapper)}"
    answer, file = answered(by_wrapper, wrapper, route)
    if isinstance(wrapper, type):
        assert type(answer) is wrapper, "the server would not know it"
    assert figures(route) == (0, 1)
    assert rprof.current_labels() == {}, "the server's thread goes on to other requests"
    assert b"".join(answer) == b"content"
    assert figures(route) == (0, 1)
    answer.close()
    assert file.closed
    assert figures(route) == (1, 0)
    answer.close()
    assert figures(route) == (1, 0)


def test_a_file_that_is_never_closed_ends_its_request_with_itself():
    answer, _ = answered(by_wrapper, Plain, "/dropped")
    assert figures("/dropped") == (0, 1)
    del answer
    assert figures("/dropped") == (1, 0), "it is freed at once, without the garbage collector"


def test_a_wrapper_on_which_nothing_can_be_noted_ends_at_once():
    answer, file = answered(by_wrapper, Slots, "/slots")
    assert figures("/slots") == (1, 0)
    answer.close()
    assert file.closed


def test_an_error_at_the_close_is_the_servers(tmp_path):
    class Raising(Plain):
        def close(self):
            raise OSError("no")

    answer, _ = answered(by_wrapper, Raising, "/raising")
    with pytest.raises(OSError, match="no"):
        answer.close()
    assert figures("/raising") == (1, 0)


def test_a_server_that_sends_a_file_slowly(tmp_path):
    sending, read = threading.Event(), threading.Event()

    class Waiting(io.BytesIO):
        def read(self, size=-1):
            sending.set()
            assert read.wait(30)
            return super().read(size)

    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return environ["wsgi.file_wrapper"](Waiting(b"sent"))

    class Quiet(WSGIRequestHandler):
        def log_message(self, *_):
            pass

    wrapped = WSGIMiddleware(application, route=lambda _: "/slowly")
    with make_server("127.0.0.1", 0, wrapped, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        answers = []

        def ask():
            url = f"http://127.0.0.1:{server.server_port}/"
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            answers.append(opener.open(url, timeout=60).read())

        client = threading.Thread(target=ask)
        client.start()
        assert sending.wait(30)
        assert figures("/slowly") == (0, 1)
        read.set()
        client.join(60)
        thread.join(60)
    assert answers == [b"sent"]
    assert figures("/slowly") == (1, 0)
