"""Celery, prefork: its children end by os._exit. The application has the line."""

from scene import Scene

APPLICATION = """
import rprof.auto
from celery import Celery
from working import work

app = Celery("application", broker="filesystem://")
app.conf.broker_transport_options = {
    "data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control"
}
task = app.task(name="work")(work)
"""
# Without the application's line: what only sends is no worker.
SENDER = """
from celery import Celery
app = Celery("application", broker="filesystem://")
app.conf.broker_transport_options = {
    "data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control"
}
for _ in range(6):
    app.send_task("work")
"""


def _work(scene: Scene, *options: str, workers: int = 2) -> None:
    for name in ("queue", "control"):
        (scene.directory / name).mkdir()
    scene.write("application.py", APPLICATION)
    words = ("celery", "--app", "application", "worker", "--concurrency", "2", *options)
    host = scene.start(*words)
    scene.run("python", "-c", SENDER)
    scene.until_worked(workers)
    scene.end(host)


CASES = {
    "SIGTERM": _work,
    "--max-tasks-per-child": lambda scene: _work(scene, "--max-tasks-per-child", "1", workers=6),
}
