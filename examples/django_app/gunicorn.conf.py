"""Configuration of gunicorn, which finds it in the current directory."""

import os
from pathlib import Path

wsgi_app = "shop.wsgi:application"
bind = "127.0.0.1:8000"
workers = 2

Path("run").mkdir(exist_ok=True)
os.environ.setdefault("RPROF_OUTPUT", "profiles/")
os.environ.setdefault("RPROF_SERVE", f"unix:{Path('run').resolve()}/{{pid}}.sock")


def post_fork(server, worker):
    # In the worker, whether or not the application was loaded before the fork (--preload).
    import rprof.auto  # noqa: F401
