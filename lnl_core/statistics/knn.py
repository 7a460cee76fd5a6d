"""k-nearest-neighbour classification on features, by cosine similarity.

Wu et al., Unsupervised Feature Learning via Non-Parametric Instance Discrimination (CVPR 2018), Sec. 3.4: neighbours
vote with weight exp(similarity / temperature).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

ROWS_A_CHUNK = 4096  # queries at once, fewer where there are many rows:
SIMILARITIES = 2**26  # held at once, 256 MB in float32


def knn_votes(
    queries: Float[Tensor, "queries features"],
    features: Float[Tensor, "rows features"],
    label: Int[Tensor, " rows"],
    classes: int,
    *,
    k: int = 20,  # Wu et al. use 200 of a million; a trusted set has ten to a thousand rows a class
    temperature: float = 0.07,  # Wu et al., Sec. 3.4; infinite: every neighbour has one vote
    leave_self_out: bool = False,
) -> Float[Tensor, "queries classes"]:
    """Shares of the votes, rows sum to 1; `leave_self_out` takes queries[i] to be features[i] and bars it.

    Holds ROWS_A_CHUNK x rows similarities, SIMILARITIES at most. Needs at least one row (two when leaving out); k is
    cut to what there is.
    """
    k = min(k, len(features) - int(leave_self_out))
    assert k >= 1, "nearest neighbours of no rows"
    features = F.normalize(features, dim=1)
    votes = torch.zeros(len(queries), classes, device=queries.device)
    at_once = min(ROWS_A_CHUNK, max(SIMILARITIES // len(features), 1))
    for start in range(0, len(queries), at_once):
        chunk = F.normalize(queries[start : start + at_once], dim=1)
        similarity = chunk @ features.T
        if leave_self_out:
            similarity.diagonal(offset=start).fill_(-torch.inf)
        nearest = similarity.topk(k, dim=1)
        weight = torch.softmax(nearest.values / temperature, dim=1)
        votes[start : start + len(chunk)].scatter_add_(1, label[nearest.indices], weight)
    return votes


def knn_accuracy(
    features: Float[Tensor, "rows features"], label: Int[Tensor, " rows"], classes: int, *, k: int = 20
) -> float:
    """Leave-one-out accuracy of the vote among labelled rows (two or more)."""
    votes = knn_votes(features, features, label, classes, k=k, leave_self_out=True)
    return float((votes.argmax(dim=1) == label).float().mean())
