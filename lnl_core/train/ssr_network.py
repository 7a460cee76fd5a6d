"""SSR's network: a classifier with the two small heads of the feature-consistency loss, and that loss.

Feng, Tzimiropoulos, Patras: SSR, BMVC 2022 (arXiv 2111.11288); the loss is that of SimSiam (arXiv 2011.10566, Eq. 2).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lnl_core.runtime import drawn_from


class ConsistencyNetwork(nn.Module):
    """Images to (logits, projections, predictions of the other view's projection); one pass for all three."""

    def __init__(self, classifier: nn.Module, width: int, *, projection: int, seed: int) -> None:
        super().__init__()
        self.classifier = classifier
        with drawn_from(seed):
            self.projector = _head(width, width, projection)
            self.predictor = _head(projection, projection, projection)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.classifier.encoder(images)  # type: ignore[operator]
        projection = self.projector(features)
        return self.classifier.head(features), projection, self.predictor(projection)  # type: ignore[operator]


class FeaturesAndLogits(nn.Module):
    """A classifier's features and logits in one pass, for relabelling and the neighbours."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.classifier.encoder(images)  # type: ignore[operator]
        return features, self.classifier.head(features)  # type: ignore[operator]


def consistency_loss(
    predictions: Float[Tensor, "two_batches width"], projections: Float[Tensor, "two_batches width"]
) -> Float[Tensor, ""]:
    """-1/2 cos(h(z1), stop(z2)) - 1/2 cos(h(z2), stop(z1)), mean over rows; the first half holds the first views."""
    first, second = projections.detach().chunk(2)
    loss: Tensor = -functional.cosine_similarity(predictions, torch.cat([second, first])).mean()
    return loss


def _head(width: int, hidden: int, out: int) -> nn.Sequential:
    """Linear, batch normalisation, ReLU, linear. The normalisation is one of maps, which several processes share."""
    return nn.Sequential(
        nn.Linear(width, hidden, bias=False),
        nn.Unflatten(1, (hidden, 1, 1)),
        nn.BatchNorm2d(hidden),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(hidden, out),
    )
