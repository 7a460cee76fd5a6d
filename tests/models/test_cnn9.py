"""The CNN of Co-teaching: its layers by the paper's table, and dropout that a resumed run repeats."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch.nn import functional

from lnl_core.config import ModelSettings
from lnl_core.models.cnn9 import CNN9
from lnl_core.models.encoder import build_encoder
from lnl_core.models.saved import load_encoder, save_encoder
from lnl_core.models.seeded_dropout import SeededDropout


def test_layers_are_those_of_the_table() -> None:
    body = build_encoder(ModelSettings(arch="cnn9", width=64), 3).body
    shapes = [tuple(weights.shape) for weights in body.parameters() if weights.ndim == 4]
    channels = [3, 128, 128, 128, 256, 256, 256, 512, 256, 128]
    assert shapes == [(after, before, 3, 3) for before, after in itertools.pairwise(channels)]
    assert body.width == 128


@pytest.mark.parametrize(("size", "left"), [(8, 2), (27, 6), (28, 1), (32, 2)])
def test_unpadded_where_the_image_allows_it(size: int, left: int) -> None:
    """Slow twin: the layers of the table one by one, with the padding that the docstring promises."""
    body = CNN9(1, 2).eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 1, size, size, generator=generator)
    for name, value in body.named_buffers():  # statistics that change something
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        assert "running" in name or "num_batches" in name
    maps = images
    for number, layer in enumerate([*body.first[:3], *body.second[:3], *body.last]):
        padding = 1 if number < 6 or size < 28 else 0
        maps = functional.conv2d(maps, layer.conv.weight, padding=padding)
        bn = layer.bn
        maps = (maps - bn.running_mean[:, None, None]) / (bn.running_var[:, None, None] + bn.eps).sqrt()
        maps = torch.where(maps > 0, maps, 0.01 * maps)
        if number in (2, 5):
            maps = functional.max_pool2d(maps, 2)
    assert maps.shape[-1] == left
    assert torch.allclose(body(images), maps.flatten(2).mean(dim=2), atol=1e-5)


def test_dropout_keeps_the_mean_and_the_global_generator() -> None:
    layer = SeededDropout(0.25)
    before = torch.random.get_rng_state()
    dropped = layer(torch.ones(100, 100))
    assert torch.equal(before, torch.random.get_rng_state())
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert float(dropped.mean()) == pytest.approx(1, abs=0.03)
    assert not torch.equal(dropped, layer(torch.ones(100, 100)))
    assert torch.equal(layer.eval()(torch.ones(2, 2)), torch.ones(2, 2))


def test_a_restored_network_draws_the_masks_that_would_have_come() -> None:
    encoder = build_encoder(ModelSettings(arch="cnn9", width=2), 1, seed=1).train()
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    encoder(images)
    state = copy.deepcopy(encoder.state_dict())
    expected = encoder(images)
    other = build_encoder(ModelSettings(arch="cnn9", width=2), 1, seed=2).train()
    other.load_state_dict(state)
    assert torch.equal(other(images), expected)
    assert not torch.equal(other(images), expected)


def test_masks_depend_on_the_seed() -> None:
    one, again, other = (build_encoder(ModelSettings(arch="cnn9", width=2), 1, seed=seed).body for seed in (1, 1, 2))
    assert one.first[-1].seed == again.first[-1].seed
    assert len({one.first[-1].seed, one.second[-1].seed, other.first[-1].seed}) == 3


def test_round_trip_through_a_model_folder(tmp_path) -> None:
    encoder = build_encoder(ModelSettings(arch="cnn9", width=2), 3, seed=3).train()
    encoder(torch.rand(2, 3, 16, 16))
    save_encoder(tmp_path / "encoder", encoder, {})
    loaded = load_encoder(tmp_path / "encoder")
    assert loaded.body.first[-1].masks == 1
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(loaded(images), encoder.eval()(images))
