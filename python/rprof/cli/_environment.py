"""What ``rprof run`` tells the program that it becomes, and the processes of that program."""

# Loaded into the program: without imports that it might not have, so without `from __future__`.

import os

from .._config import OPTIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping
    from typing import Any

RUN = "RPROF_RUN"
"""Variable: a ``Run`` as text."""

KEPT = "RPROF_RUN_KEPT_"
"""Variables that begin with this: what the options of rprof were in the environment before."""

ALL_FILES: "dict[str, Any]" = {"keep_files": 1_000_000, "keep_bytes": 1 << 62}
"""Options with which none is deleted of the files that one is to be made of."""

_BOOTSTRAP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_bootstrap")
_VARIABLES = tuple("RPROF_" + name.upper() for name in OPTIONS)


def shown(
    environment: "Mapping[str, str]", run: "Run", settings: "Mapping[str, object]"
) -> "dict[str, str]":
    """Return an environment that tells an interpreter to profile, with these options.

    What it said of rprof before is kept in it, for `hide`.
    """
    found = dict(environment)
    if RUN in found:
        hide(found)
    for (name, option), variable in zip(OPTIONS.items(), _VARIABLES, strict=True):
        if variable in found:
            found[KEPT + variable] = found[variable]
        found[variable] = option.show(settings[name])
    path = found.get("PYTHONPATH")
    found["PYTHONPATH"] = os.pathsep.join([_BOOTSTRAP, *([path] if path else [])])
    found[RUN] = run.text()
    return found


def hide(environment: "MutableMapping[str, str]") -> None:
    """Make an environment what it would be without `rprof run`."""
    del environment[RUN]
    for variable in _VARIABLES:
        environment.pop(variable, None)
        kept = environment.pop(KEPT + variable, None)
        if kept is not None:
            environment[variable] = kept
    _, _, path = environment.get("PYTHONPATH", "").partition(os.pathsep)
    if path:
        environment["PYTHONPATH"] = path
    else:
        environment.pop("PYTHONPATH", None)


class Run:
    """What is to be done in a process that was told to profile.

    Args:
        pid: The process that is the program; others, which it has started, only record.
        follow: Whether those are profiled at all.
        whole: Whether one file is made of all, rather than one for each window in a directory.
        gathers: Whether that file is made in the end, of those in a directory: there are several
            processes, or the program has executed itself again.
        quiet: Whether nothing but errors is to be said.
        view: Whether to open the report page in the end.
        top: How many functions to print in the end; None: none.
        output: The file or directory to write, as an absolute path. Where it ends with a slash, a
            file is named after the program.
    """

    def __init__(
        self,
        *,
        pid: int,
        follow: bool,
        whole: bool,
        gathers: bool,
        quiet: bool,
        view: bool,
        top: "int | None",
        output: str,
    ) -> None:
        self.pid = pid
        self.follow = follow
        self.whole = whole
        self.gathers = gathers
        self.quiet = quiet
        self.view = view
        self.top = top
        self.output = output

    def text(self) -> str:
        """Return what ``parse`` understands. The path comes last: it may contain anything."""
        flags = (self.follow, self.whole, self.gathers, self.quiet, self.view)
        top = "" if self.top is None else str(self.top)
        return ":".join([str(self.pid), *("01"[flag] for flag in flags), top, self.output])

    @classmethod
    def parse(cls, text: str) -> "Run":
        """Read the variable."""
        pid, follow, whole, gathers, quiet, view, top, output = text.split(":", 7)
        return cls(
            pid=int(pid),
            follow=follow == "1",
            whole=whole == "1",
            gathers=gathers == "1",
            quiet=quiet == "1",
            view=view == "1",
            top=int(top) if top else None,
            output=output,
        )
