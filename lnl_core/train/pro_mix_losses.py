"""ProMix's debiased pseudo-labels and margins, and its two ways to mix."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from lnl_core.training.sharpen import sharpen


def class_margins(
    pi: Float[Tensor, "groups classes"], expected: Float[Tensor, " classes"], alpha: float
) -> Float[Tensor, "groups classes"]:
    """alpha log(pi / expected), nats: how much more often a class is predicted than it should be.

    With equal expected shares this is the paper's alpha log pi plus a constant, which no softmax sees.
    """
    return alpha * (pi / expected).log()


def debiased_labels(
    logits: Float[Tensor, "batch classes"], margins: Float[Tensor, " classes"], temperature: float
) -> Float[Tensor, "batch classes"]:
    """Pseudo-labels: the softmax of f - alpha log pi (Eq. 6), sharpened."""
    return sharpen((logits - margins).softmax(dim=1), temperature)


def debiased_loss(
    logits: Float[Tensor, "... batch classes"],
    targets: Float[Tensor, "... batch classes"],
    margins: Float[Tensor, "batch classes"],
) -> Float[Tensor, "... batch"]:
    """The debiased margin-based loss, Eq. 5: cross-entropy of f + alpha log pi, nats; `margins` of each row's group."""
    losses: Tensor = -(targets * (logits + margins).log_softmax(dim=-1)).sum(dim=-1)
    return losses


def updated_shares(
    pi: Float[Tensor, "groups classes"],
    probabilities: Float[Tensor, "batch classes"],
    group: Int[Tensor, " batch"],
    momentum: float,
    floor: float,
) -> Float[Tensor, "groups classes"]:
    """Eq. 7 in each group: m pi + (1 - m) mean prediction, not below `floor`; a group without rows keeps its own."""
    member = functional.one_hot(group, len(pi)).to(probabilities.dtype)
    counts = member.sum(dim=0)[:, None]
    mean = member.T @ probabilities / counts.clamp_min(1)
    return torch.where(counts > 0, momentum * pi + (1 - momentum) * mean, pi).clamp_min(floor)


def partners_within(group: Bool[Tensor, " batch"], generator: torch.Generator) -> Int[Tensor, " batch"]:
    """A random permutation that gives every row a partner from its own group."""
    order = torch.randperm(len(group), generator=generator)
    partner = torch.empty_like(order)
    partner[group.long().argsort(stable=True)] = order[group[order].long().argsort(stable=True)]
    return partner
