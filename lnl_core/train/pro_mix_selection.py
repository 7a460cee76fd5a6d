"""ProMix's selection: which rows keep their label, and which get a label on which both networks agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lnl_core.statistics.noise_estimate import NoiseEstimate


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one network makes of the plain images of an epoch's rows; on the CPU."""

    loss: Float[Tensor, " rows"]  # cross-entropy with the label, nats
    confidence: Float[Tensor, " rows"]  # e_i, the largest probability
    guess: Int[Tensor, " rows"]  # y'_i, its class
    pseudo_label: Int[Tensor, " rows"]  # the class after debiasing


def even_shares(classes: int) -> npt.NDArray[np.float64]:
    """The paper's: every observed class gives n / C."""
    return np.full(classes, 1 / classes)


def right_shares(noise: NoiseEstimate) -> npt.NDArray[np.float64]:
    """Each class's share of the rightly labelled rows, [classes]: prior_j T[j, j], scaled to sum 1.

    Even where classes and noise are; no class below a thousandth of an even share.
    """
    right = np.maximum(noise.prior * np.diag(noise.transition), 0.0)
    if right.sum() <= 0:
        return even_shares(noise.classes)
    shares = np.maximum(right / right.sum(), 1e-3 / noise.classes)
    return np.asarray(shares / shares.sum())


def base_sizes(rho: float, rows: int, shares: npt.NDArray[np.float64]) -> Int[Tensor, " classes"]:
    """How many rows of each observed class the base set takes, where there are so many: ceil(rho n share_j).

    Class-wise small-loss selection, Sec. 3.1, with share_j = 1 / C. What is a whole number but for rounding is not
    raised to the next.
    """
    return torch.from_numpy(np.ceil(rho * rows * shares - 1e-9).astype(np.int64))


def small_losses(
    losses: Float[Tensor, " rows"], label: Int[Tensor, " rows"], sizes: Int[Tensor, " classes"]
) -> Bool[Tensor, " rows"]:
    """D_CSS: of each observed class j the min(sizes[j], |S_j|) rows with the smallest losses."""
    by_loss = losses.argsort(stable=True)
    order = by_loss[label[by_loss].argsort(stable=True)]  # class by class, each by loss
    counts = torch.bincount(label, minlength=len(sizes))
    starts = counts.cumsum(0) - counts
    place = torch.arange(len(label)) - starts[label[order]]
    chosen = torch.zeros(len(label), dtype=torch.bool)
    chosen[order] = place < sizes[label[order]]
    return chosen


def matched(seen: Seen, label: Int[Tensor, " rows"], tau: float) -> Bool[Tensor, " rows"]:
    """D_MHCS, Eq. 3: the network is sure (e_i >= tau) and says what the label says."""
    return (seen.confidence >= tau) & (seen.guess == label)


def agreed(first: Seen, second: Seen, tau: float) -> Bool[Tensor, " rows"]:
    """Eq. 8, label guessing by agreement: both networks are sure, of the same class."""
    return (first.confidence >= tau) & (second.confidence >= tau) & (first.guess == second.guess)


def within_limit(
    candidates: Bool[Tensor, " batch"],
    selected: Bool[Tensor, " batch"],
    confidence: Float[Tensor, " batch"],
    limit: float,
) -> Bool[Tensor, " batch"]:
    """The surest candidates, as long as they and the selected rows are at most `limit` of the batch."""
    room = max(int(limit * len(candidates) + 1e-9) - int(selected.sum()), 0)
    surest = torch.where(candidates, confidence, -1.0).argsort(descending=True, stable=True)[:room]
    kept = torch.zeros_like(candidates)
    kept[surest] = True
    return kept & candidates
