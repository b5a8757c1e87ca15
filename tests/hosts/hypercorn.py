"""Hypercorn: the first worker that ends has the others terminated. The application has the line."""

from scene import Scene


def _serve(scene: Scene) -> None:
    scene.write("application.py", "import rprof.auto\nfrom working import asgi\n")
    bind = f"127.0.0.1:{scene.port}"
    host = scene.start("hypercorn", "application:asgi", "--bind", bind, "--workers", "3")
    scene.until_worked(3, scene.get)
    scene.end(host)


CASES = {"SIGTERM": _serve}
