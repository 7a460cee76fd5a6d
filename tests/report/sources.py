"""What the page is made of, where a test cares for metrics and plots alone."""

from __future__ import annotations

from typing import Any

from lnl_core.report.run_files import Record
from lnl_core.report.sources import Sources


def sources(plots: dict[str, list[Record]] | None = None, **metrics: dict[str, Any]) -> Sources:
    """`sources(purify={...})`: the metrics of the stages that have run; all else is empty."""
    return Sources(
        title="t",
        made="now",
        labels=None,
        metrics=metrics,
        plots=plots or {},
        train_curves=[],
        pretrain_curve=[],
        quarantine=[],
        thumbnails={},
        purifier={},
        versions=[],
        settings={},
    )
