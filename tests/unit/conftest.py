"""What the unit tests share."""

pytest_plugins = ["pytester"]
