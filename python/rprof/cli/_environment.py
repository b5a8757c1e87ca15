"""What ``rprof run`` and the processes of its program tell each other."""

from __future__ import annotations

RUN = "RPROF_RUN"
"""Variable: ``follow`` or ``once``, the process id of ``rprof run``, its scratch directory, with
colons between them."""

KEPT = "RPROF_RUN_KEPT"
"""Variable: the options of rprof that the environment had before, as JSON; absent if none."""

PROBLEM = "problem.txt"
"""File in the scratch directory: why the program is not profiled."""
