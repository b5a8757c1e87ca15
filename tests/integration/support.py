"""Constants of the integration tests."""

import os

ENGINE = os.environ.get("RPROF_CI_ENGINE", "direct")
"""The engine that tests without one of their own get; the suite runs with each."""

LONG = bool(os.environ.get("RPROF_CI_LONG"))
"""Sizes of the long run rather than those of every change."""
