"""Ramps of loss weights."""

from __future__ import annotations

import math


def linear_ramp(epoch: float, start: int | float, length: int | float) -> float:
    """0 until `start`, then linearly to 1 within `length` epochs; `epoch` may be fractional. Length 0: a step."""
    if length == 0:
        return float(epoch >= start)
    return min(max((epoch - start) / length, 0.0), 1.0)


def sigmoid_ramp(now: int | float, length: int | float) -> float:
    """exp(-5 (1 - now/length)^2): from 0.007 at 0 to 1 at `length` and after. Length 0: 1.

    Laine and Aila, Temporal Ensembling for Semi-Supervised Learning, ICLR 2017 (arXiv 1610.02242), Sec. 4.
    """
    missing = 0.0 if length == 0 else 1 - min(max(now / length, 0.0), 1.0)
    return math.exp(-5 * missing**2)
