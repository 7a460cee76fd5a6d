"""SSR's rules over a whole set of rows: whom to relabel, what neighbours vote, whom to select, whom to draw.

Feng, Tzimiropoulos, Patras: SSR, BMVC 2022 (arXiv 2111.11288), Sec. 3. No loop runs over rows.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

CLASS_SHARE = 0.4  # neighbours are at most so many of an even class: the paper's 200 of CIFAR-100's 500
FEWEST = 10  # neighbours, where there are so many rows


def relabel(
    probabilities: Float[Tensor, "rows classes"],
    label: Int[Tensor, " rows"],
    known: Bool[Tensor, " rows"],
    theta_r: float,
) -> tuple[Int[Tensor, " rows"], Bool[Tensor, " rows"]]:
    """y^r = argmax p where max p > theta_r, else the label as it was observed; and which rows changed class.

    Verified rows keep their label.
    """
    confidence, predicted = probabilities.max(dim=1)
    new = torch.where((confidence > theta_r) & ~known, predicted, label)
    return new, new != label


def balance(votes: Float[Tensor, "rows classes"], voters: Int[Tensor, " classes"]) -> Float[Tensor, "rows classes"]:
    """Votes divided by how many voters each class has, scaled to sum 1: a large class does not win by its size."""
    weighted = votes / voters.clamp_min(1)  # a class without voters has no votes
    return weighted / weighted.sum(dim=1, keepdim=True)


def consistency(votes: Float[Tensor, "rows classes"], label: Int[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    """c = q[y^r] / max q: 1 where the neighbours agree with the label."""
    return votes.gather(1, label[:, None])[:, 0] / votes.amax(dim=1)


def select(
    agreement: Float[Tensor, " rows"], known: Bool[Tensor, " rows"], theta_s: float, least: int
) -> Bool[Tensor, " rows"]:
    """c >= theta_s, or where these are fewer than `least`, the `least` most consistent; and all verified rows."""
    chosen = agreement >= theta_s
    if int(chosen.sum()) < min(least, len(agreement)):
        chosen = torch.zeros_like(chosen)
        chosen[agreement.argsort(descending=True, stable=True)[:least]] = True
    return chosen | known


def neighbour_count(k: int, rows: int, classes: int) -> int:
    """k, but no more than CLASS_SHARE of an even class: in a small set 200 neighbours reach into other classes."""
    return min(k, max(math.ceil(CLASS_SHARE * rows / classes), FEWEST))


def draw_by_class(
    rows: Int[Tensor, " rows"],
    label: Int[Tensor, " rows"],
    chances: Float[Tensor, " classes"],
    count: int,
    generator: torch.Generator,
) -> Int[Tensor, " count"]:
    """`count` of these rows in random order, each class as often as its chance says (among the classes that occur).

    Counts of classes are exact up to one; within a class every row comes once before one comes twice.
    """
    order = torch.randperm(len(rows), generator=generator)
    order = order[label[order].argsort(stable=True)]  # shuffled, then by class
    sizes = torch.bincount(label, minlength=len(chances))
    bounds = (chances.double() * (sizes > 0)).cumsum(dim=0)
    points = (torch.arange(count) + torch.rand((), generator=generator).double()) / count * bounds[-1]
    drawn = torch.searchsorted(bounds, points, right=True).clamp_max(int(label.max()))  # class of each draw, ascending
    turn = torch.arange(count) - torch.searchsorted(drawn, drawn)  # how many draws of its class came before
    place = (sizes.cumsum(dim=0) - sizes)[drawn] + turn % sizes[drawn]
    return rows[order[place]][torch.randperm(count, generator=generator)]
