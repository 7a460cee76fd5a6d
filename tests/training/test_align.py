"""Distribution alignment: ReMixMatch's step against a slow twin, and where it ends."""

import pytest
import torch

from lnl_core.training.align import align_to_prior


def test_one_step_slow_twin():
    predictions = torch.rand(6, 4, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    prior = torch.tensor([0.1, 0.2, 0.3, 0.4])
    found = align_to_prior(predictions, prior, steps=1)
    mean = [sum(float(predictions[row, c]) for row in range(6)) / 6 for c in range(4)]
    for row in range(6):
        weighted = [float(predictions[row, c]) * float(prior[c]) / mean[c] for c in range(4)]
        assert found[row].tolist() == pytest.approx([value / sum(weighted) for value in weighted], rel=1e-5)


def test_by_hand():
    # means .7, .3; prior .5, .5: weights 5/7, 5/3; first row .9 * 5/7 : .1 * 5/3
    found = align_to_prior(torch.tensor([[0.9, 0.1], [0.5, 0.5]]), torch.tensor([0.5, 0.5]), steps=1)
    assert found[0, 0].item() == pytest.approx((0.9 / 0.7) / (0.9 / 0.7 + 0.1 / 0.3))


def test_the_mean_becomes_the_prior_and_a_class_that_nobody_predicts_breaks_nothing():
    predictions = (3 * torch.randn(400, 3, generator=torch.Generator().manual_seed(1))).softmax(dim=1)
    prior = torch.tensor([0.6, 0.3, 0.1])
    assert torch.allclose(align_to_prior(predictions, prior, steps=200).mean(dim=0), prior, atol=1e-3)
    lost = torch.cat([predictions[:, :2], torch.zeros(400, 1)], dim=1)
    lost = lost / lost.sum(dim=1, keepdim=True)
    assert torch.isfinite(align_to_prior(lost, prior)).all()
