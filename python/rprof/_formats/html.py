"""The report page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._format import Format, write_text

if TYPE_CHECKING:
    from .._profile import Profile

__all__ = ["FORMAT", "page"]


def page(profile: Profile, *, baseline: Profile | None, source: bool, title: str | None) -> str:
    """Return the report page, see ``Profile.to_html``."""
    from .. import viewer

    sources = None
    if source:
        kind = profile._kind(None).type
        names = (file for _, file, *_ in profile._native.top(kind, False))
        sources = viewer.sources.read(names, profile.time_ns)
    return viewer.page(
        [_shown(profile)],
        title=title if title is not None else profile._label(),
        baseline=_shown(baseline) if baseline is not None else None,
        sources=sources,
    )


def _shown(profile: Profile) -> tuple[str, bytes, str]:
    return profile._label(), profile.to_bytes(), profile._native.page_facts


def _write(profile: Profile, path: str, _by: str | None) -> None:
    write_text(path, profile.to_html())


FORMAT = Format(
    ".html",
    "the report page",
    "the report page: one file, nothing is fetched from anywhere",
    _write,
    ("xdg-open",),
)
