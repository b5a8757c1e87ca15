"""Importing this module starts profiling from the ``RPROF_*`` environment variables.

One line in a gunicorn or Celery configuration, a ``sitecustomize`` or a ``.pth`` file::

    import rprof.auto

``RPROF_OUTPUT``, ``RPROF_RATE`` and so on set the options of ``rprof.start``; ``RPROF_SERVE`` is
the address for ``rprof.serve``, if there is to be an endpoint. A value that cannot
be used raises, so that a slip of the pen is seen at once; where profiling itself is impossible (a
sub-interpreter, an unwritable directory) the program goes on unprofiled, with a warning on the
``rprof`` logger.
"""

from __future__ import annotations

import os

from ._config import unknown_variables
from ._endpoint import serve_from_environment
from ._session import is_running, log, start
from .errors import RprofOSError, RprofStateError

for _name in unknown_variables(os.environ):
    log().warning("the environment variable %s is no option of rprof", _name)

if not is_running():
    try:
        start()
    except (RprofStateError, RprofOSError) as _error:
        log().warning("not profiling this process: %s", _error)
    try:
        serve_from_environment()
    except (RprofStateError, RprofOSError) as _error:
        log().warning("no endpoint in this process: %s", _error)
