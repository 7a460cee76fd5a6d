"""What a re-cleaning changed, as it shows in Prefect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect.artifacts import acreate_markdown_artifact

from lnl_core.report.sections.churn import churn_section


async def show_churn(purify: Mapping[str, Any]) -> None:
    """The artifact `churn` (markdown), from the metrics of stage purify."""
    await acreate_markdown_artifact(key="churn", markdown=churn_markdown(purify))


def churn_markdown(purify: Mapping[str, Any]) -> str:
    """Figures, then the tables by class, source and shard; a sentence where there was no version before."""
    section = churn_section(purify)
    if section is None:
        return "The first version: there is nothing to compare it with."
    parts = [f"**{card.title}: {card.value}** ({card.note})" for card in section["cards"]]
    parts += [section["text"]] if section["text"] else []
    return "\n\n".join([*parts, *map(_table, section["tables"])]) + "\n"


def _table(table: Mapping[str, Any]) -> str:
    head = " | ".join(name for name, _ in table["columns"])
    line = " | ".join("---" if is_name else "---:" for _, is_name in table["columns"])
    rows = "\n".join(f"| {' | '.join(_escaped(cell) for cell, _ in row)} |" for row in table["rows"])
    return f"### {table['title']}\n\n| {head} |\n| {line} |\n{rows}"


def _escaped(text: str) -> str:
    """Names of sources come from a crawl: they may neither end a cell nor bring markup."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>()#|!" else letter for letter in text)
