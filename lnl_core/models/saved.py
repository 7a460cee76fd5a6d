"""Model folders: `weights.safetensors` and `config.json`; no pickle, and no knowledge of the run is needed to load.

config.json of an encoder:    format, kind: encoder, model (architecture), channels, sha256 of the weights, about
config.json of a classifier:  the same with kind: classifier, and networks (ensemble size), class_names, and images
(size, channels, flip): all that `predict` needs. `about` is free: what the training wants to record.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lnl_core.config import ConfigError, ImageSettings, ModelSettings, Settings, parse
from lnl_core.contracts import ContractError
from lnl_core.files import atomic_folder, file_sha256
from lnl_core.models.classifier import Classifier, Ensemble
from lnl_core.models.encoder import Encoder, bare_encoder

WEIGHTS = "weights.safetensors"
CONFIG = "config.json"
FORMAT = 1
S = TypeVar("S", bound=Settings)


@dataclass(frozen=True, kw_only=True)
class AboutClassifier:
    """What a saved classifier carries besides its weights."""

    class_names: tuple[str, ...]
    images: ImageSettings  # how encoded images become its input
    about: Mapping[str, Any]  # method, settings, epoch, ...; free, JSON


@dataclass(frozen=True, kw_only=True)
class SavedClassifier:
    """A loaded classifier, in evaluation mode on the CPU."""

    ensemble: Ensemble
    class_names: tuple[str, ...]
    images: ImageSettings
    about: Mapping[str, Any]


def save_encoder(folder: Path, encoder: Encoder, about: Mapping[str, Any]) -> None:
    """Write an encoder, as a whole or not at all."""
    config = {"kind": "encoder", **_architecture(encoder), "about": dict(about)}
    _write(folder, encoder.state_dict(), config)


def load_encoder(folder: Path) -> Encoder:
    """The encoder saved in `folder`, in evaluation mode on the CPU.

    Raises:
        ContractError: no such folder, damaged, or not an encoder's.
    """
    config = read_config(folder, "encoder")
    encoder = _bare_encoder(folder, config)
    _fill(folder, encoder, _weights(folder, config))
    return encoder.eval()


def save_classifier(folder: Path, networks: Sequence[Classifier], about: AboutClassifier) -> None:
    """Write an ensemble of one or more classifiers of the same architecture, as a whole or not at all."""
    first = networks[0]
    assert first.classes == len(about.class_names), "one name a class"
    config = {
        "kind": "classifier",
        **_architecture(first.encoder),
        "networks": len(networks),
        "class_names": list(about.class_names),
        "images": about.images.model_dump(),
        "about": dict(about.about),
    }
    weights = {
        f"{i}.{name}": value for i, network in enumerate(networks) for name, value in network.state_dict().items()
    }
    _write(folder, weights, config)


def load_classifier(folder: Path) -> SavedClassifier:
    """The classifier saved in `folder`.

    Raises:
        ContractError: no such folder, damaged, or not a classifier's.
    """
    config = read_config(folder, "classifier")
    if not isinstance(config["networks"], int) or config["networks"] < 1:
        raise ContractError(f"{folder / CONFIG}: networks = {config['networks']!r}, must be 1 or more")
    class_names = tuple(config["class_names"])
    images = _section(folder, config, "images", ImageSettings)
    networks = [Classifier(_bare_encoder(folder, config), len(class_names)) for _ in range(config["networks"])]
    ensemble = Ensemble(networks)
    _fill(folder, ensemble.networks, _weights(folder, config))
    return SavedClassifier(
        ensemble=ensemble.eval(), class_names=class_names, images=images, about=config.get("about", {})
    )


def read_config(folder: Path, kind: str) -> dict[str, Any]:
    """config.json of a model folder; `sha256` in it is a fingerprint of the weights.

    Raises:
        ContractError: missing, unreadable, of another kind or of a newer format.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        inside = [child.name for child in sorted(folder.iterdir())] if folder.is_dir() else None
        found = "no such folder" if inside is None else f"it has: {', '.join(inside) or 'nothing'}"
        raise ContractError(f"{folder}: not a model folder, {CONFIG} cannot be read ({found})") from error
    except ValueError as error:
        raise ContractError(f"{path}: not valid JSON ({error}); write the model again") from error
    needed = {"format", "kind", "model", "channels", "sha256"}
    needed |= {"networks", "class_names", "images"} if kind == "classifier" else set()
    if not isinstance(config, dict) or config.get("kind") != kind:
        is_kind = config.get("kind") if isinstance(config, dict) else None
        raise ContractError(f"{path}: kind is {is_kind!r}, must be {kind!r}; give the folder of a saved {kind}")
    if missing := sorted(needed - config.keys()):
        raise ContractError(f"{path}: has no {missing[0]!r}; write the model again")
    if config["format"] != FORMAT:
        raise ContractError(f"{path}: format {config['format']}, this version reads {FORMAT}; use a matching version")
    return config


def _architecture(encoder: Encoder) -> dict[str, Any]:
    return {"format": FORMAT, "model": encoder.settings.model_dump(), "channels": encoder.channels}


def _write(folder: Path, weights: Mapping[str, Tensor], config: dict[str, Any]) -> None:
    with atomic_folder(folder) as temporary:
        save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, temporary / WEIGHTS)
        config["sha256"] = file_sha256(temporary / WEIGHTS)
        text = json.dumps(config, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
        (temporary / CONFIG).write_text(text + "\n", encoding="utf-8")


def _weights(folder: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    try:
        found = file_sha256(path)
        if found != config["sha256"]:
            raise ContractError(f"{path}: damaged, its sha256 is not the one in {CONFIG}; write the model again")
        weights: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ContractError(f"{path}: cannot read the weights ({error}); write the model again") from error
    return weights


def _bare_encoder(folder: Path, config: Mapping[str, Any]) -> Encoder:
    settings = _section(folder, config, "model", ModelSettings)
    try:
        return bare_encoder(settings, config["channels"])
    except ConfigError as error:
        raise ContractError(f"{folder / CONFIG}: {error}") from error


def _section(folder: Path, config: Mapping[str, Any], name: str, settings: type[S]) -> S:
    try:
        return parse(settings, config[name], name)
    except ConfigError as error:
        raise ContractError(f"{folder / CONFIG}: {error}") from error


def _fill(folder: Path, network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ContractError(f"{folder}: the weights do not fit the architecture in {CONFIG} ({error})") from error
