"""The contrastive loss on several views of each row: SimCLR's NT-Xent, and SupCon where classes are given.

Chen et al., A Simple Framework for Contrastive Learning of Visual Representations (arXiv 2002.05709), Eq. 1;
Khosla et al., Supervised Contrastive Learning (arXiv 2004.11362), Eq. 2 (L_out). With no classes the positives of a
view are the other views of its row; with two views L_out is then NT-Xent.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional


def contrastive_loss(
    projections: Float[Tensor, "views batch width"],
    temperature: float,
    classes: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """Mean over all views i of -1/|P(i)| sum_p log( exp(z_i z_p / t) / sum_{a != i} exp(z_i z_a / t) ), nats.

    Args:
        projections: at least two views; any length, only their direction counts.
        temperature: t.
        classes: views of equal class are positives, P(i), on the device of the projections; None: each row is its own.
    """
    views, batch, _ = projections.shape
    of = torch.arange(batch, device=projections.device) if classes is None else classes
    of = of.repeat(views)
    units = functional.normalize(projections.flatten(0, 1), dim=1)
    itself = torch.eye(views * batch, dtype=torch.bool, device=units.device)
    similarity = (units @ units.T / temperature).masked_fill(itself, -torch.inf)
    log_share = similarity - similarity.logsumexp(dim=1, keepdim=True)
    positive = (of[:, None] == of[None, :]) & ~itself
    loss: Tensor = -(log_share.masked_fill(~positive, 0).sum(dim=1) / positive.sum(dim=1)).mean()
    return loss
