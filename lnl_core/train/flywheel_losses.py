"""The flywheel's losses: confidence regulariser of the main network, targets of the auxiliary one.

The mixture's own equations (4, 6, 14) are `lnl_core/statistics/two_em_mixture.py`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

MAJORITY = 0.5  # share of the resampled labels from which a class must not be pushed out


def label_shares(
    labels: Int[Tensor, " rows"], classes: int, weights: Float[Tensor, " rows"]
) -> Float[Tensor, " classes"]:
    """p_data(y) of Eq. 9: how often each label occurs among the rows, each row counted by its weight."""
    counts = torch.bincount(labels, weights.double(), minlength=classes)
    return (counts / counts.sum().clamp_min(1e-12)).float()


def confidence_regulariser(
    logits: Float[Tensor, "batch classes"], shares: Float[Tensor, " classes"], floor: float
) -> Float[Tensor, ""]:
    """Eq. 9: the mean over the rows of E_y[log g(x)[y]], y drawn from `shares`; nats, at most 0.

    Minimised, it makes g confident. `floor` is added to g: without it the loss has no lower bound and its gradient
    never ends, so that a network confident of a wrong class would be drawn there for ever.
    """
    regulariser: Tensor = ((logits.softmax(dim=1) + floor).log() @ shares).mean()  # Eq. (9)
    return regulariser


def capped_weight(weight: float, shares: Float[Tensor, " classes"]) -> float:
    """lambda, lowered until lambda p(y) <= 1/2 for every class.

    By the proof of Lemma 1 the best g(x)[y] is proportional to (p(y | x) - lambda p(y))_+. With lambda = 3 a class of
    more than a third of all labels vanishes even where every label is its own; with ten even classes nothing changes.
    """
    return min(weight, MAJORITY / max(float(shares.max()), 1e-12))


def auxiliary_targets(
    clean: Float[Tensor, " batch"],
    labels: Float[Tensor, "batch classes"],
    predictions: Float[Tensor, "batch classes"],
    weights: Float[Tensor, " batch"],
) -> Float[Tensor, "batch classes"]:
    """Eq. 11: q(s=1) e_label + q(s=0) f(x). The label may be soft; its part counts by the row's weight."""
    return (clean * weights)[:, None] * labels + (1 - clean)[:, None] * predictions  # Eq. (11)
