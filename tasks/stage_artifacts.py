"""What a finished stage shows in Prefect: a table of its metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prefect.artifacts import acreate_table_artifact

MOST_ROWS = 60  # the report has the rest


async def show_metrics(stage: str, metrics: Mapping[str, Any], how: str) -> None:
    """The artifact `metrics-STAGE` (table)."""
    found = sorted(flat(metrics), key=lambda metric: metric[0].startswith("settings."))  # what was measured first
    rows = [{"metric": name, "value": value} for name, value in found]
    cut = f"; {MOST_ROWS} of {len(rows)} metrics" if len(rows) > MOST_ROWS else ""
    await acreate_table_artifact(
        key=f"metrics-{stage}", table=rows[:MOST_ROWS], description=f"Stage {stage}: {how}{cut}"
    )


def flat(metrics: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, text) of each single value; lists are left to the report."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{above}{name}.")
        elif not isinstance(value, list | tuple) and value is not None:
            yield f"{above}{name}", f"{value:.4g}" if isinstance(value, float) else str(value)
