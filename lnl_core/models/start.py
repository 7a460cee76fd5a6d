"""A classifier that starts from a saved model: an encoder with a new head, or a whole classifier of as many classes."""

from __future__ import annotations

import json
from pathlib import Path

from lnl_core.contracts import ContractError
from lnl_core.models.classifier import Classifier, new_classifier
from lnl_core.models.saved import CONFIG, load_classifier, load_encoder, read_config


def load_start(folder: Path, classes: int, *, seed: int) -> Classifier:
    """The encoder in `folder`, or the first network of the classifier there; in training mode, on the CPU.

    A classifier's head is kept where it has as many classes; else a head is drawn from `seed`.

    Raises:
        ContractError: no such folder, or a damaged one.
    """
    if _kind(folder) == "encoder":
        return new_classifier(load_encoder(folder).train(), classes, seed=seed)
    network = load_classifier(_best_of(folder)).ensemble.networks[0].train()
    assert isinstance(network, Classifier)
    return network if network.classes == classes else new_classifier(network.encoder, classes, seed=seed)


def start_hash(folder: Path) -> str:
    """A fingerprint of the weights that `load_start` starts from."""
    kind = _kind(folder)
    return str(read_config(folder if kind == "encoder" else _best_of(folder), kind)["sha256"])


def _kind(folder: Path) -> str:
    path = _best_of(folder) / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ContractError(
            f"train.init_checkpoint = {str(folder)!r}: no saved model ({path}: {error}); give the folder of an encoder "
            "(pretrain/encoder) or of a classifier (train/model)"
        ) from error
    return "encoder" if isinstance(config, dict) and config.get("kind") == "encoder" else "classifier"


def _best_of(folder: Path) -> Path:
    return folder / "best" if (folder / "best" / CONFIG).exists() else folder
