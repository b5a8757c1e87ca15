"""What ``rprof run`` tells the program that it becomes, and the processes of that program."""

# Loaded into the program: without imports that it might not have, so without `from __future__`.

RUN = "RPROF_RUN"
"""Variable: a ``Run`` as text."""

KEPT = "RPROF_RUN_KEPT_"
"""Variables that begin with this: what the options of rprof were in the environment before."""


class Run:
    """What is to be done in a process that was told to profile.

    Args:
        pid: The process that is the program; others, which it has started, only record.
        follow: Whether those are profiled at all.
        whole: Whether one file is made of all, rather than one for each window in a directory.
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
        quiet: bool,
        view: bool,
        top: "int | None",
        output: str,
    ) -> None:
        self.pid = pid
        self.follow = follow
        self.whole = whole
        self.quiet = quiet
        self.view = view
        self.top = top
        self.output = output

    def text(self) -> str:
        """Return what ``parse`` understands. The path comes last: it may contain anything."""
        flags = (self.follow, self.whole, self.quiet, self.view)
        top = "" if self.top is None else str(self.top)
        return ":".join([str(self.pid), *("01"[flag] for flag in flags), top, self.output])

    @classmethod
    def parse(cls, text: str) -> "Run":
        """Read the variable."""
        pid, follow, whole, quiet, view, top, output = text.split(":", 6)
        return cls(
            pid=int(pid),
            follow=follow == "1",
            whole=whole == "1",
            quiet=quiet == "1",
            view=view == "1",
            top=int(top) if top else None,
            output=output,
        )
