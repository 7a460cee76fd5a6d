"""First and second moments of features against labels: sums over rows, so they stream and add up over shards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

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

    def plus(self, other: Moments) -> Moments:
        """The sums over both sets of rows."""
        return _combined(np.add, self, other)

    def minus(self, other: Moments) -> Moments:
        """The sums without rows that are among these; sum both in float64, for what is left may be small."""
        return _combined(np.subtract, self, other)

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


def _combined(how: np.ufunc, first: Moments, second: Moments) -> Moments:
    arrays = {name: how(getattr(first, name), getattr(second, name)) for name in ("total", "gram", "cross", "counts")}
    return Moments(rows=int(how(first.rows, second.rows)), **arrays)


def no_rows(width: int, classes: int) -> Moments:
    """The sums over nothing, which any others may be added to."""
    gram, cross = np.zeros((width, width)), np.zeros((width, classes))
    return Moments(rows=0, total=np.zeros(width), gram=gram, cross=cross, counts=np.zeros(classes))


def accumulate(
    batches: Iterable[tuple[slice, npt.NDArray[np.float32]]],
    labels: IntArray,
    width: int,
    classes: int,
    products: type[np.float32] | type[np.float64] = np.float32,
) -> Moments:
    """One pass over the features.

    Args:
        products: the type in which a batch is multiplied; batches are added up in float64 either way. float32 is twice
            as fast, float64 is for sums that others are subtracted from.
    Raises:
        ContractError: a feature is NaN or infinite; the message has the row number.
    """
    total, counts = np.zeros(width), np.bincount(labels, minlength=classes).astype(np.float64)
    gram, cross = np.zeros((width, width)), np.zeros((width, classes))
    for rows, batch in batches:
        features: npt.NDArray[Any] = batch.astype(products, copy=False)
        onehot: npt.NDArray[Any] = np.eye(classes, dtype=products)[labels[rows]]
        ones: npt.NDArray[Any] = np.ones(len(features), dtype=products)
        column_sums = ones @ features
        if not np.isfinite(column_sums).all():
            check_finite(batch, rows.start)
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
