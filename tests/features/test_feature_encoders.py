"""Encoders from everywhere: weights from a file only, fingerprints that follow weights and preprocessing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lnl_core.config import ConfigError, ImageSettings, ModelSettings, RunSettings
from lnl_core.contracts import ContractError
from lnl_core.features.encoders import FeatureEncoder, open_encoder, weights_sha256
from lnl_core.files import write_json
from lnl_core.models.encoder import build_encoder
from lnl_core.models.saved import save_encoder
from lnl_core.runtime import resolve

RUNTIME = resolve(RunSettings(device="cpu", threads=1))
IMAGES = ImageSettings(size=32, channels=3)


def opened(name: str, folder: Path, **changes: object) -> FeatureEncoder:
    settings: dict[str, object] = {
        "weights": None,
        "random_weights": False,
        "pretrained": folder,
        "images": IMAGES,
        "runtime": RUNTIME,
    }
    return open_encoder(name, **{**settings, **changes})


def images(count: int = 3, channels: int = 3) -> torch.Tensor:
    return torch.rand(count, channels, 32, 32, generator=torch.Generator().manual_seed(0))


def test_pretrained_encoder_and_its_fingerprint(tmp_path: Path) -> None:
    encoder = build_encoder(ModelSettings(arch="small_cnn", width=8), 3, seed=0)
    save_encoder(tmp_path / "one", encoder, {"run": 1})
    save_encoder(tmp_path / "same", encoder, {"run": 2})
    save_encoder(tmp_path / "other", build_encoder(ModelSettings(arch="small_cnn", width=8), 3, seed=1), {})
    one, same, other = (opened("simclr", tmp_path / name) for name in ("one", "same", "other"))
    with torch.no_grad():
        assert torch.allclose(one.encode(images()), encoder.eval()(images()), atol=1e-5)
    assert one.fingerprint == same.fingerprint  # what is recorded about the run is no part of it
    assert one.fingerprint != other.fingerprint
    assert one.fingerprint != opened("simclr", tmp_path / "one", images=ImageSettings(size=64)).fingerprint
    bfloat16 = resolve(RunSettings(device="cpu", threads=1, precision="bfloat16"))
    assert one.fingerprint != opened("simclr", tmp_path / "one", runtime=bfloat16).fingerprint
    assert one.fingerprint == opened("simclr", tmp_path / "one", images=ImageSettings(size=32, flip=False)).fingerprint


def test_pretrained_encoder_that_is_not_there_or_does_not_fit(tmp_path: Path) -> None:
    write_json(tmp_path / "none" / "config.json", {"kind": "none"})
    with pytest.raises(ConfigError, match=r"pretrain\.method is 'none'"):
        opened("simclr", tmp_path / "none")
    with pytest.raises(ContractError, match="no such folder"):
        opened("simclr", tmp_path / "missing")
    save_encoder(tmp_path / "grey", build_encoder(ModelSettings(arch="small_cnn", width=8), 1, seed=0), {})
    with pytest.raises(ConfigError, match=r"images\.channels = 3, but the encoder .* trained on 1"):
        opened("simclr", tmp_path / "grey")


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("torchvision:resnet18", 512),
        ("torchvision:mobilenet_v3_small", 1024),
        ("timm:resnet10t", 512),
    ],
)
def test_published_backbones_have_no_classifier_and_the_same_random_weights(
    name: str, width: int, tmp_path: Path
) -> None:
    before = torch.random.get_rng_state()
    one, two = (opened(name, tmp_path, random_weights=True) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert one.encode(images()).shape == (3, width)
    assert one.fingerprint == two.fingerprint
    assert torch.equal(one.encode(images()), two.encode(images()))


def test_weights_come_from_a_file_and_never_from_the_net(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    with pytest.raises(ConfigError, match=r"features\.weights is missing: torchvision:resnet18 .* never downloaded"):
        opened("torchvision:resnet18", tmp_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        whole = resnet18(weights=None).eval()
    save_file(whole.state_dict(), tmp_path / "whole.safetensors")
    torch.save({"state_dict": whole.state_dict()}, tmp_path / "whole.pth")
    safe, pickled = (
        opened("torchvision:resnet18", tmp_path, weights=tmp_path / f"whole.{x}") for x in ("safetensors", "pth")
    )
    assert safe.fingerprint == pickled.fingerprint
    whole.fc = torch.nn.Identity()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = whole((images() - mean[:, None, None]) / std[:, None, None])
    assert torch.allclose(safe.encode(images()), expected, atol=1e-4)


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "few.safetensors")
    with pytest.raises(ConfigError, match=r"bn1\.weight is missing \(\d+ missing, 1 of another shape"):
        opened("torchvision:resnet18", tmp_path, weights=tmp_path / "few.safetensors")
    wide = resnet18(weights=None, width_per_group=64).state_dict()
    wide["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    save_file(wide, tmp_path / "wide.safetensors")
    with pytest.raises(ConfigError, match=r"conv1\.weight is \(64, 1, 7, 7\)"):
        opened("torchvision:resnet18", tmp_path, weights=tmp_path / "wide.safetensors")
    (tmp_path / "text.pth").write_text("no weights")
    for name, message in (("text.pth", "cannot be read"), ("absent.pth", "cannot be read")):
        with pytest.raises(ConfigError, match=message):
            opened("torchvision:resnet18", tmp_path, weights=tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ConfigError, match="holds no state dict"):
        opened("torchvision:resnet18", tmp_path, weights=tmp_path / "list.pth")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:resnet19", "did you mean 'resnet18'"),
        ("timm:resnet10", "unknown timm model"),
        ("simclrr", "must be simclr, saved:FOLDER, torchvision:NAME"),
        ("no_such_package.module:make", "must be installed, on PYTHONPATH or in this folder"),
        ("json:no_such_function", "must be installed, on PYTHONPATH or in this folder"),
    ],
)
def test_unknown_encoders_are_named(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        opened(name, tmp_path, random_weights=True)


def test_one_channel_is_not_for_published_backbones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="wants 3 channels"):
        opened("torchvision:resnet18", tmp_path, random_weights=True, images=ImageSettings(channels=1))


OWN = """
class Pixels:
    def __init__(self, scale=1.0):
        self.scale = scale
    def __call__(self, images):
        return images.flatten(1) * self.scale

def make(weights=None):
    return Pixels() if weights is None else Pixels(float(weights.read_text()))

def stated():
    pixels = Pixels()
    pixels.fingerprint = "version 7"
    return pixels

def wrong():
    return lambda images: images

def nothing():
    return 5
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_encoder.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_encoder", raising=False)
    return tmp_path


def test_an_encoder_of_ones_own(own_module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = opened("own_encoder:make", own_module)
    assert torch.equal(plain.encode(images()), images().flatten(1))
    (own_module / "scale.txt").write_text("2.0")
    scaled = opened("own_encoder:make", own_module, weights=own_module / "scale.txt")
    assert torch.equal(scaled.encode(images()), 2 * images().flatten(1))
    stated = opened("own_encoder:stated", own_module)
    assert len({plain.fingerprint, scaled.fingerprint, stated.fingerprint}) == 3
    (own_module / "own_encoder.py").write_text(OWN + "\n# edited\n")
    import linecache

    linecache.clearcache()
    monkeypatch.delitem(sys.modules, "own_encoder")
    assert opened("own_encoder:stated", own_module).fingerprint == stated.fingerprint
    assert opened("own_encoder:make", own_module).fingerprint != plain.fingerprint


def test_an_encoder_of_ones_own_that_gives_something_else(own_module: Path) -> None:
    with pytest.raises(ConfigError, match=r"gave \(3, 3, 32, 32\) for 3 images; it must give a tensor \[3, width\]"):
        opened("own_encoder:wrong", own_module).encode(images())
    with pytest.raises(ConfigError, match="returned int, must return a callable"):
        opened("own_encoder:nothing", own_module)


def test_weights_hash_by_hand() -> None:
    state = {"a": torch.arange(4.0), "b": torch.tensor(1, dtype=torch.int64)}
    assert weights_sha256(state) == weights_sha256(dict(reversed(state.items())))
    assert weights_sha256(state) != weights_sha256({**state, "a": torch.arange(4.0).reshape(2, 2)})
    assert weights_sha256(state) != weights_sha256({**state, "b": torch.tensor(2)})
