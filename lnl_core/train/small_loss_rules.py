"""Which rows of a batch Co-teaching, Co-teaching+ and JoCoR learn from. Everything is computed where the losses are;
nothing waits for a number."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

Ramp = Literal["epoch", "rate", "share"]
WhenAgreed = Literal["skip", "all", "small_loss"]


def forgotten_share(epoch: int, tau: float, *, ramp_epochs: int, exponent: float, ramp: Ramp) -> float:
    """1 - R of an epoch (0 is the first): the share of rows that are left out.

    Args:
        ramp: `epoch` is the equation as printed, T = 1, 2, ...: it reaches tau after ramp_epochs^(1/c) epochs. `rate`
            takes the power of tau instead, from 0 in the first epoch to tau^c in the ramp_epochs-th. `share` takes it
            of the share of the ramp that is over, so that no row is left out by networks that have learned nothing,
            and tau is reached after ramp_epochs epochs whatever c is.
    """
    if ramp == "epoch":
        return tau * min(math.pow(epoch + 1, exponent) / ramp_epochs, 1.0)  # Co-teaching: tau min(T^c / T_k, 1)
    if ramp == "rate":
        return math.pow(tau, exponent) * min(epoch / max(ramp_epochs - 1, 1), 1.0)
    return tau * math.pow(min(epoch / ramp_epochs, 1.0), exponent)


def small_loss(
    losses: Float[Tensor, " batch"],
    forgotten: float,
    candidates: Bool[Tensor, " batch"],
    known: Bool[Tensor, " batch"],
) -> Bool[Tensor, " batch"]:
    """The 1 - forgotten share of the candidates with the smallest losses, at least one of them; and all known rows.

    Co-teaching Alg. 1 steps 5 and 6, the count rounded. No candidate and no known row: none.
    """
    free = candidates & ~known
    kept = ((1 - forgotten) * free.sum()).round().clamp_min(1)
    order = losses.masked_fill(~free, torch.inf).argsort(stable=True)
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    return (free & (place < kept)) | known


def disagreeing(
    first: Float[Tensor, "batch classes"], second: Float[Tensor, "batch classes"], when_agreed: WhenAgreed
) -> tuple[Bool[Tensor, " batch"], Bool[Tensor, ""]]:
    """Co-teaching+ Eq. 2: the rows whose predicted class differs; and whether small losses are looked for among them.

    Args:
        when_agreed: what a batch without such a row gives: nothing (`skip`), all its rows unselected (`all`), or as in
            Co-teaching its small-loss rows (`small_loss`, also where only one row differs, which is no choice).
    """
    differ = first.argmax(dim=1) != second.argmax(dim=1)
    if when_agreed == "skip":
        return differ, torch.ones_like(differ[0])
    enough = differ.sum() >= (2 if when_agreed == "small_loss" else 1)
    return differ | ~enough, enough | torch.tensor(when_agreed == "small_loss", device=differ.device)


def joint_losses(
    first: Float[Tensor, "batch classes"],
    second: Float[Tensor, "batch classes"],
    supervised: Float[Tensor, " batch"],
    agreement: float,
) -> Float[Tensor, " batch"]:
    """JoCoR Eqs. 1 to 4: (1 - lambda) (CE1 + CE2) + lambda (KL(p1 || p2) + KL(p2 || p1)), nats.

    Args:
        supervised: CE1 + CE2 of each row.
        agreement: lambda.
    """
    one, two = first.log_softmax(dim=1), second.log_softmax(dim=1)
    contrast = ((one.exp() - two.exp()) * (one - two)).sum(dim=1)  # both divergences in one
    return (1 - agreement) * supervised + agreement * contrast


def cross_entropies(
    logits: list[Tensor], target: Float[Tensor, "batch classes"] | Int[Tensor, " batch"]
) -> Float[Tensor, "networks batch"]:
    """Each network's loss of each row, nats."""
    return torch.stack([functional.cross_entropy(part, target, reduction="none") for part in logits])


def class_limits(
    losses: Float[Tensor, " rows"], label: Int[Tensor, " rows"], forgotten: Float[Tensor, " classes"]
) -> Float[Tensor, " classes"]:
    """The loss below which the 1 - forgotten share of each class's rows lies.

    Args:
        losses: NaN where a row has none; such rows do not count.
    A class without rows gets the mean of the others' limits, and 0 where there are none at all.
    """
    seen = losses.isfinite()
    losses, label = losses[seen], label[seen]
    if not len(losses):
        return torch.zeros_like(forgotten)
    by_loss = losses.argsort(stable=True)
    order = by_loss[label[by_loss].argsort(stable=True)]  # by class, then by loss
    counts = torch.bincount(label, minlength=len(forgotten))
    last = ((1 - forgotten) * counts).round().long().clamp_min(1) - 1
    limits = losses[order[(counts.cumsum(0) - counts + last).clamp_max(len(losses) - 1)]]
    present = counts > 0
    return torch.where(present, limits, limits[present].mean())
