"""Means of losses over an epoch's steps, summed on the device so that no step waits for a number; and over networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor


class MeanRecord:
    """`add(loss=..., ...)` once a step, `means()` at the end."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._sums: dict[str, Tensor] = {}

    def add(self, **values: Tensor) -> None:
        """Scalars of one step; a name that a step leaves out counts 0 there."""
        for name, value in values.items():
            share = value.detach() / self._steps
            self._sums[name] = self._sums[name] + share if name in self._sums else share

    def means(self) -> dict[str, float]:
        """Mean over the steps, by name."""
        return {name: float(value) for name, value in self._sums.items()}


def mean_over_networks(records: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """One record of the networks' records, which have the same names."""
    return {name: float(np.mean([record[name] for record in records])) for name in records[0]}
