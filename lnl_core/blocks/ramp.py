"""Ramps of loss weights."""

from __future__ import annotations


def linear_ramp(epoch: float, start: int | float, length: int | float) -> float:
    """0 until `start`, then linearly to 1 within `length` epochs; `epoch` may be fractional. Length 0: a step."""
    if length == 0:
        return float(epoch >= start)
    return min(max((epoch - start) / length, 0.0), 1.0)
