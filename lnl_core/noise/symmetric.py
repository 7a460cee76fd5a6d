"""Symmetric noise: a share of the rows gets a uniformly drawn class.

Two protocols that must never share a table: `inclusive` draws among all K classes, so the draw may hit the true one
and the realised rate is rate * (1 - 1/K) (nearly all published tables; "90 %" on CIFAR-10 is 81 %); `exclusive` draws
among the K - 1 others, so the realised rate is the rate.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from lnl_core.contracts import IntArray
from lnl_core.noise import NOISE_TYPES
from lnl_core.noise.source import Counting, NoiseConfig, NoiseSource, chosen_rows


class SymmetricConfig(NoiseConfig):
    """How many rows, and whether the draw may hit the true class."""

    rate: float = Field(default=0.5, ge=0.0, le=1.0)
    protocol: Literal["inclusive", "exclusive"] = "inclusive"
    counting: Counting = "exact"  # exact: round(rate * n) rows are drawn; bernoulli: each row with chance `rate`


@NOISE_TYPES.register(
    "symmetric",
    config=SymmetricConfig,
    summary="a share of the rows gets a uniformly drawn class, the true one included or excluded",
    source="van Rooyen et al., Learning with Symmetric Label Noise, 2015",
)
def symmetric(source: NoiseSource, config: SymmetricConfig, generator: np.random.Generator) -> IntArray:
    """Noisy labels [n]."""
    classes = len(source.class_names)
    rows = chosen_rows(np.arange(len(source.true_label)), config.rate, config.counting, generator)
    noisy = source.true_label.copy()
    if config.protocol == "inclusive":
        noisy[rows] = generator.integers(0, classes, len(rows))
    else:
        noisy[rows] = (noisy[rows] + generator.integers(1, classes, len(rows))) % classes
    return noisy
