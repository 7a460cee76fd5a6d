"""Any timm network as the body of an encoder: `model.arch: timm:NAME`, e.g. timm:inception_resnet_v2 for WebVision.

Random weights, or those of the file `model.weights`; nothing is downloaded. `model.stem` and `model.width` say nothing
here: the name fixes both. Dropout and stochastic depth are off, for both draw from torch's global generator; timm's
default rates are 0 too. Networks for one image size only, such as most transformers, want that size in `images.size`.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from lnl_core.config import ConfigError
from lnl_core.registry import unknown_name

PREFIX = "timm:"
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of most published weights, torchvision's among them
IMAGENET_STD = (0.229, 0.224, 0.225)


class TimmBody(nn.Module):
    """Pooled features [batch, features] of the network called `name`, without its classifier."""

    def __init__(self, name: str, channels: int) -> None:
        super().__init__()
        import timm  # here, because it takes seconds and reading settings needs none of it

        if not timm.is_model(name):
            raise ConfigError(f"model.arch: {unknown_name('timm model', name, timm.list_models())}")
        self.network = timm.create_model(name, pretrained=False, num_classes=0, in_chans=channels)
        # the head of some networks widens the pooled features
        width: Any = getattr(self.network, "head_hidden_size", None) or self.network.num_features
        self.width = int(width)
        _switch_off_random_depth(self.network)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        features: Tensor = self.network(images)
        return features

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation a channel that the published weights were trained with."""
        about: Any = self.network.pretrained_cfg
        return tuple(about.get("mean") or IMAGENET_MEAN), tuple(about.get("std") or IMAGENET_STD)


def _switch_off_random_depth(network: nn.Module) -> None:
    for layer in network.modules():
        if isinstance(layer, _DropoutNd):
            layer.p = 0.0
        elif hasattr(layer, "drop_prob"):  # timm's DropPath and DropBlock
            setattr(layer, "drop_prob", 0.0)  # noqa: B010  mypy takes a module's attributes for tensors
