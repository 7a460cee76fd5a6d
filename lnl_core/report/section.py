"""A section that the page may have besides its own: what it shows, and where."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lnl_core.report.sources import Sources


@dataclass(frozen=True, kw_only=True)
class Section:
    """A file of `lnl_core/report/sections` has one of these, called `SECTION`."""

    anchor: str  # id of the section in the page
    title: str  # in the line of links
    before: str  # anchor of the page's own section that it stands in front of
    template: str  # Jinja2 text of a <section>; it sees `content`, and whatever comes from there is escaped
    content: Callable[[Sources], Mapping[str, Any] | None]  # None: nothing to show, and no section
