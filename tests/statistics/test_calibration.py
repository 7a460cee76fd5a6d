"""The map from posterior to confidence: against a slow twin, and what few rows, weights and two groups do to it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize

from lnl_core.statistics.calibration import (
    IDENTITY,
    PRIOR_STD,
    ConfidenceMap,
    calibrate,
    calibration_error,
    fit_map,
    prior_weights,
)


def overconfident(rows: int, seed: int, changed_shift: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidences whose labels are right with probability sigma(0.6 logit(c) - 0.4 [+ changed_shift if changed])."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.3, 0.99, rows)
    changed = rng.random(rows) < 0.4
    truth = 1 / (1 + np.exp(-(0.6 * np.log(confidence / (1 - confidence)) - 0.4 + changed_shift * changed)))
    return confidence, rng.random(rows) < truth, changed


def slow_objective(
    parameters: np.ndarray, confidence: np.ndarray, right: np.ndarray, changed: np.ndarray, weight: np.ndarray
) -> float:
    scale = weight.sum() / (weight**2).sum()
    total = sum(0.5 * (value / PRIOR_STD) ** 2 for value in parameters)
    for c, is_right, is_changed, w in zip(confidence, right, changed, weight, strict=True):
        slope = math.exp(parameters[0] + (parameters[2] if is_changed else 0))
        shift = parameters[1] + (parameters[3] if is_changed else 0)
        chance = 1 / (1 + math.exp(-(slope * math.log(c / (1 - c)) + shift)))
        total -= w * scale * math.log(chance if is_right else 1 - chance)
    return float(total)


def test_map_is_the_maximum_of_the_slow_posterior() -> None:
    confidence, right, changed = overconfident(60, 0, changed_shift=-0.8)
    weight = np.random.default_rng(1).uniform(0.2, 3.0, 60)
    found = fit_map(confidence, right, changed, weight, split=True)
    slow = minimize(slow_objective, np.zeros(4), args=(confidence, right, changed, weight), method="Nelder-Mead",
                    options={"maxiter": 4000, "xatol": 1e-6, "fatol": 1e-10}).x  # fmt: skip
    np.testing.assert_allclose(found.slope, [math.exp(slow[0]), math.exp(slow[0] + slow[2])], rtol=1e-3)
    np.testing.assert_allclose(found.shift, [slow[1], slow[1] + slow[3]], atol=1e-3)


def test_map_by_hand() -> None:
    chosen = ConfidenceMap(slope=(1.0, 2.0), shift=(0.0, math.log(0.5)))
    found = chosen(np.array([0.75, 0.75]), np.array([False, True]))
    np.testing.assert_allclose(found, [0.75, 4.5 / 5.5])  # odds 3; 3^2 / 2


def test_overconfidence_is_mended_on_rows_not_fitted() -> None:
    train, other = overconfident(1000, 2), overconfident(40_000, 3)
    found = calibrate(*train, np.ones(1000), np.random.default_rng(0))
    even = np.ones(40_000)
    assert found.chosen == "one map"
    before = calibration_error(other[0], other[1], even)
    after = calibration_error(found.map(other[0], other[2]), other[1], even)
    assert before > 0.1
    assert after < 0.03
    assert abs(calibration_error(found.held_out, train[1], np.ones(1000)) - after) < 0.04


def test_changed_labels_get_a_map_of_their_own_only_where_they_need_it() -> None:
    train = overconfident(1500, 4, changed_shift=-1.2)
    found = calibrate(*train, np.ones(1500), np.random.default_rng(0))
    assert found.chosen == "two maps"
    assert found.map.shift[1] < found.map.shift[0] - 0.6


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_few_rows_hardly_move_the_confidence(rows: int) -> None:
    confidence, changed = np.full(rows, 0.8), np.zeros(rows, dtype=bool)
    for right in (np.ones(rows, dtype=bool), np.zeros(rows, dtype=bool)):
        found = calibrate(confidence, right, changed, np.ones(rows), np.random.default_rng(0))
        moved = found.map(np.array([0.6, 0.9]), np.zeros(2, dtype=bool))
        assert np.abs(moved - [0.6, 0.9]).max() < 0.3
        assert np.isfinite(found.held_out).all()


def test_labels_always_held_for_certain_are_believed_as_often_as_they_are_right() -> None:
    right = np.random.default_rng(5).random(400) < 0.6
    found = calibrate(np.ones(400), right, np.zeros(400, dtype=bool), np.ones(400), np.random.default_rng(0))
    believed = found.map(np.ones(3), np.zeros(3, dtype=bool))
    np.testing.assert_allclose(believed, right.mean(), atol=0.03)


def test_maps_keep_the_order() -> None:
    confidence, right, changed = overconfident(50, 6)
    found = fit_map(confidence, ~right, changed, np.ones(50), split=True)  # the surer, the more often wrong
    line = found(np.linspace(0.01, 0.99, 50), np.zeros(50, dtype=bool))
    assert (np.diff(line) > 0).all()


def test_no_rows_no_map() -> None:
    empty = np.empty(0)
    assert fit_map(empty, empty.astype(bool), empty.astype(bool), empty, split=True) == IDENTITY


def test_equal_weights_are_no_weights() -> None:
    confidence, right, changed = overconfident(100, 7)
    one = fit_map(confidence, right, changed, np.ones(100), split=False)
    three = fit_map(confidence, right, changed, np.full(100, 3.0), split=False)
    np.testing.assert_allclose(one.slope, three.slope, rtol=1e-6)


def test_prior_weights_restore_the_prior() -> None:
    label = np.repeat([0, 1, 2], [20, 20, 20])
    prior = np.array([0.6, 0.3, 0.1])
    weight = prior_weights(label, prior)
    np.testing.assert_allclose(np.bincount(label, weights=weight) / weight.sum(), prior)
    assert weight.mean() == pytest.approx(1)


def test_calibration_error_by_hand() -> None:
    confidence, right = np.array([0.95, 0.95, 0.35]), np.array([True, False, False])
    # bin 10: |2 (0.95 - 0.5)| with weights 1, 1; bin 4: 2 x 0.35; of 4 in all
    assert calibration_error(confidence, right, np.array([1.0, 1.0, 2.0])) == pytest.approx((0.9 + 0.7) / 4)
