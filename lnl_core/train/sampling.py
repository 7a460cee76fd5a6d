"""Which rows an epoch sees: all, or a class-balanced sample, as the literature does on Clothing1M."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Rows an epoch; None: all of them (balanced: as many as there are)."""

    rows: int | None = None
    balanced: bool = False  # every class equally often, by its label

    def draw(self, label: Int[Tensor, " rows"], generator: torch.Generator) -> Int[Tensor, " sample"]:
        """Row numbers, sorted; without replacement as far as the rows reach.

        Balanced: classes that occur get equal counts (up to one). A class with too few rows gives each of them once:
        methods keep one state a row, and a row twice in a batch would count double.
        """
        count = min(self.rows or len(label), len(label))
        if not self.balanced:
            if count == len(label):
                return torch.arange(len(label))
            return torch.randperm(len(label), generator=generator)[:count].sort().values
        order = torch.randperm(len(label), generator=generator)
        turn = _place_in_class(label[order])
        return order[turn.argsort(stable=True)[:count]].sort().values if self.rows else _evened(order, turn, label)


def _place_in_class(label: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """How many rows before each have its class."""
    by_class = label.argsort(stable=True)
    counts = torch.bincount(label)
    starts = counts.cumsum(0) - counts
    place = torch.empty_like(label)
    place[by_class] = torch.arange(len(label)) - starts[label[by_class]]
    return place


def _evened(
    order: Int[Tensor, " rows"], turn: Int[Tensor, " rows"], label: Int[Tensor, " rows"]
) -> Int[Tensor, " sample"]:
    """As many rows of each class as the smallest class has."""
    counts = torch.bincount(label)
    least = int(counts[counts > 0].min())
    return order[turn < least].sort().values
