"""Line charts out of the CSV files that stages write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lnl_core.report.charts import Line, LineChart, line_chart
from lnl_core.report.run_files import Record, number


def points(records: Sequence[Record], x: str, y: str) -> list[tuple[float, float]]:
    """Pairs of two columns, without the rows where one is empty or no finite number."""
    pairs = [(number(record, x), number(record, y)) for record in records]
    return [(a, b) for a, b in pairs if a is not None and b is not None and np.isfinite(b)]


def epoch_chart(lines: Mapping[str, Line], y_title: str, percents: bool = False) -> LineChart | None:
    """Lines over epochs; None where no line has a point."""
    return line_chart(lines, x_title="epoch", y_title=y_title, percents=percents, whole_x=True)


def epoch_lines(records: Sequence[Record], columns: Mapping[str, tuple[str, str]]) -> dict[str, Line]:
    """`columns`: column -> (name of the line, CSS class)."""
    return {name: (style, points(records, "epoch", column)) for column, (name, style) in columns.items()}
