"""The CSV files of `evaluate/plots`: small, aggregated tables for DVC plots and for the report.

    confusion_observed.csv   actual (true), predicted (observed), their class numbers, count; cells with rows only
    confusion_purified.csv   the same against the purified labels
    confusion_test_*.csv     the same on test rows, for each model
    flow.csv                 actual (observed), predicted (purified); needs no truth
    transition.csv           a row a cell with something in it: true share and estimated share
    per_class.csv            class, label accuracy before and after, test accuracy of each model
    reliability.csv          what (labels, model_best, ...), bin, count, confidence, accuracy
    review.csv               share reviewed in order of suspicion, share of the wrong labels found
    coverage.csv             share kept in order of confidence, accuracy of the kept labels
    suspicious.csv           rows: id, observed, purified, confidence, suspicion, true (empty where unknown)
    uncertain.csv            the same columns, the least confident rows first
    selection.csv            traced epoch: share of the rows selected, precision, recall, AUROC of the selection
    predicted.csv            traced epoch: share of right labels as the method predicts, as learned from, as observed
    small_loss.csv           epoch, bin: rows, right and wrong labels, mean density of the two Gaussians of the split
    trainer_transition.csv   as transition.csv: true share and the training method's estimate, of the learned labels
    embedding.csv            a row a test image: place on the t-SNE map, best known label, prediction of model_best

An empty field says: not known. Class columns hold names; `*_label` columns hold class numbers, which are unique.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lnl_core.evaluate.calibration import ReliabilityBin
from lnl_core.files import atomic_path

CONFUSION = ("actual", "predicted", "actual_label", "predicted_label", "count")
Cell = str | int | float | np.integer[Any] | np.floating[Any] | None


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Write one CSV atomically; floats with six digits, None and NaN as empty fields."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_text(cell) for cell in row] for row in rows)


def confusion_rows(counts: Int[np.ndarray, "classes classes"], names: Sequence[str]) -> list[tuple[Cell, ...]]:
    """The cells with rows: actual, predicted, actual_label, predicted_label, count."""
    cells = np.argwhere(counts > 0).tolist()
    return [(names[row], names[column], row, column, int(counts[row, column])) for row, column in cells]


def transition_rows(
    true: Float[np.ndarray, "classes classes"] | None,
    estimated: Float[np.ndarray, "classes classes"] | None,
    names: Sequence[str],
    smallest: float = 5e-4,
) -> list[tuple[Cell, ...]]:
    """The cells where either share reaches `smallest`: true, observed, their labels, true_share, estimated_share."""
    known = [matrix for matrix in (true, estimated) if matrix is not None]
    if not known:
        return []
    seen = np.nanmax(np.stack([np.nan_to_num(matrix) for matrix in known]), axis=0) >= smallest
    return [
        (names[row], names[column], row, column, _entry(true, row, column), _entry(estimated, row, column))
        for row, column in np.argwhere(seen).tolist()
    ]


def per_class_rows(names: Sequence[str], columns: Mapping[str, Sequence[Cell] | np.ndarray]) -> list[tuple[Cell, ...]]:
    """A row a class: name, number, then the given columns."""
    return [(name, label, *(column[label] for column in columns.values())) for label, name in enumerate(names)]


def reliability_rows(what: str, bins: Sequence[ReliabilityBin]) -> list[tuple[Cell, ...]]:
    """what, low, high, count, confidence, accuracy."""
    return [(what, bin_.low, bin_.high, bin_.count, bin_.confidence, bin_.accuracy) for bin_ in bins]


def _entry(matrix: Float[np.ndarray, "classes classes"] | None, row: int, column: int) -> float | None:
    return None if matrix is None else float(matrix[row, column])


def _text(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float | np.floating):
        return "" if math.isnan(cell) else f"{cell:.6g}"
    return str(cell)
