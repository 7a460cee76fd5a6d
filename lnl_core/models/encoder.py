"""Encoders: float images in [0, 1] to features of a known width. `ARCHITECTURES` maps each name to its body."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lnl_core.config import ConfigError, ModelSettings
from lnl_core.models.normalise import Normalise
from lnl_core.models.preact_resnet import PreActResNet18
from lnl_core.models.resnet import DEPTHS, ResNet
from lnl_core.models.small_cnn import SmallCNN
from lnl_core.registry import unknown_name

Body = Callable[[ModelSettings, int], nn.Module]


def _resnet(settings: ModelSettings, channels: int) -> nn.Module:
    return ResNet(settings.arch, settings.stem, channels, settings.width)


ARCHITECTURES: dict[str, Body] = {
    **dict.fromkeys(DEPTHS, _resnet),
    "preact_resnet18": lambda settings, channels: PreActResNet18(settings.stem, channels, settings.width),
    "small_cnn": lambda settings, channels: SmallCNN(channels, settings.width),
}


class Encoder(nn.Module):
    """Normalisation and body in one; keeps the settings it was built from, so that it can be saved and rebuilt."""

    def __init__(self, settings: ModelSettings, channels: int, body: nn.Module) -> None:
        super().__init__()
        self.settings = settings
        self.channels = channels
        self.width = int(body.width)  # type: ignore[arg-type]  # every body has it; features a row
        self.normalise = Normalise(channels)
        self.body = body

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        """Features [batch, width] of float images in [0, 1]."""
        features: Tensor = self.body(self.normalise(images))
        return features


def build_encoder(settings: ModelSettings, channels: int, *, seed: int = 0) -> Encoder:
    """A new encoder on the CPU with weights drawn from `seed`; torch's global generators are left as they were.

    Raises:
        ConfigError: unknown architecture; the message has the nearest name.
    """
    if settings.arch not in ARCHITECTURES:
        raise ConfigError(f"model.arch: {unknown_name('architecture', settings.arch, ARCHITECTURES)}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would reseed CUDA as well
        return Encoder(settings, channels, ARCHITECTURES[settings.arch](settings, channels))
