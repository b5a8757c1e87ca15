"""Huey with processes, which are multiprocessing's and end by os._exit."""

from scene import Scene

APPLICATION = """
from huey import SqliteHuey
from working import work

huey = SqliteHuey(filename="queue.db")
task = huey.task(name="work")(work)
"""


def _work(scene: Scene) -> None:
    scene.write("application.py", "import rprof.auto\n" + APPLICATION)
    scene.write("sender.py", APPLICATION + "for _ in range(8): task()\n")
    scene.run("python", "sender.py")
    host = scene.start("huey_consumer", "application.huey", "-k", "process", "-w", "2")
    scene.until_worked(2)
    scene.end(host)


CASES = {"SIGTERM": _work}
