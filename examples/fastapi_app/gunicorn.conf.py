"""Configuration of gunicorn, which finds it in the current directory."""

import os
from pathlib import Path

wsgi_app = "app:app"
worker_class = "asgi"
bind = "127.0.0.1:8000"
workers = 2

RUN = Path("run").resolve()
RUN.mkdir(exist_ok=True)
os.environ.setdefault("RPROF_OUTPUT", "profiles/")
# Any free port.
os.environ.setdefault("RPROF_SERVE", "127.0.0.1:0")


def post_fork(server, worker):
    # In the worker, whether or not the application was loaded before the fork (--preload).
    import rprof.auto

    (RUN / f"{worker.pid}.address").write_text(rprof.status().endpoint)


def child_exit(server, worker):
    (RUN / f"{worker.pid}.address").unlink(missing_ok=True)
