"""Sections that stand in files of their own: found by their presence, in the page and in its line of links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lnl_core.report import page, sections
from lnl_core.report.page import OWN_SECTIONS, render
from lnl_core.report.section import Section
from tests.report.sources import sources

FILE = """
from lnl_core.report.section import Section

SECTION = Section(
    anchor="ages",
    title="Ages",
    before="noise",
    template='<section id="ages"><h2>Ages</h2><p>{{ content.text }}</p></section>',
    content=lambda sources: {"text": "<b>" + str(len(sources.names))},
)
"""


def anchors(html: str) -> list[str]:
    return re.findall(r'<section id="(\w+)"', html)


def test_a_new_file_is_a_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ages.py").write_text(FILE, encoding="utf-8")
    monkeypatch.setattr(sections, "__path__", [*sections.__path__, str(tmp_path)])
    html = render(sources())
    assert anchors(html) == [*list(OWN_SECTIONS)[:3], "ages", *list(OWN_SECTIONS)[3:]]
    assert '<a href="#ages">Ages</a><a href="#noise">Noise</a>' in html
    assert "<p>&lt;b&gt;" in html  # what it shows is escaped


def test_one_with_nothing_to_show_has_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = Section(anchor="empty", title="Empty", before="run", template="", content=lambda _: None)
    monkeypatch.setattr(page, "sections", lambda: [empty])
    html = render(sources())
    assert anchors(html) == list(OWN_SECTIONS)
    assert "Empty" not in html


def test_the_links_are_the_sections() -> None:
    html = render(sources())
    assert re.findall(r'<a href="#(\w+)">', html[: html.index("<main")]) == anchors(html)
