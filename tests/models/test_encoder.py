"""Encoders: widths, input kinds, names, and that weights depend on the seed alone."""

import pytest
import torch

from lnl_core.config import ConfigError, ModelSettings
from lnl_core.models.classifier import build_classifier
from lnl_core.models.encoder import ARCHITECTURES, build_encoder
from lnl_core.models.normalise import pixel_statistics, set_normalisation


@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32)])
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_gives_features_of_its_width(arch, channels, size, stem):
    encoder = build_encoder(ModelSettings(arch=arch, width=4, stem=stem), channels).eval()
    features = encoder(torch.rand(2, channels, size, size))
    assert features.shape == (2, encoder.width)
    assert torch.isfinite(features).all()


def test_same_seed_same_weights_and_the_global_generator_is_left_alone():
    before = torch.random.get_rng_state()
    first, again, other = (
        build_classifier(ModelSettings(arch="small_cnn", width=4), 1, 3, seed=seed) for seed in (5, 5, 6)
    )
    assert torch.equal(before, torch.random.get_rng_state())
    for name, weights in first.state_dict().items():
        assert torch.equal(weights, again.state_dict()[name])
    assert not torch.equal(first.head.weight, other.head.weight)
    assert not torch.equal(first.encoder.body.layers[0].weight, other.encoder.body.layers[0].weight)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_resnet_is_torchvisions_at_its_width(arch):
    from torchvision.models import get_model  # only once lnl_core has mended torchvision on a CPU-only machine

    published = get_model(arch, weights=None)
    encoder = build_encoder(ModelSettings(arch=arch, stem="imagenet", width=64), 3)
    missing = encoder.body.load_state_dict(published.state_dict(), strict=False)
    assert missing.missing_keys == []
    assert missing.unexpected_keys == ["fc.weight", "fc.bias"]
    images = torch.rand(2, 3, 64, 64)
    published.fc = torch.nn.Identity()
    with torch.no_grad():
        expected = published.eval()(images)
        assert torch.allclose(encoder.eval().body(images), expected, atol=1e-4)


def test_cifar_stem_keeps_the_resolution():
    encoder = build_encoder(ModelSettings(arch="resnet18", stem="cifar", width=4), 3).eval()
    body = encoder.body
    assert body.maxpool(body.conv1(torch.rand(1, 3, 32, 32))).shape[-1] == 32


def test_unknown_architecture_names_the_nearest():
    with pytest.raises(ConfigError, match=r"model\.arch: unknown architecture 'resnet_18'; did you mean 'resnet18'"):
        build_encoder(ModelSettings(arch="resnet_18"), 3)


def test_statistics_set_the_normalisation():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (5000, 3, 4, 4), generator=generator, dtype=torch.uint8)
    pixels[:, 2] = 51
    mean, std = pixel_statistics(pixels)
    values = pixels.double() / 255
    assert torch.allclose(mean.double(), values.mean(dim=(0, 2, 3)), atol=1e-6)
    assert torch.allclose(std.double(), values.std(dim=(0, 2, 3), correction=0), atol=1e-6)
    encoder = build_encoder(ModelSettings(arch="small_cnn", width=4), 3)
    set_normalisation(encoder, mean, std)
    out = encoder.normalise(pixels.float() / 255)
    assert torch.allclose(out[:, :2].mean(), torch.tensor(0.0), atol=1e-4)
    assert torch.allclose(out[:, :2].std(), torch.tensor(1.0), atol=1e-3)
    assert torch.isfinite(out).all()
