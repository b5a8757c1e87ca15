"""RQ: a fork for each job, which ends by os._exit. The line is in a module of its own start."""

from redis_server import redis_server
from scene import Scene

WORKER = """
import os
import rprof.auto
from redis import Redis
from rq import Worker

Worker(["default"], connection=Redis(port=int(os.environ["PORT"]))).work(burst={burst})
"""
SENDER = """
import os
from redis import Redis
from rq import Queue

queue = Queue(connection=Redis(port=int(os.environ["PORT"])))
for _ in range(3):
    queue.enqueue("working.work")
"""


def _work(scene: Scene, *, burst: bool) -> None:
    with redis_server(scene):
        scene.run("python", "-c", SENDER)
        host = scene.start("python", "-c", WORKER.format(burst=burst))
        scene.until_worked(3)
        if burst:
            host.wait()
        else:
            scene.end(host)


CASES = {
    "SIGTERM": lambda scene: _work(scene, burst=False),
    "the queue is empty": lambda scene: _work(scene, burst=True),
}
