"""The yardsticks against slow twins: ridge refitted without each row, votes counted one by one, cleanlab's decision."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from lnl_core.contracts import NO_LABEL
from lnl_core.features.user_table import MappedRows
from lnl_core.purify.confident_learning import (
    ConfidentLearningConfig,
    LeaveOneOutHead,
    confident_learning,
    decided,
    flag,
)
from lnl_core.purify.knn import KNNConfig, References, knn, vote_transition, votes
from lnl_core.purify.task import PurifyTask
from lnl_core.purify.trusted_only import TrustedOnlyConfig, TrustedRidge, trusted_only


def digits_task(noise: float, trusted: int = 60, classes: int = 4) -> tuple[PurifyTask, np.ndarray]:
    data = load_digits(n_class=classes)
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(data.target))[: 300 + trusted]
    true, features = data.target[rows].astype(np.int32), data.data[rows].astype(np.float32)
    wrong = rng.random(len(rows)) < noise
    observed = np.where(wrong, (true + rng.integers(1, classes, len(rows))) % classes, true).astype(np.int32)
    task = PurifyTask(
        noisy=MappedRows(values=features, rows=np.arange(300)),
        observed=observed[:300],
        trusted=features[300:],
        trusted_label=true[300:],
        trusted_observed=observed[300:],
        classes=classes,
    )
    return task, true[:300]


def ridge_without(rows: np.ndarray, onehot: np.ndarray, out: int, penalty: float) -> np.ndarray:
    """Scores of row `out` by ridge regression with an unpenalised intercept on all other rows."""
    kept = np.arange(len(rows)) != out
    inputs = np.column_stack([rows[kept], np.ones(kept.sum())])
    penalties = penalty * np.eye(inputs.shape[1])
    penalties[-1, -1] = 0
    solution = np.linalg.solve(inputs.T @ inputs + penalties, inputs.T @ onehot[kept])
    return np.append(rows[out], 1) @ solution


@pytest.mark.parametrize("width", [5, 40])  # fewer and more features than rows
@pytest.mark.parametrize("transform", ["centre", "standardise"])
def test_leave_one_out_is_a_refit_without_the_row(width: int, transform: str) -> None:
    rng = np.random.default_rng(1)
    features, label = rng.normal(2, 3, size=(25, width)).astype(np.float32), rng.integers(0, 3, 25).astype(np.int32)
    ridge = TrustedRidge.of(features, label, 3, transform)
    slow = [ridge_without(ridge.rows, np.eye(3)[label], row, 4.0) for row in range(25)]
    np.testing.assert_allclose(ridge.leave_one_out(4.0), slow, atol=1e-8)
    weights, bias = ridge.weights(4.0)
    inputs = np.column_stack([ridge.rows, np.ones(25)])
    penalties = 4.0 * np.eye(width + 1)
    penalties[-1, -1] = 0
    whole = inputs @ np.linalg.solve(inputs.T @ inputs + penalties, inputs.T @ np.eye(3)[label])
    np.testing.assert_allclose(features @ weights + bias, whole, atol=1e-6)


def test_trusted_rows_are_predicted_as_well_as_new_rows() -> None:
    task, true = digits_task(0.4)
    found = trusted_only(task, TrustedOnlyConfig(), np.random.default_rng(0))
    right = (found.posterior.argmax(axis=1) == true).mean()
    assert right > 0.9
    assert abs(found.metrics["held_out_accuracy"] - right) < 0.1
    evidence = trusted_only(task, TrustedOnlyConfig(use_observed=True), np.random.default_rng(0))
    assert (evidence.posterior.argmax(axis=1) == true).mean() >= right - 0.01


def test_votes_are_counted_one_by_one() -> None:
    rng = np.random.default_rng(2)
    points = rng.normal(size=(40, 3)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    basis = np.eye(3, dtype=np.float32)
    references = References(rows=np.arange(40), mean=np.zeros(3, dtype=np.float32), basis=basis, points=points)
    opinion = rng.dirichlet(np.ones(4), 40).astype(np.float32)
    found = votes(opinion, references.nearest(points, 5, np.arange(40)))
    for row in range(40):
        distance = [np.inf if other == row else -float(points[row] @ points[other]) for other in range(40)]
        slow = (opinion[np.argsort(distance)[:5]].sum(axis=0) + 0.25) / 6
        np.testing.assert_allclose(found[row], slow, rtol=1e-5)


def test_vote_transition_by_hand() -> None:
    share = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]], dtype=np.float32)
    found = vote_transition(share, np.array([0, 1, 1], dtype=np.int32), smoothing=0.5)
    np.testing.assert_allclose(found, [[0.5, 0.5], [0.25, 0.75]])


@pytest.mark.parametrize("rounds", [0, 2])
def test_neighbours_mend_labels_and_their_sample_is_bounded(rounds: int) -> None:
    task, true = digits_task(0.4)
    found = knn(task, KNNConfig(rounds=rounds, reference_rows=150), np.random.default_rng(0))
    assert found.metrics["reference_rows"] == 150
    assert (found.posterior.argmax(axis=1) == true).mean() > (task.observed == true).mean() + (0.2 if rounds else 0.15)


@pytest.mark.parametrize("ridge", [0.01, 1.0])
def test_predictions_of_the_head_leave_the_row_out(ridge: float) -> None:
    task, _ = digits_task(0.3)
    head = LeaveOneOutHead(task, "standardise")
    features = task.noisy.values[:300]
    rows = (features - head.shift) * head.scale
    onehot = np.eye(4)[task.observed]
    found = head.scores(head.rotated(features), ridge, task.observed)
    for row in (0, 7, 150):
        np.testing.assert_allclose(found[row], ridge_without(rows, onehot, row, ridge * 300), atol=2e-4)


def test_flagged_rows_get_the_prediction_and_others_keep_their_label() -> None:
    task, true = digits_task(0.3)
    found = confident_learning(task, ConfidentLearningConfig(), np.random.default_rng(0))
    label = found.posterior.argmax(axis=1)
    assert (label != task.observed).sum() == found.metrics["flagged"]
    assert (label == true).mean() > (task.observed == true).mean() + 0.15
    np.testing.assert_allclose(np.sum(found.metrics["transition"], axis=1), 1, atol=1e-4)


def test_decision_is_the_mode_and_rows_still_sum_to_one() -> None:
    rng = np.random.default_rng(3)
    probabilities = rng.dirichlet(np.ones(4), 50).astype(np.float32)
    observed, flagged = rng.integers(0, 4, 50).astype(np.int32), rng.random(50) < 0.5
    found = decided(probabilities, np.full((4, 4), 0.1) + 0.6 * np.eye(4), observed, flagged)
    np.testing.assert_array_equal(found.argmax(axis=1), np.where(flagged, probabilities.argmax(axis=1), observed))
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


def test_a_class_that_never_occurs_is_no_obstacle() -> None:
    rng = np.random.default_rng(4)
    probabilities = rng.dirichlet(np.ones(4), 60).astype(np.float32)
    observed = rng.choice([0, 1, 3], 60).astype(np.int32)
    flagged, transition = flag(probabilities, observed, np.array([0, 1, 3], dtype=np.int32), "prune_by_noise_rate")
    assert flagged.shape == (60,)
    np.testing.assert_allclose(transition[2], [0, 0, 1, 0])
    np.testing.assert_allclose(transition.sum(axis=1), 1)


@pytest.mark.parametrize("method", [knn, confident_learning])
def test_a_trusted_row_of_unknown_label_is_predicted_without_evidence(method: object) -> None:
    import dataclasses

    task, _ = digits_task(0.4)
    unknown = dataclasses.replace(task, trusted_observed=np.full(60, NO_LABEL, dtype=np.int32))
    config = KNNConfig() if method is knn else ConfidentLearningConfig()
    found = method(unknown, config, np.random.default_rng(0)).trusted_posterior  # type: ignore[operator]
    assert np.isfinite(found).all()
    assert (found.argmax(axis=1) == task.trusted_label).mean() > 0.7
