"""Where the report finds what the stages wrote, and readers that accept that it is not there.

The report never reads the truth: it shows what evaluate wrote into its scores and plots.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lnl_core.files import read_json
from lnl_core.renamed import with_new_keys

STAGES = ("prepare", "inject", "pretrain", "features", "purify", "train", "evaluate", "report")
Record = dict[str, str]


@runtime_checkable
class RunFiles(Protocol):
    """The paths that the report reads; the stages' `Layout` has them."""

    @property
    def root(self) -> Path: ...
    @property
    def images(self) -> Path: ...
    @property
    def quarantine(self) -> Path: ...
    @property
    def labels(self) -> Path: ...
    @property
    def pretrain_curve(self) -> Path: ...
    @property
    def purified(self) -> Path: ...
    @property
    def train_curves(self) -> Path: ...
    @property
    def plots(self) -> Path: ...
    def metrics(self, stage: str) -> Path: ...


def read_metrics(paths: RunFiles) -> dict[str, Mapping[str, Any]]:
    """The metrics of every stage that has run, by stage, in stage order."""
    found = {}
    for stage in STAGES:
        path = paths.metrics(stage)
        if path.exists():
            found[stage] = with_new_keys(read_json(path).get(stage, {}))
    return found


def read_records(path: Path) -> list[Record]:
    """The rows of a CSV with a header as dictionaries of texts; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def number(record: Mapping[str, str | None], key: str) -> float | None:
    """A CSV field as a number; None where it is empty or absent."""
    text = record.get(key)
    return float(text) if text else None


def dig(metrics: Mapping[str, Any], *keys: str) -> Any:
    """The value under nested keys; None where one is absent."""
    value: Any = metrics
    for key in keys:
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value
