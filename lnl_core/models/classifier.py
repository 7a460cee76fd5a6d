"""An encoder with a linear head, and the ensemble that predicts by the mean of its networks' softmax."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lnl_core.config import ModelSettings
from lnl_core.models.encoder import Encoder, build_encoder
from lnl_core.runtime import drawn_from


class Classifier(nn.Module):
    """Float images in [0, 1] to logits [batch, classes]."""

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.classes = classes
        self.head = nn.Linear(encoder.width, classes)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        logits: Tensor = self.head(self.encoder(images))
        return logits


class Ensemble(nn.Module):
    """Float images in [0, 1] to probabilities [batch, classes]: the mean of the networks' softmax, in float32."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        return torch.stack([network(images).float().softmax(dim=1) for network in self.networks]).mean(dim=0)


def new_classifier(encoder: Encoder, classes: int, *, seed: int) -> Classifier:
    """A head drawn from `seed` on a given encoder (which is used as it is, not copied)."""
    with drawn_from(seed):
        return Classifier(encoder, classes)


def build_classifier(settings: ModelSettings, channels: int, classes: int, *, seed: int) -> Classifier:
    """A classifier from scratch, all weights drawn from `seed`; torch's global generators are left as they were."""
    return new_classifier(build_encoder(settings, channels, seed=seed), classes, seed=seed + 1)
