"""uWSGI: ends idle workers by itself, and others by exit of C. The application has the line."""

from signal import SIGINT, SIGQUIT, SIGTERM, Signals

from scene import Scene


def _serve(scene: Scene, *options: str, how: Signals = SIGTERM, slow: bool = False) -> None:
    scene.write("application.py", "import rprof.auto\nfrom working import wsgi\n")
    words = ["uwsgi", "--http-socket", f"127.0.0.1:{scene.port}", "--master"]
    words += ["--die-on-term"] if how == SIGTERM else []
    words += ["--module", "application:wsgi", "--processes", "2", "--enable-threads"]
    # It looks for this environment's modules by the path of the interpreter otherwise.
    words += ["--virtualenv", str(scene.bin.parent), *options]
    host = scene.start(*words)
    scene.until_worked(2, scene.get)
    if slow:
        client = scene.start("python", "-c", CLIENT, str(scene.port))
        scene.until((scene.directory / "worked-slow").exists, "the slow request has begun")
    scene.end(host, how)
    if slow:
        client.wait()


CLIENT = """
import http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
connection.request("GET", "/slow")
try:
    connection.getresponse()
except (OSError, http.client.HTTPException):
    pass
"""
HOOKS = "--py-call-uwsgi-fork-hooks"
CASES = {
    "SIGTERM, fork hooks": lambda scene: _serve(scene, HOOKS),
    "SIGINT, fork hooks": lambda scene: _serve(scene, HOOKS, how=SIGINT),
    "SIGQUIT, lazy-apps": lambda scene: _serve(scene, "--lazy-apps", how=SIGQUIT),
    "--max-requests, lazy-apps": lambda scene: _serve(scene, "--lazy-apps", "--max-requests", "1"),
    "SIGINT, a request in flight": lambda scene: _serve(scene, HOOKS, how=SIGINT, slow=True),
    "SIGQUIT, a request in flight": lambda scene: _serve(scene, HOOKS, how=SIGQUIT, slow=True),
    "SIGTERM, a request in flight": lambda scene: _serve(scene, HOOKS, slow=True),
}
