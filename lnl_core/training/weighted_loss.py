"""Cross-entropy in which each row counts by its weight."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def weighted_cross_entropy(
    logits: Float[Tensor, "batch classes"],
    targets: Float[Tensor, "batch classes"],
    weights: Float[Tensor, " batch"],
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """1/n sum w_i CE_i, nats; targets may be soft."""
    losses = functional.cross_entropy(logits, targets, reduction="none", label_smoothing=label_smoothing)
    return (weights * losses).mean()
