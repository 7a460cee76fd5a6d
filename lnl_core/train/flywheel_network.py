"""The flywheel's auxiliary network: a classifier with a projection head beside its own, for the contrastive loss."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from lnl_core.runtime import drawn_from

PROJECTION = 128  # SimCLR, Sec. 2.1: two layers, the hidden one as wide as the features, 128 outputs


class ProjectedClassifier(nn.Module):
    """Images to (logits [batch, classes], projections [batch, 128]); the classifier is saved without the projection."""

    def __init__(self, classifier: nn.Module, seed: int) -> None:
        super().__init__()
        self.classifier = classifier
        width = int(classifier.head.in_features)  # type: ignore[union-attr, arg-type]
        with drawn_from(seed):
            self.projection = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, PROJECTION))

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, "batch classes"], Float[Tensor, "batch projections"]]:
        features = self.classifier.encoder(images)  # type: ignore[operator]
        return self.classifier.head(features), self.projection(features)  # type: ignore[operator]
