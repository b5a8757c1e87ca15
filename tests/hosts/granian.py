"""Granian: its workers end by multiprocessing's os._exit. The application has the line."""

from scene import Scene


def _serve(scene: Scene, interface: str) -> None:
    scene.write("application.py", "import rprof.auto\nfrom working import asgi, wsgi\n")
    words = ("granian", f"application:{interface}", "--interface", interface)
    host = scene.start(*words, "--port", str(scene.port), "--workers", "2")
    scene.until_worked(2, scene.get)
    scene.end(host)


CASES = {
    "SIGTERM, asgi": lambda scene: _serve(scene, "asgi"),
    "SIGTERM, wsgi": lambda scene: _serve(scene, "wsgi"),
}
