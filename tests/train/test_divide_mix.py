"""DivideMix's formulas: slow twins looped from the paper, hand-computed cases, modes and guards."""

import math

import numpy as np
import pytest
import torch

from lnl_core.config import ConfigError, parse
from lnl_core.train.divide_mix import (
    DivideMixConfig,
    divide,
    guessed_labels,
    prior_penalty,
    sharpened_labels,
    unlabelled_error,
)


def probabilities(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)).softmax(dim=-1)


def slow_sharpen(values, temperature):
    powers = [value ** (1 / temperature) for value in values]
    return [power / sum(powers) for power in powers]


def test_co_refine_slow_twin():
    views, batch, classes = 3, 4, 5
    predicted, targets = probabilities(views, batch, classes), torch.eye(classes)[:batch]
    clean = torch.tensor([0.0, 0.3, 0.8, 1.0])
    found = sharpened_labels(targets, clean, predicted, 0.5)
    for b in range(batch):
        refined = []
        for c in range(classes):
            mean = sum(float(predicted[m, b, c]) for m in range(views)) / views
            refined.append(float(clean[b]) * float(targets[b, c]) + (1 - float(clean[b])) * mean)
        assert found[b].tolist() == pytest.approx(slow_sharpen(refined, 0.5), rel=1e-5)


def test_co_refine_by_hand():
    # w = 0.5, label class 0, prediction (0.2, 0.8): (0.6, 0.4); squared 0.36, 0.16
    found = sharpened_labels(
        torch.tensor([[1.0, 0.0]]), torch.tensor([0.5]), torch.tensor([[[0.3, 0.7]], [[0.1, 0.9]]]), 0.5
    )
    assert found[0].tolist() == pytest.approx([0.36 / 0.52, 0.16 / 0.52])


def test_co_guess_slow_twin():
    views, batch, classes = 2, 3, 4
    own, other = probabilities(views, batch, classes, seed=1), probabilities(views, batch, classes, seed=2)
    found = guessed_labels(own, other, 0.5)
    for b in range(batch):
        mean = [
            sum(float(own[m, b, c]) + float(other[m, b, c]) for m in range(views)) / (2 * views) for c in range(classes)
        ]
        assert found[b].tolist() == pytest.approx(slow_sharpen(mean, 0.5), rel=1e-5)


def test_prior_penalty_slow_twin_and_zero_at_the_prior():
    predicted, prior = probabilities(6, 4), torch.tensor([0.1, 0.2, 0.7, 0.0])
    expected = 0.0
    for c in range(3):
        mean = sum(float(predicted[b, c]) for b in range(6)) / 6
        expected += float(prior[c]) * math.log(float(prior[c]) / mean)
    assert float(prior_penalty(predicted, prior)) == pytest.approx(expected, rel=1e-5)
    assert float(prior_penalty(torch.tensor([[0.6, 0.4], [0.2, 0.8]]), torch.tensor([0.4, 0.6]))) == pytest.approx(
        0, abs=1e-6
    )


def test_unlabelled_error_slow_twin():
    predicted, targets = probabilities(5, 3), probabilities(5, 3, seed=7)
    total = sum((float(predicted[b, c]) - float(targets[b, c])) ** 2 for b in range(5) for c in range(3))
    assert float(unlabelled_error(predicted, targets, "sum")) == pytest.approx(total / 5, rel=1e-5)
    assert float(unlabelled_error(predicted, targets, "mean")) == pytest.approx(total / 15, rel=1e-5)


def test_divide_by_threshold_and_guard():
    clean = np.array([0.9, 0.5, 0.4, 0.1, 0.7])
    assert divide(clean, 0.5, least=2).tolist() == [True, True, False, False, True]
    assert divide(clean, 0.95, least=2).tolist() == [True, False, False, False, True]  # too few: the cleanest two
    assert divide(clean, 0.0, least=2).all()
    assert divide(clean, 0.95, least=64).all()  # fewer rows than a batch: all of them
    assert divide(np.zeros(4), 0.5, least=2).tolist() == [True, True, False, False]


@pytest.mark.parametrize("bad", [{"mode": "quick"}, {"lambda_u": -0.5}, {"lambda_u": "many"}, {"views": 0}])
def test_bad_settings(bad):
    with pytest.raises(ConfigError, match=r"train\.divide_mix"):
        parse(DivideMixConfig, bad, "train.divide_mix")


def test_learning_rate_schedules():
    step = parse(DivideMixConfig, {}, "divide_mix")
    assert [step.lr_at(epoch, 0.5) for epoch in (0, 149, 150, 299)] == pytest.approx([0.02, 0.02, 0.002, 0.002])
    cosine = parse(DivideMixConfig, {"schedule": "cosine", "epochs": 4, "lr": 1.0}, "divide_mix")
    for epoch, share in ((0, 0.0), (1, 0.25), (3, 0.9)):
        expected = (1 + math.cos(math.pi * (epoch + share) / 4)) / 2
        assert cosine.lr_at(epoch, share) == pytest.approx(expected, abs=1e-4)
