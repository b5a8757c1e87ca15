"""Where the documentation is: the one place that says so."""

# rprof has no public host yet: its documentation is in its source. Once there is a site, this and
# the line below say its address.
_DIRECTORY = "docs"


def page(name: str) -> str:
    """Return where a page is, for a sentence such as "see PAGE"."""
    return f"{_DIRECTORY}/{name}.md in the source of rprof"
