"""What freezers are told of rprof: the modules that no import statement of a program names.

PyInstaller finds its hook by the entry point ``pyinstaller40``. Nuitka reads the file beside this
one where it is named by ``--user-package-configuration-file``; it looks for none by itself.
"""

from __future__ import annotations

import os

__all__ = ["pyinstaller_hooks"]


def pyinstaller_hooks() -> list[str]:
    """Return the directory of our hook."""
    return [os.path.dirname(os.path.abspath(__file__))]
