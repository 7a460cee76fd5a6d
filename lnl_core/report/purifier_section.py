"""The purifier's section: its settings and figures, and the candidates that it compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lnl_core.report import formats
from lnl_core.report.charts import Line, LineChart, line_chart
from lnl_core.report.sources import Sources

CANDIDATE_ROWS = 60
TABLES = ("candidates",)  # first; the others by name


def purifier(sources: Sources) -> dict[str, Any]:
    metrics = sources.metrics.get("purify", {})
    chosen = metrics.get("chosen") or {}
    settings = metrics.get("settings") or sources.purifier.get("settings") or {}
    figures = {key: value for key, value in metrics.items() if is_number(value) and key != "seconds"}
    return {
        "method": metrics.get("method") or sources.purifier.get("method"),
        "settings": [(words(key), formats.plain(value)) for key, value in settings.items()],
        "chosen": [(words(key), formats.plain(value)) for key, value in chosen.items()],
        "figures": [(words(key), formats.plain(value)) for key, value in figures.items()],
        "tables": [
            comparison(key, metrics[key], chosen)
            for key in sorted(metrics, key=lambda key: (key not in TABLES, key))
            if is_table(metrics[key]) and key != "curve"
        ],
    }


def comparison(key: str, records: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """A table of candidates, the chosen one marked; cut where it is long, but never without the chosen one.

    What names a record stands first, then figures; seconds last.
    """
    found = dict.fromkeys(column for record in records for column in record)
    names = {column for column in found if any(isinstance(record.get(column), str) for record in records)}
    columns = sorted(found, key=lambda column: (column not in names, column == "seconds"))
    rows = [
        {
            "chosen": _is_chosen(record, chosen),
            "cells": [(formats.plain(record.get(column)), column in names) for column in columns],
        }
        for record in records
    ]
    shown = [row for place, row in enumerate(rows) if row["chosen"] or place < CANDIDATE_ROWS]
    heads = [(words(column), column in names) for column in columns]
    return {"title": words(key), "columns": heads, "rows": shown, "all": len(rows)}


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(record, Mapping) for record in value)


def words(key: str) -> str:
    return key.replace("_", " ")


def _is_chosen(row: Mapping[str, Any], chosen: Mapping[str, Any]) -> bool:
    shared = [key for key in chosen if key in row]
    return bool(shared) and all(row[key] == chosen[key] for key in shared)


def purify_curve(curve: Any) -> LineChart | None:
    """The held-out loss over a purifier's steps, where it records one."""
    if not is_table(curve):
        return None
    points = [
        (float(record["step"]), float(record["held_out_loss"]))
        for record in curve
        if is_number(record.get("step")) and is_number(record.get("held_out_loss"))
    ]
    lines: dict[str, Line] = {"held-out loss": ("s-after", points)}
    return line_chart(lines, x_title="step", y_title="loss on held-out trusted rows", whole_x=True)
