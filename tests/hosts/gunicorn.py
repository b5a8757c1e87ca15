"""gunicorn: its workers end by themselves. The one-liner stands in its configuration."""

from signal import SIGINT, SIGQUIT, SIGTERM, Signals

from scene import Scene

CONFIGURATION = """
def post_fork(server, worker):
    import rprof.auto
"""


def _serve(scene: Scene, *options: str, how: Signals = SIGTERM) -> None:
    scene.write("gunicorn.conf.py", CONFIGURATION)
    bind = f"127.0.0.1:{scene.port}"
    host = scene.start("gunicorn", "working:wsgi", "--bind", bind, "--workers", "2", *options)
    scene.until_worked(2, scene.get)
    scene.end(host, how)


def _ends_by_requests(scene: Scene) -> None:
    scene.write("gunicorn.conf.py", CONFIGURATION)
    options = ("--workers", "1", "--max-requests", "2")
    bind = f"127.0.0.1:{scene.port}"
    host = scene.start("gunicorn", "working:wsgi", "--bind", bind, *options)
    scene.until_worked(3, scene.get)
    scene.end(host)


CASES = {
    "SIGTERM": _serve,
    "SIGTERM, threads": lambda scene: _serve(scene, "--threads", "4"),
    "SIGINT": lambda scene: _serve(scene, how=SIGINT),
    "SIGQUIT": lambda scene: _serve(scene, how=SIGQUIT),
    "--max-requests": _ends_by_requests,
}
