"""Matrices back from the cells that evaluate wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lnl_core.report.run_files import Record, number


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Rows actual, columns predicted."""

    counts: Int[np.ndarray, "classes classes"]

    @property
    def shares(self) -> Float[np.ndarray, "classes classes"]:
        """Each row divided by its sum; zero where the row is empty."""
        totals = self.counts.sum(axis=1, keepdims=True)
        return np.asarray(self.counts / np.maximum(totals, 1))

    def largest(self, names: Sequence[str], limit: int) -> list[tuple[str, str, int, float]]:
        """The largest cells off the diagonal: actual, predicted, rows, share of the actual class."""
        off = self.counts.copy()
        np.fill_diagonal(off, 0)
        cells = [divmod(int(cell), len(off)) for cell in np.argsort(-off, axis=None, kind="stable")[:limit]]
        shares = self.shares
        return [(names[i], names[j], int(off[i, j]), float(shares[i, j])) for i, j in cells if off[i, j]]


def confusion(records: Sequence[Record], classes: int) -> Confusion | None:
    """From a confusion or flow table; None where it has no cells."""
    if not records:
        return None
    counts = np.zeros((classes, classes), dtype=np.int64)
    for record in records:
        counts[int(record["actual_label"]), int(record["predicted_label"])] = int(record["count"])
    return Confusion(counts=counts)


def transition(records: Sequence[Record], column: str, classes: int) -> Float[np.ndarray, "classes classes"] | None:
    """`true_share` or `estimated_share` of transition.csv; None where the column is empty throughout."""
    cells = [(int(r["actual_label"]), int(r["predicted_label"]), number(r, column)) for r in records]
    if all(share is None for *_, share in cells):
        return None
    matrix = np.zeros((classes, classes))
    for row, place, share in cells:
        matrix[row, place] = share or 0.0
    return matrix
