"""Which files are Python programs."""

# Loaded into the program: without imports that it might not have, so without `from __future__`.

import os
import sys

SUFFIXES = (".py", ".pyc", ".pyz", ".pyzw", ".zip")
"""How files are called that an interpreter is given by their names."""

# Enough for any first line that the kernel reads, and for those after it.
_BEGINNING = 4_096
_LINES = 5


def is_python_script(path: str) -> bool:
    """Return whether a file says by its first lines that Python is to execute it.

    Where the path of the interpreter has a space or is long, installers write lines that are a
    program for a shell and a string in Python::

        #!/bin/sh
        '''exec' "/home/Zoe Doe/venv/bin/python" "$0" "$@"
        ' '''
    """
    try:
        with open(path, "rb") as file:
            first, _, rest = file.read(_BEGINNING).partition(b"\n")
    except OSError:
        return False
    if not first.startswith(b"#!"):
        return False
    if b"python" in first:
        return True
    beginning = rest.split(b"\n")[:_LINES]
    is_string = rest.startswith((b"'''", b'"""'))
    return b"sh" in first and is_string and any(b"exec" in line for line in beginning)


def is_python(path: str) -> bool:
    """Return whether to execute this is to begin an interpreter, as far as can be told."""
    file = os.path.realpath(path)
    if file == os.path.realpath(sys.executable) or os.path.basename(file).startswith("python"):
        return True
    return is_python_script(path)
