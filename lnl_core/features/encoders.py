"""The encoder behind the feature cache: the pretrained one, torchvision's or timm's with weights from a file, or yours.

An encoder takes float images [batch, channels, height, width] in 0..1 and gives features [batch, width]; whatever
normalisation it needs is part of it. Its fingerprint covers weights, architecture, preprocessing and precision: two
features may stand in one cache exactly when their fingerprints agree. Nothing is ever downloaded.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lnl_core.config import ConfigError, ImageSettings
from lnl_core.models.normalise import Normalise
from lnl_core.models.saved import load_encoder
from lnl_core.models.timm_body import IMAGENET_MEAN, IMAGENET_STD
from lnl_core.models.weights_file import load_weights, weights_file_sha256
from lnl_core.plugins import load_object
from lnl_core.registry import unknown_name
from lnl_core.runtime import Runtime, drawn_from

RANDOM_SEED = 0  # of `random_weights`


@dataclass(frozen=True, kw_only=True)
class FeatureEncoder:
    """`encode` runs without gradients on `runtime.device`; `fingerprint` is a sha256 in hex."""

    name: str
    fingerprint: str
    forward: Callable[[Tensor], Tensor]
    runtime: Runtime

    @torch.inference_mode()
    def encode(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        """Features in float32 on the images' device.

        Raises:
            ConfigError: the encoder gave something else than one row of numbers an image.
        """
        with self.runtime.autocast():
            features = self.forward(images)
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(images):
            shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ConfigError(
                f"features.encoder = {self.name!r}: gave {shape} for {len(images)} images; "
                f"it must give a tensor [{len(images)}, width]"
            )
        return features.float()


def open_encoder(
    name: str,
    *,
    weights: Path | None,
    random_weights: bool,
    pretrained: Path,
    images: ImageSettings,
    runtime: Runtime,
) -> FeatureEncoder:
    """The encoder that `features.encoder` names: simclr, saved:FOLDER, torchvision:NAME, timm:NAME or module:function.

    `pretrained` is the folder that the stage pretrain wrote, read for `simclr` alone. `saved:FOLDER` is the encoder of
    an earlier run; it has the fingerprint that it had as `simclr`, so features made then still count.

    Raises:
        ConfigError: an unknown name, missing or misfit weights.
    """
    source, colon, rest = name.partition(":")
    network: Callable[[Tensor], Tensor]
    if name == "simclr":
        network, identity = _pretrained(pretrained, images)
    elif source == "saved" and colon:
        name = "simclr"
        network, identity = _pretrained(Path(rest), images)
    elif source in ("torchvision", "timm") and colon:
        network, identity = _published(source, rest, weights, random_weights, images)
    elif colon:
        network, identity = _own(source, rest, weights)
    else:
        raise ConfigError(
            f"features.encoder = {name!r}: must be simclr, saved:FOLDER, torchvision:NAME, timm:NAME or "
            "package.module:function"
        )
    if isinstance(network, nn.Module):
        network = network.to(runtime.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    preprocessing = {"size": images.size, "channels": images.channels, "precision": runtime.precision}
    fingerprint = _sha256(json.dumps([name, identity, preprocessing], sort_keys=True).encode())
    return FeatureEncoder(name=name, fingerprint=fingerprint, forward=network, runtime=runtime)


def _pretrained(folder: Path, images: ImageSettings) -> tuple[nn.Module, str]:
    config = folder / "config.json"
    if config.exists() and json.loads(config.read_text(encoding="utf-8")).get("kind") == "none":
        raise ConfigError(
            "features.encoder = 'simclr', but pretrain.method is 'none': name your own encoder in features.encoder "
            "(saved:FOLDER, torchvision:NAME, timm:NAME or package.module:function) or set pretrain.method: simclr"
        )
    encoder = load_encoder(folder)
    if encoder.channels != images.channels:
        raise ConfigError(
            f"images.channels = {images.channels}, but the encoder in {folder} was trained on {encoder.channels}; "
            "set it back or run the stage pretrain again"
        )
    return encoder, json.dumps([encoder.settings.model_dump(), weights_sha256(encoder.state_dict())], sort_keys=True)


def _published(
    source: str, name: str, weights: Path | None, random_weights: bool, images: ImageSettings
) -> tuple[nn.Module, str]:
    if weights is None and not random_weights:
        raise ConfigError(
            f"features.weights is missing: {source}:{name} is read from a file and never downloaded; set it to a "
            "state dict (.safetensors, .pth), or set features.random_weights: true to try the pipeline without"
        )
    if images.channels != 3:
        raise ConfigError(f"features.encoder = '{source}:{name}' wants 3 channels; set images.channels: 3")
    with drawn_from(RANDOM_SEED):
        backbone, mean, std = (_torchvision if source == "torchvision" else _timm)(name)
    if weights is not None:
        load_weights(backbone, weights, "features.weights", "features.encoder")
    normalise = Normalise(3)
    normalise.mean.copy_(torch.tensor(mean))
    normalise.std.copy_(torch.tensor(std))
    network = nn.Sequential(normalise, backbone)
    return network, weights_sha256(network.state_dict())


def _torchvision(name: str) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...]]:
    """A torchvision classifier whose last linear layer has become the identity."""
    from torchvision import models  # here, because it takes seconds and reading settings needs none of it

    if name not in models.list_models(module=models):
        raise ConfigError(
            f"features.encoder: {unknown_name('torchvision model', name, models.list_models(module=models))}"
        )
    network: nn.Module = models.get_model(name, weights=None)
    for head in ("fc", "classifier", "heads", "head"):  # ResNet, ConvNeXt and kin, ViT, Swin
        if hasattr(network, head):
            setattr(network, head, _without_last_linear(getattr(network, head)))
            return network, IMAGENET_MEAN, IMAGENET_STD
    raise ConfigError(
        f"features.encoder = 'torchvision:{name}': has no classifier that is known; use timm's or your own"
    )


def _without_last_linear(head: nn.Module) -> nn.Module:
    """The head up to its last linear layer; norm and flatten before it belong to the features."""
    if isinstance(head, nn.Linear):
        return nn.Identity()
    layers = list(head.children())
    linear = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Linear)]
    return nn.Sequential(*layers[: linear[-1]]) if linear else nn.Identity()


def _timm(name: str) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...]]:
    """A timm model with pooled features and the normalisation that its published weights were trained with."""
    import timm  # here, because it takes seconds and reading settings needs none of it

    if not timm.is_model(name):
        raise ConfigError(f"features.encoder: {unknown_name('timm model', name, timm.list_models())}")
    network: nn.Module = timm.create_model(name, pretrained=False, num_classes=0)
    about: Mapping[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
    return network, tuple(about.get("mean") or IMAGENET_MEAN), tuple(about.get("std") or IMAGENET_STD)


def _own(module_name: str, function: str, weights: Path | None) -> tuple[Callable[[Tensor], Tensor], str]:
    """What `package.module:function` returns; it is called as `function()`, or `function(weights)` where set."""
    where = f"features.encoder = '{module_name}:{function}'"
    make = load_object(f"{module_name}:{function}", where)
    network = make() if weights is None else make(weights)
    if not callable(network):
        raise ConfigError(f"{where}: returned {type(network).__name__}, must return a callable on images")
    if isinstance(stated := getattr(network, "fingerprint", None), str):
        return network, stated
    parts = [_sha256(inspect.getsource(sys.modules[module_name]).encode())]  # the code stands for the encoder
    parts += [weights_sha256(network.state_dict())] if isinstance(network, nn.Module) else []
    parts += [weights_file_sha256(weights, "features.weights")] if weights is not None else []
    return network, json.dumps(parts)


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and bytes of a state dict, whatever file it came from."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
