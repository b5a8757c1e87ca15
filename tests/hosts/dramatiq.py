"""Dramatiq: its workers are processes of multiprocessing, which end by os._exit."""

from redis_server import redis_server
from scene import Scene

APPLICATION = """
import os
import dramatiq
from dramatiq.brokers.redis import RedisBroker
from working import work

dramatiq.set_broker(RedisBroker(port=int(os.environ["PORT"])))
task = dramatiq.actor(work, actor_name="work")
"""


def _work(scene: Scene) -> None:
    scene.write("application.py", "import rprof.auto\n" + APPLICATION)
    scene.write("sender.py", APPLICATION + "for _ in range(20): task.send()\n")
    with redis_server(scene):
        host = scene.start("dramatiq", "application", "--processes", "2", "--threads", "1")
        scene.run("python", "sender.py")
        scene.until_worked(2)
        scene.end(host)


CASES = {"SIGTERM": _work}
