"""Model folders: what is written is what is read, and damage is said."""

import json

import numpy as np
import pytest
import torch

from lnl_core.config import ImageSettings, ModelSettings
from lnl_core.contracts import ContractError
from lnl_core.models.classifier import build_classifier
from lnl_core.models.encoder import build_encoder
from lnl_core.models.predictions import predict_probabilities
from lnl_core.models.saved import AboutClassifier, load_classifier, load_encoder, save_classifier, save_encoder
from lnl_core.runtime import Runtime

SMALL = ModelSettings(arch="small_cnn", width=4)
ABOUT = AboutClassifier(
    class_names=("zéro", "one", "<b>"), images=ImageSettings(size=8, channels=1, flip=False), about={"method": "ce"}
)


@pytest.fixture
def saved(tmp_path):
    networks = [build_classifier(SMALL, 1, 3, seed=seed).eval() for seed in (1, 2)]
    save_classifier(tmp_path / "model", networks, ABOUT)
    return tmp_path / "model", networks


def test_classifier_round_trip(saved):
    folder, networks = saved
    loaded = load_classifier(folder)
    assert (loaded.class_names, loaded.images, dict(loaded.about)) == (
        ABOUT.class_names,
        ABOUT.images,
        {"method": "ce"},
    )
    images = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        expected = (networks[0](images).softmax(1) + networks[1](images).softmax(1)) / 2
        assert torch.allclose(loaded.ensemble(images), expected, atol=1e-6)


def test_the_same_model_gives_the_same_bytes(saved, tmp_path):
    folder, networks = saved
    save_classifier(tmp_path / "again", networks, ABOUT)
    for name in ("weights.safetensors", "config.json"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert {child.name for child in tmp_path.iterdir()} == {"model", "again"}  # no temporary left


def test_encoder_round_trip(tmp_path):
    encoder = build_encoder(ModelSettings(arch="preact_resnet18", width=4), 3, seed=3).eval()
    save_encoder(tmp_path / "encoder", encoder, {"epochs": 2})
    loaded = load_encoder(tmp_path / "encoder")
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(loaded(images), encoder(images))
    assert json.loads((tmp_path / "encoder" / "config.json").read_text())["about"] == {"epochs": 2}


def test_flipped_byte_is_found(saved):
    folder, _ = saved
    weights = folder / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ContractError, match=r"weights\.safetensors: damaged, its sha256"):
        load_classifier(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "weights.safetensors").unlink(), r"weights\.safetensors: cannot read"),
        (lambda folder: (folder / "config.json").unlink(), r"it has: weights\.safetensors"),
        (lambda folder: (folder / "config.json").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "kind is None"),
        (lambda folder: _edit(folder, "kind", "encoder"), "kind is 'encoder', must be 'classifier'"),
        (lambda folder: _edit(folder, "format", 99), "format 99"),
        (lambda folder: _edit(folder, "class_names", None), "has no 'class_names'"),
        (lambda folder: _edit(folder, "class_names", ["a", "b"]), "do not fit the architecture"),
        (lambda folder: _edit(folder, "model", {"arch": "nonesuch"}), "unknown architecture"),
        (lambda folder: _edit(folder, "model", {"depth": 3}), "unknown setting"),
        (lambda folder: _edit(folder, "images", {"size": 1}), "images.size = 1"),
        (lambda folder: _edit(folder, "networks", 0), "networks = 0"),
    ],
)
def test_damage_is_one_clear_error(saved, damage, message):
    folder, _ = saved
    damage(folder)
    with pytest.raises(ContractError, match=message):
        load_classifier(folder)


def test_missing_folder(tmp_path):
    with pytest.raises(ContractError, match="no such folder"):
        load_encoder(tmp_path / "nothing")


def test_predictions_do_not_depend_on_the_batch_size(saved):
    folder, _ = saved
    ensemble = load_classifier(folder).ensemble
    pixels = torch.randint(0, 256, (7, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    runtime = Runtime(device=torch.device("cpu"), precision="float32", seed=0, image_memory_mb=64)
    whole = predict_probabilities(ensemble, pixels, runtime)
    assert whole.shape == (7, 3)
    assert np.allclose(whole.sum(axis=1), 1, atol=1e-6)
    assert np.allclose(whole, predict_probabilities(ensemble, pixels, runtime, batch_size=2), atol=1e-6)
    assert predict_probabilities(ensemble, pixels[:0], runtime).shape[0] == 0


def _edit(folder, key, value):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if value is None:
        del config[key]
    else:
        config[key] = value
    path.write_text(json.dumps(config))
