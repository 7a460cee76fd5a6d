"""HOC against loops over triples and against the noise that was injected; counting against exact binomial tails."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binom
from sklearn.datasets import load_digits

from lnl_core.contracts import NO_LABEL
from lnl_core.statistics.hoc import consensus, expected_consensus, fit_consensus, two_nearest
from lnl_core.statistics.noise_estimate import clopper_pearson, count_noise, hoc_noise, true_prior


def noisy_digits(transition: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    data = load_digits()
    rng = np.random.default_rng(0)
    observed = np.array([rng.choice(10, p=transition[label]) for label in data.target], dtype=np.int32)
    return data.data.astype(np.float32), data.target.astype(np.int32), observed


def asymmetric(rate: float) -> np.ndarray:
    transition = np.eye(10)
    for source in range(0, 10, 2):
        transition[source, source], transition[source, source + 1] = 1 - rate, rate
    return transition


def test_moments_are_loops_over_triples() -> None:
    rng = np.random.default_rng(1)
    triples = rng.integers(0, 3, (40, 3)).astype(np.int32)
    found = consensus(triples, 3)
    for i in range(3):
        assert found.first[i] == pytest.approx(np.mean([row[0] == i for row in triples]))
        for j in range(3):
            assert found.second[i, j] == pytest.approx(np.mean([row[0] == i and row[1] == j for row in triples]))
            for k in range(3):
                share = np.mean([tuple(row) == (i, j, k) for row in triples])
                assert found.third[i, j, k] == pytest.approx(share)


def test_expected_moments_are_sums_over_true_classes() -> None:
    rng = np.random.default_rng(2)
    p, t = rng.dirichlet(np.ones(3)), rng.dirichlet(np.ones(3), 3)
    first, second, third = expected_consensus(torch.from_numpy(p), torch.from_numpy(t))
    for i in range(3):
        assert float(first[i]) == pytest.approx(sum(p[y] * t[y, i] for y in range(3)))
        for j in range(3):
            assert float(second[i, j]) == pytest.approx(sum(p[y] * t[y, i] * t[y, j] for y in range(3)))
            for k in range(3):
                assert float(third[i, j, k]) == pytest.approx(sum(p[y] * t[y, i] * t[y, j] * t[y, k] for y in range(3)))


def test_nearest_are_those_of_a_loop() -> None:
    rows = load_digits().data[:60].astype(np.float32)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for row, found in enumerate(two_nearest(rows)):
        order = sorted(
            (other for other in range(60) if other != row), key=lambda other: -float(unit[row] @ unit[other])
        )
        assert list(found) == order[:2]


def test_exact_moments_give_back_prior_and_matrix() -> None:
    rng = np.random.default_rng(3)
    p = rng.dirichlet(5 * np.ones(4))
    t = 0.5 * np.eye(4) + 0.5 * rng.dirichlet(np.ones(4), 4)
    orders = expected_consensus(torch.from_numpy(p), torch.from_numpy(t))
    exact = consensus(np.zeros((1, 3), dtype=np.int32), 4)
    exact = type(exact)(first=orders[0].numpy(), second=orders[1].numpy(), third=orders[2].numpy(), rows=10**9)
    prior, matrix = fit_consensus(exact, steps=3000)
    np.testing.assert_allclose(prior, p, atol=0.01)
    np.testing.assert_allclose(matrix, t, atol=0.02)


@pytest.mark.parametrize(
    ("transition", "name"),
    [
        (np.eye(10), "clean"),
        (0.6 * np.eye(10) + 0.04, "symmetric 36 %"),
        (0.45 * np.eye(10) + 0.055, "symmetric 50 %"),
        (asymmetric(0.3), "asymmetric 15 %"),
    ],
)
def test_hoc_finds_the_injected_noise(transition: np.ndarray, name: str) -> None:
    features, true, observed = noisy_digits(transition)
    found = hoc_noise(features, observed, 10, np.random.default_rng(0))
    rate = float((observed != true).mean())
    assert found.rate == pytest.approx(rate, abs=0.05), name
    assert found.rate_low <= found.rate <= found.rate_high
    realised = np.zeros((10, 10))
    np.add.at(realised, (true, observed), 1)
    realised /= realised.sum(axis=1, keepdims=True)
    assert np.abs(found.transition - realised).max() < 0.2, name
    assert np.abs(found.transition - realised).mean() < 0.03, name
    np.testing.assert_allclose(found.prior, 0.1, atol=0.05)


def test_clopper_pearson_is_the_binomial_tail() -> None:
    low, high = clopper_pearson(np.array([0.0, 3.0, 20.0]), np.full(3, 20.0))
    assert low[0] == 0
    assert high[2] == 1
    assert binom.sf(2, 20, low[1]) == pytest.approx(0.025)
    assert binom.cdf(3, 20, high[1]) == pytest.approx(0.025)


def test_counting_covers_the_true_rate_as_often_as_it_says() -> None:
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(200):
        label = rng.integers(0, 3, 60).astype(np.int32)
        seen = np.where(rng.random(60) < 0.3, (label + 1) % 3, label).astype(np.int32)
        found = count_noise(label, seen, seen, 3)
        covered += found.rate_low <= 0.3 <= found.rate_high
    assert covered >= 184  # 95 % of 200 is 190; below 184 is a chance of one in 300


def test_counting_leaves_out_unknown_labels_and_fills_empty_classes() -> None:
    label = np.array([0, 0, 1, 1], dtype=np.int32)
    seen = np.array([0, 1, 1, NO_LABEL], dtype=np.int32)
    found = count_noise(label, seen, np.array([0, 1, 1, 1], dtype=np.int32), 3)
    assert (found.rows, found.rate, found.source) == (3, 1 / 3, "trusted")
    np.testing.assert_allclose(found.transition, [[2 / 3, 1 / 3, 0], [0, 1, 0], [0, 0, 1]])
    assert found.transition_low is not None
    assert found.transition_high is not None
    assert (found.transition_low[2] == 0).all()
    assert (found.transition_high[2] == 1).all()


def test_prior_undoes_the_matrix() -> None:
    p, t = np.array([0.7, 0.2, 0.1]), 0.6 * np.eye(3) + 0.4 / 3
    np.testing.assert_allclose(true_prior(p @ t, t), p, atol=1e-4)
