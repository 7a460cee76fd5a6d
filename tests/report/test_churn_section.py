"""The section on what a re-cleaning changed."""

from __future__ import annotations

from typing import Any

from lnl_core.report.page import render
from lnl_core.report.sections.churn import churn_section
from tests.report.sources import sources

CHURN: dict[str, Any] = {
    "rows_before": 40000,
    "rows_new": 2000,
    "rows_now_trusted": 1,
    "rows_gone": 0,
    "rows_with_another_observed_label": 12,
    "compared": 39987,
    "flips": 210,
    "flip_share": 0.005252,
    "held_back": 430,
    "labels_in_use_changed": 210,
    "by_class": [{"class": "cat", "rows": 4000, "flips": 120, "held_back": 20, "flip_share": 0.03}],
    "from_to": [{"from": "cat", "to": "<b>dog</b>", "flips": 77}],
    "by_source": [],
    "by_shard": [{"shard": "2026/week-07.parquet", "rows": 0, "new": 2000, "flips": 0, "flip_share": 0.0}],
}


def test_there_is_no_section_without_a_version_before() -> None:
    assert churn_section({}) is None
    assert 'id="churn"' not in render(sources(purify={"method": "knn"}))


def test_figures_tables_and_what_is_not_compared() -> None:
    found = churn_section({"churn": CHURN})
    assert found is not None
    assert [(card.title, card.value) for card in found["cards"]] == [
        ("New rows", "2,000"),
        ("Decisions changed", "210"),
        ("Held back", "430"),
        ("Labels in use changed", "210"),
    ]
    assert found["cards"][1].note.replace("\u00a0", " ") == "0.53 % of 39,987 decided before"
    assert found["text"] == "Not compared: 1 row verified since then, 12 rows with another observed label than before."
    assert [table["title"] for table in found["tables"]] == [
        "Decisions that changed",
        "By class, as decided before",
        "By shard",
    ]
    assert found["tables"][1]["rows"] == [
        [("cat", True), ("4,000", False), ("120", False), ("3.00\u00a0%", False), ("20", False)]
    ]


def test_the_page_shows_it_with_names_as_text() -> None:
    text = render(sources(purify={"method": "knn", "churn": CHURN}))
    assert 'href="#churn"' in text
    assert "What changed since the last version" in text
    assert "&lt;b&gt;dog&lt;/b&gt;" in text
