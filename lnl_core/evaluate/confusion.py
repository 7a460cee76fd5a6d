"""Confusion matrices (rows actual, columns predicted) and what is read off them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int


def confusion(
    actual: Int[np.ndarray, " rows"], predicted: Int[np.ndarray, " rows"], classes: int
) -> Int[np.ndarray, "classes classes"]:
    """Counts of (actual, predicted) pairs; labels must lie in 0..classes-1."""
    cells = actual.astype(np.int64) * classes + predicted
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def accuracy(counts: Int[np.ndarray, "classes classes"]) -> float | None:
    """Share of rows on the diagonal; None where there are no rows."""
    total = int(counts.sum())
    return float(np.trace(counts) / total) if total else None


def per_class_accuracy(counts: Int[np.ndarray, "classes classes"]) -> Float[np.ndarray, " classes"]:
    """Share of each actual class that is predicted right; NaN for a class without rows."""
    return np.diag(row_shares(counts)).copy()


def balanced_accuracy(counts: Int[np.ndarray, "classes classes"]) -> float | None:
    """Mean of the per-class accuracies over the classes that have rows; None where there are no rows."""
    shares = per_class_accuracy(counts)
    return float(np.nanmean(shares)) if np.isfinite(shares).any() else None


def row_shares(counts: Int[np.ndarray, "classes classes"]) -> Float[np.ndarray, "classes classes"]:
    """Each row divided by its sum, p(predicted | actual); NaN in rows without counts."""
    totals = counts.sum(axis=1, keepdims=True)
    return np.asarray(np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0))
