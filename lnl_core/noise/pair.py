"""Pair noise: a share of each class turns into the next class, the last into the first.

Source: Han et al., Co-teaching, NeurIPS 2018 (there called pair flip).
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from lnl_core.contracts import IntArray
from lnl_core.noise import NOISE_TYPES
from lnl_core.noise.source import Counting, NoiseConfig, NoiseSource, chosen_in_classes


class PairConfig(NoiseConfig):
    """How many rows of each class."""

    rate: float = Field(default=0.45, ge=0.0, le=1.0)  # 0.45: the paper's hardest setting, still a right majority
    counting: Counting = "exact"  # exact: round(rate * n_k) rows of each class; bernoulli: each row with chance `rate`


@NOISE_TYPES.register(
    "pair",
    config=PairConfig,
    summary="a share of each class turns into the next class",
    source="Han et al., Co-teaching, NeurIPS 2018",
)
def pair(source: NoiseSource, config: PairConfig, generator: np.random.Generator) -> IntArray:
    """Noisy labels [n]."""
    classes = len(source.class_names)
    rows = chosen_in_classes(source.true_label, range(classes), config.rate, config.counting, generator)
    noisy = source.true_label.copy()
    noisy[rows] = (noisy[rows] + 1) % classes
    return noisy
