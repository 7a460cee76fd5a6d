"""Sharpening, mixup and ramps: slow twins and hand-computed cases."""

import numpy as np
import pytest
import torch

from lnl_core.training.mixup import draw_lambda, mix
from lnl_core.training.ramp import linear_ramp
from lnl_core.training.schedule import cosine_lr, step_lr
from lnl_core.training.sharpen import sharpen


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_sharpen_by_hand():
    # 0.6^2 = 0.36, 0.3^2 = 0.09, 0.1^2 = 0.01; sum 0.46
    found = sharpen(torch.tensor([[0.6, 0.3, 0.1]]), 0.5)
    assert torch.allclose(found, torch.tensor([[0.36, 0.09, 0.01]]) / 0.46)


@pytest.mark.parametrize("temperature", [0.3, 0.5, 1.0, 2.0])
def test_sharpen_slow_twin(temperature):
    probabilities = torch.rand(6, 5, generator=generator()).softmax(dim=1)
    found = sharpen(probabilities, temperature)
    for row in range(6):
        powers = [float(value) ** (1 / temperature) for value in probabilities[row]]
        for column in range(5):
            assert float(found[row, column]) == pytest.approx(powers[column] / sum(powers), rel=1e-5)


def test_sharpen_keeps_uniform_and_survives_small_numbers():
    assert torch.allclose(sharpen(torch.full((1, 4), 0.25), 0.1), torch.full((1, 4), 0.25))
    found = sharpen(torch.full((1, 1000), 1e-3), 0.05)  # 1e-60 in float32 would be 0
    assert torch.isfinite(found).all()
    assert torch.allclose(sharpen(torch.tensor([[0.9, 0.1]]), 1e-3), torch.tensor([[1.0, 0.0]]))


def test_mix_slow_twin():
    draw = generator(4)
    images, targets = torch.rand(5, 2, 3, 3, generator=draw), torch.rand(5, 4, generator=draw)
    for lam in (torch.tensor([0.7]), torch.rand(5, generator=draw)):
        mixed, mixed_targets = mix(images, targets, lam, generator(9))
        partner = torch.randperm(5, generator=generator(9))
        for row in range(5):
            share = float(lam[row if len(lam) > 1 else 0])
            expected = share * images[row] + (1 - share) * images[partner[row]]
            assert torch.allclose(mixed[row], expected, atol=1e-6)
            expected = share * targets[row] + (1 - share) * targets[partner[row]]
            assert torch.allclose(mixed_targets[row], expected, atol=1e-6)


def test_lambda_is_beta_folded_at_a_half():
    drawn = draw_lambda(20_000, 4.0, generator()).numpy()
    assert drawn.min() >= 0.5
    assert drawn.max() < 1
    # |l - 1/2| of Beta(4, 4): its mean is twice the integral of (l - 1/2) 140 l^3 (1-l)^3 over (1/2, 1) = 35/256
    assert drawn.mean() == pytest.approx(0.5 + 35 / 256, abs=3e-3)
    assert torch.equal(draw_lambda(3, 4.0, generator(1)), draw_lambda(3, 4.0, generator(1)))
    moving = generator(1)
    assert not torch.equal(draw_lambda(3, 4.0, moving), draw_lambda(3, 4.0, moving))


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, 0.0), (10, 0.0), (12, 0.125), (18, 0.5), (18.5, 8.5 / 16), (26, 1.0), (300, 1.0)]
)
def test_ramp_of_sixteen_epochs_after_ten(epoch, expected):
    assert linear_ramp(float(epoch), 10, 16) == pytest.approx(expected)


def test_ramp_without_length_is_a_step():
    assert [linear_ramp(float(epoch), 2, 0) for epoch in (0, 1, 2, 3)] == [0, 0, 1, 1]


def test_cosine_and_steps_by_hand():
    assert [cosine_lr(step, 4, 1.0) for step in range(5)] == pytest.approx(
        [1.0, (1 + np.sqrt(0.5)) / 2, 0.5, (1 - np.sqrt(0.5)) / 2, 0.0]
    )
    assert [cosine_lr(step, 10, 1.0, warmup=4) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert [step_lr(epoch, 0.02, (150,)) for epoch in (0, 149, 150, 299)] == pytest.approx([0.02, 0.02, 0.002, 0.002])
