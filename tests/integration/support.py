"""Constants of the integration tests."""

import os

LONG = bool(os.environ.get("RPROF_CI_LONG"))
"""Sizes of the long run rather than those of every change."""
