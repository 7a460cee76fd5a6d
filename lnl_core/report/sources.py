"""All that the page is made of, as the stage report hands it over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lnl_core.contracts import Labels, QuarantineRow
from lnl_core.report.run_files import Record
from lnl_core.report.summary import arms_of
from lnl_core.report.thumbnails import Thumbnail


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What the stages left; empty or None where a stage has not run."""

    title: str
    made: str  # when, as text
    labels: Labels | None
    metrics: Mapping[str, Mapping[str, Any]]
    plots: Mapping[str, list[Record]]  # by file name without .csv
    train_curves: Sequence[Record]
    pretrain_curve: Sequence[Record]
    quarantine: Sequence[QuarantineRow]
    thumbnails: Mapping[str, Thumbnail]
    purifier: Mapping[str, Any]  # `about` of purified.parquet
    versions: Sequence[tuple[str, str]]
    settings: Mapping[str, Mapping[str, Any]]  # section -> setting -> value

    @property
    def scores(self) -> Mapping[str, Any]:
        return self.metrics.get("evaluate", {})

    @property
    def arms(self) -> dict[str, str]:
        """Arm of training -> how the page calls it."""
        found = arms_of(self.metrics)
        return {found["with"]: "with purification", found["without"]: "without"}

    @property
    def names(self) -> tuple[str, ...]:
        return self.labels.class_names if self.labels else ()

    def plot(self, name: str) -> list[Record]:
        return self.plots.get(name, [])
