"""First and second moments of features against labels: sums over rows, so they stream and add up over shards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from lnl_core.contracts import ContractError, IntArray

Array = npt.NDArray[np.float64]
Transform = Literal["centre", "standardise"]


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Sums over n rows of features x [d] and one-hot labels y [K]; 8 d (d + K) bytes whatever n is."""

    rows: int
    total: Array  # [d] sum of x
    gram: Array  # [d, d] sum of x x'
    cross: Array  # [d, K] sum of x y'
    counts: Array  # [K] sum of y

    def affine(self, transform: Transform) -> tuple[Array, Array]:
        """(shift, scale), each [d]: features become (x - shift) * scale.

        `centre` keeps the relative size of the features (one common scale), `standardise` gives each unit variance.
        Features that hardly vary get scale 0: they carry nothing and would be blown up.
        """
        mean = self.total / self.rows
        variance = np.maximum(np.diag(self.gram) / self.rows - mean**2, 0.0)
        alive = variance > 1e-10 * max(float(variance.max(initial=0.0)), 1e-30)
        if not alive.any():
            raise ContractError("features: every feature is constant over the noisy rows; use another encoder")
        if transform == "centre":
            return mean, alive / np.sqrt(variance[alive].mean())
        return mean, np.where(alive, 1.0 / np.sqrt(np.where(alive, variance, 1.0)), 0.0)

    def transformed(self, shift: Array, scale: Array) -> tuple[Array, Array]:
        """(Gram [d, d], cross [d, K]) of the transformed features against centred labels, from the sums alone."""
        mean = self.total / self.rows
        offset = mean - shift
        centred = self.gram - self.rows * np.outer(mean, mean) + self.rows * np.outer(offset, offset)
        cross = self.cross - np.outer(mean, self.counts)
        return centred * np.outer(scale, scale), cross * scale[:, None]


def accumulate(
    batches: Iterable[tuple[slice, npt.NDArray[np.float32]]], labels: IntArray, width: int, classes: int
) -> Moments:
    """One pass over the features.

    Raises:
        ContractError: a feature is NaN or infinite; the message has the row number.
    """
    total, counts = np.zeros(width), np.bincount(labels, minlength=classes).astype(np.float64)
    gram, cross = np.zeros((width, width)), np.zeros((width, classes))
    for rows, features in batches:
        onehot = np.eye(classes, dtype=np.float32)[labels[rows]]
        column_sums = np.ones(len(features), dtype=np.float32) @ features
        if not np.isfinite(column_sums).all():
            check_finite(features, rows.start)
        total += column_sums
        gram += features.T @ features
        cross += features.T @ onehot
    return Moments(rows=len(labels), total=total, gram=gram, cross=cross, counts=counts)


def check_finite(features: npt.NDArray[np.float32], first_row: int) -> None:
    """Raise for the first row that holds NaN or infinity."""
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise ContractError(
            f"features: row {first_row + int(bad[0])} (in id order) holds NaN or infinity "
            f"({len(bad)} such rows in its batch); drop the rows or encode them again"
        )
