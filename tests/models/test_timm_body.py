"""timm networks as bodies, and weights from a file: what fits is loaded and recorded, what does not is named."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lnl_core.config import ConfigError, ModelSettings
from lnl_core.models.classifier import build_classifier
from lnl_core.models.encoder import build_encoder
from lnl_core.models.normalise import set_normalisation
from lnl_core.models.saved import load_encoder, save_encoder

RESNET = ModelSettings(arch="resnet18", stem="imagenet")


@pytest.mark.parametrize(("channels", "name"), [(3, "resnet10t"), (1, "mobilenetv3_small_050")])
def test_gives_features_of_its_width_and_draws_nothing(channels: int, name: str) -> None:
    encoder = build_encoder(ModelSettings(arch=f"timm:{name}"), channels).train()
    before = torch.random.get_rng_state()
    features = encoder(torch.rand(2, channels, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(before, torch.random.get_rng_state())
    assert features.shape == (2, encoder.width)


def test_the_network_of_webvision() -> None:
    encoder = build_encoder(ModelSettings(arch="timm:inception_resnet_v2"), 3).eval()
    with torch.no_grad():
        assert encoder(torch.rand(1, 3, 96, 96)).shape == (1, encoder.width) == (1, 1536)


def test_random_depth_is_off() -> None:
    body = build_encoder(ModelSettings(arch="timm:convnext_atto"), 3).body
    rates = [layer.p for layer in body.modules() if isinstance(layer, nn.Dropout)]
    assert rates
    assert set(rates) == {0.0}


def test_round_trip_through_a_model_folder(tmp_path: Path) -> None:
    encoder = build_encoder(ModelSettings(arch="timm:resnet10t"), 3, seed=3).eval()
    save_encoder(tmp_path / "encoder", encoder, {})
    loaded = load_encoder(tmp_path / "encoder")
    assert loaded.settings == encoder.settings
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded(images), encoder(images))


def test_unknown_names() -> None:
    with pytest.raises(ConfigError, match=r"model\.arch: unknown timm model 'resnet10'; did you mean"):
        build_encoder(ModelSettings(arch="timm:resnet10"), 3)
    with pytest.raises(ConfigError, match=r"unknown architecture 'tim:resnet10t'.*timm:NAME"):
        build_encoder(ModelSettings(arch="tim:resnet10t"), 3)


@pytest.fixture
def published(tmp_path: Path) -> tuple[nn.Module, Path]:
    from torchvision.models import get_model

    network = get_model("resnet18", weights=None).eval()
    file = tmp_path / "resnet18.safetensors"
    save_file(network.state_dict(), file)
    return network, file


def test_weights_of_a_file_with_their_normalisation(published: tuple[nn.Module, Path], tmp_path: Path) -> None:
    network, file = published
    encoder = build_classifier(RESNET.model_copy(update={"weights": str(file)}), 3, 5, seed=0).encoder.eval()
    set_normalisation(encoder, torch.zeros(3), torch.ones(3))  # the data's; the weights' own stay
    network.fc = nn.Identity()
    images = torch.rand(2, 3, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = network((images - mean[:, None, None]) / std[:, None, None])
        assert torch.allclose(encoder(images), expected, atol=1e-4)
    save_encoder(tmp_path / "encoder", encoder, {})
    recorded = json.loads((tmp_path / "encoder" / "config.json").read_text())["model"]
    assert recorded["weights"] == str(file)
    assert recorded["weights_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    file.unlink()  # a model folder needs no other file
    assert torch.equal(load_encoder(tmp_path / "encoder")(images), encoder(images))


def test_timm_brings_its_own_normalisation(tmp_path: Path) -> None:
    plain = build_encoder(ModelSettings(arch="timm:resnet10t"), 3, seed=4)
    torch.save(plain.body.network.state_dict(), tmp_path / "w.pth")
    loaded = build_encoder(ModelSettings(arch="timm:resnet10t", weights=str(tmp_path / "w.pth")), 3, seed=5)
    assert torch.equal(loaded.body.network.conv1[0].weight, plain.body.network.conv1[0].weight)
    assert tuple(loaded.normalise.mean.tolist()) == pytest.approx(loaded.body.statistics[0])


def test_weights_that_do_not_fit_are_named(published: tuple[nn.Module, Path], tmp_path: Path) -> None:
    network, file = published
    wanted = RESNET.model_copy(update={"weights": str(file)})
    with pytest.raises(ConfigError, match=r"model\.weights = .*conv1\.weight is \(64, 3, 7, 7\)"):
        build_encoder(wanted.model_copy(update={"stem": "cifar"}), 3)
    with pytest.raises(ConfigError, match=r"another architecture than model\.arch"):
        build_encoder(wanted.model_copy(update={"arch": "resnet34"}), 3)
    with pytest.raises(ConfigError, match=r"its sha256 is [0-9a-f]{64}, not model\.weights_sha256"):
        build_encoder(wanted.model_copy(update={"weights_sha256": "0" * 64}), 3)
    save_file({**network.state_dict(), "layer5.0.weight": torch.zeros(1)}, tmp_path / "more.safetensors")
    with pytest.raises(ConfigError, match=r"layer5\.0\.weight has no place in resnet18"):
        build_encoder(RESNET.model_copy(update={"weights": str(tmp_path / "more.safetensors")}), 3)
    with pytest.raises(ConfigError, match="cannot be read"):
        build_encoder(RESNET.model_copy(update={"weights": str(tmp_path / "absent.pth")}), 3)
