"""Uncertainty of shares: how far a measured accuracy may be from the one that more rows would show."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool

Z95 = 1.959964  # standard normal quantile at 97.5 %


def wilson_interval(right: int, rows: int) -> tuple[float, float]:
    """95 % score interval of a share (Wilson 1927); stays inside 0..1 and is honest near the ends.

    Raises:
        ValueError: no rows.
    """
    if rows < 1:
        raise ValueError(f"rows = {rows}: an interval needs at least one row")
    share = right / rows
    ratio = Z95**2 / rows
    centre = (share + ratio / 2) / (1 + ratio)
    half = Z95 / (1 + ratio) * math.sqrt(share * (1 - share) / rows + ratio / (4 * rows))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(
    right: Bool[np.ndarray, " rows"], other_right: Bool[np.ndarray, " rows"]
) -> tuple[float, float, float]:
    """Accuracy of the first minus that of the second on the same rows, with its 95 % interval (difference, low, high).

    Pairing matters: both models fail on the same hard rows, so the difference is known better than either accuracy.
    The normal approximation of the mean of -1, 0 and 1; with few rows that differ it is only a rough guide.
    """
    steps = right.astype(np.float64) - other_right
    mean = float(steps.mean())
    half = Z95 * float(steps.std()) / math.sqrt(len(steps))
    return mean, mean - half, mean + half
