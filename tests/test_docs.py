"""The site builds strictly (no broken link, anchor or reference), and tables of figures name what made them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs_blocks import FENCED, PAGES, REPOSITORY, read

SOURCE = re.compile(r"benchmarks/[\w/]+\.(?:py|md)|make bench-[a-z]+")
FIGURE = re.compile(r"[~±<]?\d")


def test_the_site_builds(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "how-it-works.html").is_file()


def sections(page: str) -> list[str]:
    """The parts of a page between headings of the second level, with what stands below them."""
    return re.split(r"^(?=## )", FENCED.sub("", read(page)), flags=re.MULTILINE)


def tables_of_figures(text: str) -> list[str]:
    """Tables in which more than a third of the cells, and six at least, begin with a number."""
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        cells = [cell.strip(" *`") for line in table.splitlines()[2:] for cell in line.strip("|").split("|")]
        figures = [cell for cell in cells if FIGURE.match(cell)]
        if len(figures) >= 6 and 3 * len(figures) > len(cells):
            found.append(table)
    return found


def test_tables_of_figures_are_found() -> None:
    assert len(tables_of_figures(read("README.md"))) == 5
    assert tables_of_figures(read("docs/operations.md")) == []


@pytest.mark.parametrize("page", PAGES)
def test_tables_of_figures_name_what_made_them(page: str) -> None:
    """A committed program, or the page that one wrote; test_docs_blocks.py holds that it exists."""
    for section in sections(page):
        for table in tables_of_figures(section):
            assert SOURCE.search(section), f"{page}: name the program or the page of results of\n{table}"
