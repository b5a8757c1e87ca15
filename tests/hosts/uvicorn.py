"""uvicorn: resets SIGTERM after its shutdown, and raises it again. The application has the line."""

from scene import Scene

APPLICATION = "import rprof.auto\nfrom working import asgi\n"


def _serve(scene: Scene, workers: int) -> None:
    scene.write("application.py", APPLICATION)
    options = ("--port", str(scene.port), "--workers", str(workers))
    host = scene.start("uvicorn", "application:asgi", *options)
    scene.until_worked(workers, scene.get)
    scene.end(host)


def _ends_by_requests(scene: Scene) -> None:
    scene.write("application.py", APPLICATION)
    options = ("--port", str(scene.port), "--workers", "2", "--limit-max-requests", "2")
    host = scene.start("uvicorn", "application:asgi", *options)
    scene.until_worked(3, scene.get)
    scene.end(host)


CASES = {
    "SIGTERM": lambda scene: _serve(scene, 1),
    "SIGTERM, --workers 2": lambda scene: _serve(scene, 2),
    "--limit-max-requests": _ends_by_requests,
}
