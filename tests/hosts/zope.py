"""Runs a Zope instance and a Pyramid application with our filter in their .ini files.

    python tests/hosts/zope.py WHEEL

Both are installed from PyPI into a temporary environment, with the wheel. Objects, methods, page
templates, views, a virtual host and what is not there are asked for; then the routes of the
profiles that the servers have written are held against what was asked for, and the CPU time of
each route against that of the function that burned it. The exit code is 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from pathlib import Path

# Seconds, for each step.
INSTALLING, STARTING, ANSWERING, ENDING = 900, 180, 60, 60

FILTER = """
[filter:rprof]
use = egg:rprof
start = true
output = %(here)s/profiles
rate = 1000
max_overhead = 1.0
slow_after = 1.0

[server:main]
use = egg:waitress#main
host = 127.0.0.1
port = 0
"""
LOGGING = """
[loggers]
keys = root
[handlers]
keys = console
[formatters]
keys = plain
[logger_root]
level = INFO
handlers = console
[handler_console]
class = StreamHandler
args = (sys.stderr,)
formatter = plain
[formatter_plain]
format = %(name)s %(levelname)s %(message)s
"""
BURNING = """
import time

def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
"""

ZOPE_INI = """
[app:zope]
use = egg:Zope#main
zope_conf = %(here)s/etc/zope.conf

[pipeline:main]
pipeline = egg:Zope#httpexceptions rprof zope
"""
ZOPE_CODE = """
from burning import burn
from OFS.SimpleItem import SimpleItem
from Products.Five.browser import BrowserView

class Burner(SimpleItem):
    "An object that can be published."
    def __init__(self, id): self.id = id
    def index_html(self):
        "By its own path."
        burn(0.2); return "done"
    def work(self):
        "A method."
        burn(0.2); return "done"
    def slow(self):
        "A method that takes long."
        burn(2.0); return "done"

class Report(BrowserView):
    def __call__(self): burn(0.2); return "done"
"""
ZOPE_ZCML = """
<configure xmlns:browser="http://namespaces.zope.org/browser">
  <browser:page name="report" for="*" class="things.Report" permission="zope2.Public" />
</configure>
"""
ZOPE_CONTENT = """
import transaction
from things import Burner
app.manage_addFolder("docs")
for name in ("burner", "1234"): app.docs._setObject(name, Burner(name))
app.docs.manage_addProduct["PageTemplates"].manage_addPageTemplate("page", text=
    '<p tal:repeat="n python: range(1000)"><b tal:content="python: sum(range(1000))"/></p>')
transaction.commit()
"""
VIRTUAL = "/VirtualHostBase/http/example.org:80/docs/VirtualHostRoot/burner/work"
ZOPE = {
    # What is asked for: its route, and the seconds that it burns.
    "/docs/burner": ("/docs/burner/index_html", 0.2),
    "/docs/1234": ("/docs/{}/index_html", 0.2),
    "/docs/burner/work": ("/docs/burner/work", 0.2),
    VIRTUAL: ("/docs/burner/work", 0.2),
    "/docs/burner/@@report": ("/docs/burner/report", 0.2),
    "/docs/report": ("/docs/report", 0.2),
    "/docs/page": ("/docs/page", None),
    "/docs/nothing/here": ("(no route)", None),
    "/docs/burner/slow": ("/docs/burner/slow", 2.0),
}

PYRAMID_INI = """
[app:pyramid]
paste.app_factory = small:main
pyramid.includes = rprof.middleware.pyramid

[pipeline:main]
pipeline = rprof pyramid
"""
PYRAMID_CODE = """
from burning import burn
from pyramid.config import Configurator
from pyramid.response import Response

def item(request): burn(0.2); return Response("done")
def slow(request): burn(2.0); return Response("done")

def main(global_config, **settings):
    config = Configurator(settings=settings)
    for name, pattern, view in (("item", "/items/{n}", item), ("slow", "slow", slow)):
        config.add_route(name, pattern)
        config.add_view(view, route_name=name)
    return config.make_wsgi_app()
"""
PYRAMID = {
    "/items/3": ("/items/{n}", 0.2),
    "/nothing/here": ("(no route)", None),
    "/slow": ("/slow", 2.0),
}

VERSIONS = """
import platform
from importlib.metadata import version
names = ("Zope", "pyramid", "PasteDeploy", "waitress", "rprof")
print(platform.python_version(), *(f"{name} {version(name)}" for name in names))
"""
# By the interpreter of the environment, with rprof.
CHECK = """
import json, sys
from pathlib import Path
import rprof
# A slow request's own profile says once more what is in the windows.
windows = [path for path in Path("profiles").glob("*.pb.gz") if "slow-" not in path.name]
profile = rprof.merge(windows)
def cpu(part): return part.totals["cpu"] / 1e9
print(json.dumps({
    route: [cpu(profile.only_labels(route=route)),
            cpu(profile.only_labels(route=route).only_stacks(focus="burning.burn"))]
    for route in profile.labels()["route"]
}))
"""


def run(*command: str | Path, timeout: float, cwd: Path | None = None) -> str:
    """Run a command; what it prints is shown if it fails."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, cwd=cwd, check=False
    )
    if done.returncode:
        sys.exit(f"{command} has failed:\n{done.stdout}{done.stderr}")
    return done.stdout


class Server:
    """A server of an .ini file, and what it logs."""

    def __init__(self, command: list[str | Path], directory: Path) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": str(directory)},
        )
        self.lines: list[str] = []
        self._address: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.address = self._address.get(timeout=STARTING)
        except queue.Empty:
            self.address = None
        if self.address is None:
            self._process.kill()
            sys.exit(f"{command} does not serve:\n{''.join(self.lines)}")

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line)
            found = re.search(r"Serving on (http://[\d.:]+)", line)
            if found:
                self._address.put(found[1])
        self._address.put(None)

    def status(self, path: str) -> int:
        """Ask for a path."""
        try:
            with urllib.request.urlopen(f"{self.address}{path}", timeout=ANSWERING) as answer:
                answer.read()
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    def end(self) -> None:
        """End it as a person does, and wait until it has."""
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(ENDING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            sys.exit(f"the server does not end:\n{''.join(self.lines)}")
        self._reader.join(ENDING)


def measured(server: Server, paths: list[str], python: Path, directory: Path) -> dict[str, list]:
    """Ask a server for paths, end it, and return the CPU seconds of each route."""
    try:
        for path in paths:
            wanted = 404 if "nothing" in path else 200
            status = server.status(path)
            if status != wanted:
                sys.exit(f"{path}: status {status}\n{''.join(server.lines)}")
    finally:
        server.end()
    return json.loads(run(python, "-c", CHECK, timeout=ANSWERING, cwd=directory))


def is_right(name: str, asked: dict[str, tuple[str, float | None]], found: dict, log: str) -> bool:
    """Print what was found beside what should be, and whether it is."""
    wanted: dict[str, float | None] = {}
    for route, seconds in asked.values():
        before = wanted.get(route, 0.0)
        wanted[route] = None if seconds is None or before is None else before + seconds
    print(f"{name}: route, CPU seconds, of these in burn, burned")
    all_right = set(found) == set(wanted)
    for route in sorted(set(found) | set(wanted)):
        total, burned = found.get(route, (0.0, 0.0))
        seconds = wanted.get(route)
        right = route in wanted and route in found
        if right and seconds is not None:
            right = 0.9 * seconds <= burned <= 1.05 * seconds
        all_right &= right
        verdict = "" if right else "   WRONG"
        print(f"  {route:26} {total:7.3f} {burned:7.3f} {seconds or '-'}{verdict}")
    slow = [route for route, seconds in wanted.items() if seconds and seconds > 1]
    told = [route for route in slow if re.search(rf"rprof\.slow WARNING .*{route}", log)]
    print(f"  told as slow: {', '.join(told) or 'nothing'}")
    return all_right and told == slow


def main() -> int:
    """Run both."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("wheel", type=Path, help="the wheel of rprof to install")
    wheel = arguments.parse_args().wheel.resolve()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        binaries = directory / "venv" / "bin"
        python = binaries / "python"
        run(sys.executable, "-m", "venv", directory / "venv", timeout=INSTALLING)
        packages = ("Zope", "waitress", "pyramid", wheel)
        run(python, "-m", "pip", "install", "--quiet", *packages, timeout=INSTALLING)
        print("CPython", run(python, "-c", VERSIONS, timeout=ANSWERING).strip())

        zope = directory / "zope"
        run(binaries / "mkwsgiinstance", "-d", zope, "-u", "admin:admin", timeout=STARTING)
        (zope / "burning.py").write_text(BURNING)
        (zope / "things.py").write_text(ZOPE_CODE)
        (zope / "content.py").write_text(ZOPE_CONTENT)
        (zope / "etc" / "package-includes").mkdir()
        (zope / "etc" / "package-includes" / "things-configure.zcml").write_text(ZOPE_ZCML)
        (zope / "app.ini").write_text(ZOPE_INI + FILTER + LOGGING)
        console = [binaries / "zconsole", "run", "etc/zope.conf", "content.py"]
        os.environ["PYTHONPATH"] = str(zope)
        run(*console, timeout=STARTING, cwd=zope)
        server = Server([binaries / "runwsgi", "app.ini"], zope)
        found = measured(server, list(ZOPE), python, zope)
        right = is_right("Zope", ZOPE, found, "".join(server.lines))

        pyramid = directory / "pyramid"
        pyramid.mkdir()
        (pyramid / "burning.py").write_text(BURNING)
        (pyramid / "small.py").write_text(PYRAMID_CODE)
        (pyramid / "app.ini").write_text(PYRAMID_INI + FILTER + LOGGING)
        server = Server([binaries / "pserve", "app.ini"], pyramid)
        found = measured(server, list(PYRAMID), python, pyramid)
        right &= is_right("Pyramid", PYRAMID, found, "".join(server.lines))
    print("all right" if right else "WRONG")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
