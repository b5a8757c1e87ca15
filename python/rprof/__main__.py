"""``python -m rprof``: the ``rprof`` command."""

import sys

from rprof.cli import main

sys.exit(main())
