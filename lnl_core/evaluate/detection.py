"""Purification as a detector of wrong labels: a changed label says "this was wrong"; suspicion ranks the rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from sklearn.metrics import roc_auc_score


@dataclass(frozen=True, kw_only=True)
class Detection:
    """Scores against the truth; None where one is undefined (nothing changed, nothing wrong, or all wrong)."""

    precision: float | None  # share of the changed rows whose label was wrong
    recall: float | None  # share of the wrong labels that were changed
    f1: float | None
    auroc: float | None  # p(a wrong row is more suspicious than a right one)


def detection(
    wrong: Bool[np.ndarray, " rows"], changed: Bool[np.ndarray, " rows"], suspicion: Float[np.ndarray, " rows"]
) -> Detection:
    """Precision, recall and F1 of `changed`, AUROC of `suspicion`."""
    hits, flagged, faults = int((wrong & changed).sum()), int(changed.sum()), int(wrong.sum())
    both_kinds = 0 < faults < len(wrong)
    return Detection(
        precision=hits / flagged if flagged else None,
        recall=hits / faults if faults else None,
        f1=2 * hits / (flagged + faults) if flagged + faults else None,
        auroc=float(roc_auc_score(wrong, suspicion)) if both_kinds else None,
    )


def review_curve(
    wrong: Bool[np.ndarray, " rows"], suspicion: Float[np.ndarray, " rows"], points: int = 101
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Share of the wrong labels found by reviewing the most suspicious share of the rows: (reviewed, found).

    Equal suspicions keep the order of the rows. Without wrong labels `found` is NaN.
    """
    order = np.argsort(-suspicion, kind="stable")
    reviewed, counts = _grid(len(wrong), points)
    found = np.concatenate([[0], np.cumsum(wrong[order])])[counts]
    total = int(wrong.sum())
    return reviewed, found / total if total else np.full(points, np.nan)


def coverage_curve(
    right: Bool[np.ndarray, " rows"], confidence: Float[np.ndarray, " rows"], points: int = 101
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Accuracy of the most confident share of the rows: (kept, accuracy). NaN where no row is kept."""
    order = np.argsort(-confidence, kind="stable")
    kept, counts = _grid(len(right), points)
    hits = np.concatenate([[0], np.cumsum(right[order])])[counts]
    return kept, np.divide(hits, counts, out=np.full(points, np.nan), where=counts > 0)


def _grid(rows: int, points: int) -> tuple[np.ndarray, np.ndarray]:
    shares = np.linspace(0.0, 1.0, points)
    return shares, np.rint(shares * rows).astype(np.int64)
