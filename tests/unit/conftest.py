"""What the unit tests share."""

import os

pytest_plugins = ["pytester"]

# The whole suite runs with each engine.
if "RPROF_CI_ENGINE" in os.environ:
    os.environ["RPROF_ENGINE"] = os.environ["RPROF_CI_ENGINE"]
