"""What a re-cleaning changed against the version before: figures and tables by class, by source and by shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lnl_core.report import formats
from lnl_core.report.section import Section
from lnl_core.report.sources import Sources

TABLES = (
    ("from_to", "Decisions that changed", ("from", "to", "flips")),
    ("by_class", "By class, as decided before", ("class", "rows", "flips", "flip_share", "held_back")),
    ("by_source", "By source", ("source", "rows", "new", "flips", "flip_share")),
    ("by_shard", "By shard", ("shard", "rows", "new", "flips", "flip_share")),
)
HEADS = {"flip_share": "share", "held_back": "held back", "flips": "changed"}
NAMES = ("from", "to", "class", "source", "shard")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A card of the section."""

    title: str
    value: str
    note: str


def churn_section(purify: Mapping[str, Any]) -> dict[str, Any] | None:
    """Cards, tables and a sentence about rows without a comparison; None where there was no version before."""
    churn = purify.get("churn")
    if not churn:
        return None
    tables = [_table(title, churn.get(key) or [], columns) for key, title, columns in TABLES]
    return {"cards": _cards(churn), "tables": [table for table in tables if table["rows"]], "text": _text(churn)}


def _cards(churn: Mapping[str, Any]) -> list[Figure]:
    compared = formats.count(churn["compared"])
    return [
        Figure(title="New rows", value=formats.count(churn["rows_new"]), note=f"{_rows(churn['rows_before'])} before"),
        Figure(
            title="Decisions changed",
            value=formats.count(churn["flips"]),
            note=f"{formats.percent(churn['flip_share'], 2)} of {compared} decided before",
        ),
        Figure(
            title="Held back",
            value=formats.count(churn["held_back"]),
            note="another label is likelier now, but by less than the margin",
        ),
        Figure(
            title="Labels in use changed",
            value=formats.count(churn["labels_in_use_changed"]),
            note="what a training sees and the ledger records",
        ),
    ]


def _text(churn: Mapping[str, Any]) -> str:
    kinds = (
        ("rows_now_trusted", "verified since then"),
        ("rows_gone", "gone"),
        ("rows_with_another_observed_label", "with another observed label than before"),
    )
    left_out = [f"{_rows(churn[key])} {what}" for key, what in kinds if churn.get(key)]
    return f"Not compared: {', '.join(left_out)}." if left_out else ""


def _rows(count: int) -> str:
    return f"{formats.count(count)} {'row' if count == 1 else 'rows'}"


def _table(title: str, records: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> dict[str, Any]:
    return {
        "title": title,
        "columns": [(HEADS.get(name, name), name in NAMES) for name in columns],
        "rows": [[(_cell(name, record.get(name)), name in NAMES) for name in columns] for record in records],
    }


def _cell(column: str, value: Any) -> str:
    if column in NAMES or value is None:
        return formats.plain(value)
    return formats.percent(value, 2) if column == "flip_share" else formats.count(value)


TEMPLATE = """
<section id="churn">
  <h2>What changed since the last version</h2>
  <p class="intro">Every row that both versions decided on, under the same observed label, is compared. An old decision
    changes only where the evidence against it beats the margin.</p>
  <div class="cards small-cards">
    {% for card in content.cards %}<div class="card"><h3>{{ card.title }}</h3>
      <p class="value">{{ card.value }}</p><p class="note">{{ card.note }}</p></div>
    {% endfor %}
  </div>
  {% if content.text %}<p class="intro">{{ content.text }}</p>{% endif %}
  {% for group in content.tables|batch(2) %}
  <div class="pair">
    {% for table in group %}
    <div class="panel"><h3>{{ table.title }}</h3>
      <div class="scroll tall"><table class="one-line">
        <thead><tr>{% for head, names in table.columns %}
          <th{{ '' if names else ' class=n' }}>{{ head }}</th>
          {% endfor %}</tr></thead>
        <tbody>{% for row in table.rows %}<tr>{% for cell, names in row %}
          <td{{ '' if names else ' class=n' }}>{{ cell }}</td>
          {% endfor %}</tr>{% endfor %}</tbody>
      </table></div></div>
    {% endfor %}
  </div>
  {% endfor %}
</section>
"""


def _content(sources: Sources) -> dict[str, Any] | None:
    return churn_section(sources.metrics.get("purify", {}))


SECTION = Section(anchor="churn", title="Changes", before="labels", template=TEMPLATE, content=_content)
