"""Moments, ridge, link, folds and transition matrix against slow twins and hand-computed cases."""

from __future__ import annotations

import numpy as np
import pytest

from lnl_core.contracts import NO_LABEL
from lnl_core.statistics.folds import stratified_folds
from lnl_core.statistics.moments import accumulate
from lnl_core.statistics.ridge import RidgePath
from lnl_core.statistics.softmax_link import fit_link, log_loss, softmax
from lnl_core.statistics.transition import estimate_transition, posterior


def batches(values: np.ndarray, size: int):
    for start in range(0, len(values), size):
        yield slice(start, min(start + size, len(values))), values[start : start + size]


@pytest.mark.parametrize("transform", ["centre", "standardise"])
def test_moments_give_the_gram_of_the_transformed_features(transform: str) -> None:
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(53, 4)) * [1, 2, 3, 4] + [5, 0, -1, 2]).astype(np.float32)
    labels = rng.integers(0, 3, 53).astype(np.int32)
    moments = accumulate(batches(values, 10), labels, 4, 3)
    shift, scale = moments.affine(transform)
    gram, cross = moments.transformed(shift, scale)
    slow = (values.astype(np.float64) - shift) * scale
    onehot = np.eye(3)[labels]
    np.testing.assert_allclose(gram, slow.T @ slow, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(cross, slow.T @ (onehot - onehot.mean(axis=0)), rtol=1e-4, atol=1e-3)
    if transform == "standardise":
        np.testing.assert_allclose(slow.std(axis=0), 1, rtol=1e-4)


def test_ridge_path_solves_the_normal_equations() -> None:
    rng = np.random.default_rng(1)
    values, targets = rng.normal(size=(30, 5)), rng.normal(size=(30, 2))
    path = RidgePath.of(values.T @ values, values.T @ targets)
    for penalty in (0.1, 10.0):
        slow = np.linalg.solve(values.T @ values + penalty * np.eye(5), values.T @ targets)
        np.testing.assert_allclose(path.weights(penalty), slow, atol=1e-10)


def test_link_recovers_scale_and_bias() -> None:
    rng = np.random.default_rng(2)
    scores = rng.normal(size=(20_000, 3)) * 0.1
    chances = softmax(30 * scores + [0.5, 0, -0.5])
    labels = (chances.cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
    link = fit_link(scores, labels)
    assert abs(link.beta - 30) < 1
    assert 0.8 < link.bias[0] - link.bias[2] < 1.05  # its ridge pulls the true 1 towards 0
    assert log_loss(link(scores), labels) < log_loss(softmax(scores), labels)


def test_link_of_separable_scores_stays_finite() -> None:
    link = fit_link(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 1]))
    assert np.isfinite(link.beta)
    assert np.isfinite(link(np.array([[1.0, 0.0]]))).all()


def test_folds_are_stratified_and_balanced() -> None:
    labels = np.repeat([0, 1, 2], [50, 10, 1])
    fold = stratified_folds(labels, 5, np.random.default_rng(0).permutation(61))
    counts = np.bincount(fold)
    assert counts.max() - counts.min() <= 1
    assert [np.bincount(fold[labels == label], minlength=5).max() for label in (0, 1)] == [10, 2]


def test_posterior_by_hand() -> None:
    transition = np.array([[0.9, 0.1], [0.4, 0.6]])
    found = posterior(np.array([[0.5, 0.5], [0.8, 0.2]]), transition, np.array([0, 1], dtype=np.int32))
    np.testing.assert_allclose(found[0], [0.45 / 0.65, 0.2 / 0.65], rtol=1e-6)
    np.testing.assert_allclose(found[1], [0.08 / 0.20, 0.12 / 0.20], rtol=1e-6)


def test_posterior_where_the_evidence_is_impossible_keeps_the_probabilities() -> None:
    transition = np.eye(2)
    found = posterior(np.array([[1.0, 0.0]]), transition, np.array([1], dtype=np.int32))
    np.testing.assert_allclose(found, [[1.0, 0.0]])


def test_transition_by_expectation_maximisation_equals_its_slow_twin() -> None:
    rng = np.random.default_rng(3)
    chances = rng.dirichlet([0.3] * 3, size=80)
    observed = rng.integers(0, 3, 80).astype(np.int32)
    anchors, seen = np.array([0, 1, 2, 2], dtype=np.int32), np.array([0, 2, 2, NO_LABEL], dtype=np.int32)
    found = estimate_transition(chances, observed, anchor_label=anchors, anchor_observed=seen, iterations=5)
    prior = 0.8 * np.eye(3) + 0.2 / 3
    for label, other in ((0, 0), (1, 2), (2, 2)):
        prior[label, other] += 1
    slow = prior / prior.sum(axis=1, keepdims=True)
    for _ in range(5):
        counts = prior.copy()
        for row in range(80):
            weight = chances[row] * slow[:, observed[row]]
            counts[:, observed[row]] += weight / weight.sum()
        slow = counts / counts.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, slow, atol=1e-9)


def test_transition_is_recovered_from_calibrated_probabilities() -> None:
    rng = np.random.default_rng(4)
    chances = rng.dirichlet([0.2] * 3, size=20_000)
    true = (chances.cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
    transition = np.array([[0.7, 0.2, 0.1], [0.0, 0.9, 0.1], [0.3, 0.3, 0.4]])
    observed = (transition[true].cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1).astype(np.int32)
    none = np.empty(0, dtype=np.int32)
    found = estimate_transition(chances, observed, anchor_label=none, anchor_observed=none, iterations=100)
    assert np.abs(found - transition).max() < 0.03
