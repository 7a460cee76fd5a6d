"""Encoders: float images in [0, 1] to features of a known width. `ARCHITECTURES` maps each name to its body.

`timm:NAME` is a body too (`timm_body.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lnl_core.config import ConfigError, ModelSettings
from lnl_core.models.cnn9 import CNN9
from lnl_core.models.normalise import Normalise
from lnl_core.models.preact_resnet import PreActResNet18
from lnl_core.models.resnet import DEPTHS, ResNet
from lnl_core.models.small_cnn import SmallCNN
from lnl_core.models.timm_body import IMAGENET_MEAN, IMAGENET_STD, PREFIX, TimmBody
from lnl_core.models.weights_file import load_weights, weights_file_sha256
from lnl_core.registry import unknown_name
from lnl_core.runtime import drawn_from

Body = Callable[[ModelSettings, int], nn.Module]


def _resnet(settings: ModelSettings, channels: int) -> nn.Module:
    return ResNet(settings.arch, settings.stem, channels, settings.width)


KEY = "model.weights"
CLASSIFIERS = ("fc", "classifier", "head", "heads", "classif", "last_linear")  # what published heads are called
ARCHITECTURES: dict[str, Body] = {
    **dict.fromkeys(DEPTHS, _resnet),
    "preact_resnet18": lambda settings, channels: PreActResNet18(settings.stem, channels, settings.width),
    "cnn9": lambda settings, channels: CNN9(channels, settings.width),
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
    """A new encoder on the CPU with weights drawn from `seed`, or read from `settings.weights`.

    torch's global generators are left as they were. Where weights are read, the encoder's settings have their file's
    sha256, and its normalisation is the one that they were trained with.

    Raises:
        ConfigError: unknown architecture (the message has the nearest name), or weights that cannot be used.
    """
    encoder = bare_encoder(settings, channels, seed=seed)
    if settings.weights:
        _load_published(encoder, settings)
    return encoder


def bare_encoder(settings: ModelSettings, channels: int, *, seed: int = 0) -> Encoder:
    """The same without reading `settings.weights`: to be filled from a model folder."""
    arch = settings.arch
    if arch not in ARCHITECTURES and not arch.startswith(PREFIX):
        raise ConfigError(f"model.arch: {unknown_name('architecture', arch, [*ARCHITECTURES, PREFIX + 'NAME'])}")
    with drawn_from(seed):
        named = arch.startswith(PREFIX)
        body = TimmBody(arch.removeprefix(PREFIX), channels) if named else ARCHITECTURES[arch](settings, channels)
        return Encoder(settings, channels, body)


def _load_published(encoder: Encoder, settings: ModelSettings) -> None:
    path = Path(settings.weights)
    found = weights_file_sha256(path, KEY)
    if settings.weights_sha256 not in ("", found):
        raise ConfigError(
            f"{KEY} = {settings.weights!r}: its sha256 is {found}, not model.weights_sha256; set one right"
        )
    body = encoder.body
    left = load_weights(body.network if isinstance(body, TimmBody) else body, path, KEY, "model.arch, stem and width")
    if strange := [name for name in left if name.split(".")[0] not in CLASSIFIERS]:
        raise ConfigError(
            f"{KEY} = {settings.weights!r}: {strange[0]} has no place in {settings.arch} ({len(strange)} such names); "
            "these weights are of another architecture"
        )
    mean, std = body.statistics if isinstance(body, TimmBody) else (IMAGENET_MEAN, IMAGENET_STD)
    encoder.normalise.mean.copy_(torch.tensor(mean))
    encoder.normalise.std.copy_(torch.tensor(std))
    encoder.normalise.fixed = True
    encoder.settings = settings.model_copy(update={"weights_sha256": found})
