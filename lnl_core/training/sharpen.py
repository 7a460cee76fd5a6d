"""Sharpening: a soft label made more certain (MixMatch, arXiv 1905.02249, Eq. 7)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def sharpen(probabilities: Float[Tensor, "batch classes"], temperature: float) -> Float[Tensor, "batch classes"]:
    """p ** (1 / T), each row scaled back to sum 1. T = 1 changes nothing; T towards 0 gives a one-hot row.

    Rows are divided by their largest entry first, so a small T cannot underflow the whole row to 0.
    """
    powered = (probabilities / probabilities.amax(dim=1, keepdim=True)) ** (1 / temperature)
    return powered / powered.sum(dim=1, keepdim=True)
