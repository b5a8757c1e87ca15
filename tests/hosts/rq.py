"""RQ: a fork for each job, which ends by os._exit. The line is in its settings (`rq worker -c`)."""

from redis_server import redis_server
from scene import Scene

SENDER = """
import os
from redis import Redis
from rq import Queue

queue = Queue(connection=Redis(port=int(os.environ["PORT"])))
for _ in range(3):
    queue.enqueue("working.work")
"""


def _work(scene: Scene, *words: str, settings: bool = False, burst: bool = False) -> None:
    scene.write("settings.py", "import rprof.auto\n")
    with redis_server(scene):
        scene.run("python", "-c", SENDER)
        options = ["--url", f"redis://127.0.0.1:{scene.port}"]
        options += ["-c", "settings"] if settings else []
        options += ["--burst"] if burst else []
        host = scene.start(*words, "rq", "worker", *options)
        scene.until_worked(3)
        if burst:
            host.wait()
        else:
            scene.end(host)


FOLLOW = ("rprof", "run", "--follow-children", "-o", "out/")
CASES = {
    "SIGTERM": lambda scene: _work(scene, settings=True),
    "--burst": lambda scene: _work(scene, settings=True, burst=True),
    "SIGTERM, rprof run --follow-children": lambda scene: _work(scene, *FOLLOW),
}
