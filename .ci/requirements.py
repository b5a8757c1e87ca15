"""Print what the project asks for: its build system's requirements and the named extras.

python requirements.py PYPROJECT [EXTRA ...]
"""

import sys

try:
    import tomllib
except ImportError:  # CPython 3.10
    from pip._vendor import tomli as tomllib


def main(pyproject: str, *extras: str) -> None:
    """Print one requirement a line."""
    with open(pyproject, "rb") as file:
        project = tomllib.load(file)
    print(*project["build-system"]["requires"], sep="\n")
    for extra in extras:
        print(*project["project"]["optional-dependencies"][extra], sep="\n")


main(*sys.argv[1:])
