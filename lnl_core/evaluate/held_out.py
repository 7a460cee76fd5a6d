"""evaluate/held_out.parquet: what a version says of the held-out trusted rows. The promotion gate reads nothing else.

    id, label (verified), observed_label, probe_label, probe_confidence, model_label, model_confidence; sorted by id

Null predictions: there was no such classifier. Metadata: class names, what made the predictions (`about`), and where
something is missing the reason (`missing`). About 30 bytes a row, so a store of versions keeps every one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from lnl_core.contracts import (
    NO_LABEL,
    BoolArray,
    FloatArray,
    Ids,
    IntArray,
    check_range,
    check_unique,
    read_table,
    string_ids,
    write_table,
)
from lnl_core.evaluate.interval import wilson_interval

Classifier = Literal["probe", "model"]
CLASSIFIERS: tuple[Classifier, ...] = ("probe", "model")
HELD_OUT = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("observed_label", pa.int32()),
        pa.field("probe_label", pa.int32()),
        pa.field("probe_confidence", pa.float32()),
        pa.field("model_label", pa.int32()),
        pa.field("model_confidence", pa.float32()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class HeldOutPredictions:
    """Predictions of one classifier for n rows."""

    label: IntArray  # [n], 0..K-1
    confidence: FloatArray  # [n] the probability of that label


@dataclass(frozen=True, kw_only=True)
class HeldOutTable:
    """held_out.parquet in memory, sorted by id."""

    ids: Ids  # [n]
    label: IntArray  # [n] verified
    observed: IntArray  # [n]; NO_LABEL where the source said nothing
    predictions: Mapping[Classifier, HeldOutPredictions]  # of the classifiers that there were
    class_names: tuple[str, ...]
    about: Mapping[str, Any] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)  # what is not there -> why

    def __len__(self) -> int:
        return len(self.ids)

    def right(self, classifier: Classifier) -> BoolArray:
        """[n] does the classifier say the verified label?"""
        return np.asarray(self.predictions[classifier].label == self.label)


def write_held_out(path: Path, table: HeldOutTable) -> None:
    """Check, sort by id and write held_out.parquet."""
    check_unique(table.ids, str(path))
    check_range(table.label, table.ids, len(table.class_names), "label", str(path))
    order = np.argsort(table.ids, kind="stable")
    observed = table.observed[order]
    columns = [
        pa.array(table.ids[order], pa.string()),
        pa.array(table.label[order], pa.int32()),
        pa.array(observed, pa.int32(), mask=observed == NO_LABEL),
    ]
    for classifier in CLASSIFIERS:
        predicted = table.predictions.get(classifier)
        if predicted is None:
            columns += [pa.nulls(len(order), pa.int32()), pa.nulls(len(order), pa.float32())]
        else:
            columns += [
                pa.array(predicted.label[order], pa.int32()),
                pa.array(predicted.confidence[order], pa.float32()),
            ]
    metadata = {"class_names": list(table.class_names), "about": dict(table.about), "missing": dict(table.missing)}
    metadata["classifiers"] = [name for name in CLASSIFIERS if name in table.predictions]
    write_table(path, pa.Table.from_arrays(columns, schema=HELD_OUT), metadata)


def read_held_out(path: Path) -> HeldOutTable:
    """Read and check held_out.parquet.

    Raises:
        ContractError: not such a table, an id that stands twice, or a label that is no class.
    """
    table, metadata = read_table(path, HELD_OUT)
    names = tuple(metadata.get("class_names", ()))
    found = HeldOutTable(
        ids=string_ids(table["id"].to_pylist()),
        label=_ints(table, "label"),
        observed=_ints(table, "observed_label"),
        predictions={name: _predicted(table, name) for name in CLASSIFIERS if name in metadata.get("classifiers", ())},
        class_names=names,
        about=metadata.get("about", {}),
        missing=metadata.get("missing", {}),
    )
    check_unique(found.ids, str(path))
    check_range(found.label, found.ids, len(names), "label", str(path))
    return found


def score_held_out(table: HeldOutTable) -> dict[str, Any]:
    """Rows, and for the observed labels and each classifier how many are right, with a 95 % interval."""
    scores: dict[str, Any] = {"rows": len(table)}
    if not len(table):
        return scores
    known = table.observed != NO_LABEL
    if known.any():
        scores["observed_accuracy"] = float((table.observed[known] == table.label[known]).mean())
    for name in table.predictions:
        right = int(table.right(name).sum())
        low, high = wilson_interval(right, len(table))
        scores[name] = {
            "right": right,
            "accuracy": right / len(table),
            "accuracy_low": low,
            "accuracy_high": high,
        }
    return scores


def _predicted(table: pa.Table, name: str) -> HeldOutPredictions:
    confidence = table[f"{name}_confidence"].to_numpy().astype(np.float32)
    return HeldOutPredictions(label=_ints(table, f"{name}_label"), confidence=confidence)


def _ints(table: pa.Table, column: str) -> IntArray:
    values: IntArray = table[column].fill_null(NO_LABEL).to_numpy().astype(np.int32)
    return values
