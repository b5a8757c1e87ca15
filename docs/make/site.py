"""A hook of MkDocs: what is for the tests and for tools does not go into the site."""

import re

_COMMENT = re.compile(r"<!--.*?-->\n?", re.DOTALL)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Leave out HTML comments: markers, and what an example needs besides what it shows."""
    return _COMMENT.sub("", markdown)
