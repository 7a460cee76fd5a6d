"""Minibatches of row numbers."""

from __future__ import annotations

import math

import torch
from jaxtyping import Int
from torch import Tensor


def shuffled_batches(
    rows: Int[Tensor, " rows"], batch_size: int, generator: torch.Generator
) -> list[Int[Tensor, " batch"]]:
    """Every row once, in batches of at most `batch_size` whose sizes differ by one at most.

    An even split leaves no tail of a single row, which batch normalisation cannot take. A lone row comes twice.
    """
    if len(rows) == 1:
        return [rows.repeat(2)]
    order = rows[torch.randperm(len(rows), generator=generator)]
    return list(torch.tensor_split(order, max(math.ceil(len(rows) / batch_size), 1)))


class EndlessRows:
    """Row numbers for ever, reshuffled after each pass. `rows` may be empty: then there is nothing to take."""

    def __init__(self, rows: Int[Tensor, " rows"], generator: torch.Generator) -> None:
        self._rows, self._generator = rows, generator
        self._left = rows[:0]

    def take(self, count: int) -> Int[Tensor, " batch"]:
        """The next `count` row numbers."""
        if not len(self._rows):
            return self._rows
        while len(self._left) < count:
            again = self._rows[torch.randperm(len(self._rows), generator=self._generator)]
            self._left = torch.cat([self._left, again])
        taken, self._left = self._left[:count], self._left[count:]
        return taken
