"""Distribution alignment: predictions whose mean over the rows is a known class prior.

Berthelot et al., ReMixMatch, ICLR 2020 (arXiv 1911.09785), Sec. 3.1: q <- normalise(q p(y) / mean q). A network that
learns from its own predictions otherwise drifts to the classes that it already prefers.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def align_to_prior(
    predictions: Float[Tensor, "rows classes"], prior: Float[Tensor, " classes"], steps: int = 5
) -> Float[Tensor, "rows classes"]:
    """Rows sum to 1; their mean comes nearer to `prior` with every step (one is the paper's)."""
    for _ in range(steps):
        weighted = predictions * (prior / predictions.mean(dim=0).clamp_min(1e-8))
        predictions = weighted / weighted.sum(dim=1, keepdim=True).clamp_min(1e-12)
    return predictions
