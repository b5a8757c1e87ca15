"""Importing this module starts profiling from the ``RPROF_*`` environment variables.

One line in a gunicorn or Celery configuration, a ``sitecustomize`` or a ``.pth`` file::

    import rprof.auto

``RPROF_OUTPUT``, ``RPROF_RATE`` and so on set the options of ``rprof.start``; ``RPROF_SERVE`` is
the address for ``rprof.serve``, if there is to be an endpoint. A value that cannot
be used raises, so that a typo is seen at once; where profiling itself is impossible (an
unwritable directory) the program goes on unprofiled, with a warning on the ``rprof`` logger. In a
sub-interpreter this does nothing: the main one's recording is the process's.

PYTEST_DONT_REWRITE: to pytest, this may be imported before ``-p rprof.auto`` is read.
"""

import os

from ._loading import in_sub_interpreter


def _begin() -> None:
    from ._config import unknown_variables
    from ._continuous import is_running, start_if_possible
    from ._process import log

    for name in unknown_variables(os.environ):
        log().warning("the environment variable %s is no option of rprof", name)
    if is_running():
        return
    start_if_possible()
    address = os.environ.get("RPROF_SERVE")
    if not address:
        return
    from ._endpoint import serve_if_possible

    serve_if_possible(address)


if not in_sub_interpreter():
    _begin()
