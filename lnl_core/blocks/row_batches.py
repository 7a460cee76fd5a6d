"""Minibatches of row numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator

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


def endless_rows(rows: Int[Tensor, " rows"], generator: torch.Generator) -> Iterator[int]:
    """Row numbers for ever, reshuffled after each pass. `rows` must not be empty."""
    while True:
        yield from rows[torch.randperm(len(rows), generator=generator)].tolist()
