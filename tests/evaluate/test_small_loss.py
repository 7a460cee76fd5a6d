"""The small-loss histogram: bins counted by hand, Gaussians against a slow integral, which epochs are shown."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lnl_core.evaluate.small_loss import BINS, first_and_last, loss_histogram, mean_densities, scaled_losses

EVERY = np.ones(6, dtype=bool)
MIXTURE = {"means": [0.7, 0.1], "variances": [0.04, 0.0009], "weights": [0.3, 0.7]}


def test_bins_counted_by_hand() -> None:
    """0 and 0.019 fall into the first bin, 0.021 into the second, 0.5 into the 26th, 1 into the last."""
    losses = np.array([0.0, 0.019, 0.021, 0.5, 1.0, np.nan])
    right = np.array([True, False, True, False, True, True])
    known = np.array([True, True, True, True, False, True])
    found = loss_histogram(4, losses, right, known, {})
    assert found.right is not None
    assert found.wrong is not None
    assert {bin_: int(found.rows[bin_]) for bin_ in np.flatnonzero(found.rows)} == {0: 2, 1: 1, 25: 1, 49: 1}
    assert np.flatnonzero(found.right).tolist() == [0, 1]
    assert np.flatnonzero(found.wrong).tolist() == [0, 25]


def test_without_truth_only_all_rows_are_counted() -> None:
    found = loss_histogram(1, np.linspace(0, 1, 6), EVERY, ~EVERY, {})
    assert found.rows.sum() == 6
    assert found.right is None
    assert found.wrong is None


def test_losses_are_scaled_only_where_no_mixture_says_that_they_are() -> None:
    losses = np.array([0.5, 1.0, 3.0])
    np.testing.assert_allclose(scaled_losses(losses, False), [0, 0.2, 1])
    np.testing.assert_allclose(scaled_losses(np.array([0.2, 0.4]), True), [0.2, 0.4])
    assert scaled_losses(np.full(3, 2.0), False).tolist() == [0, 0, 0]
    assert len(scaled_losses(np.empty(0), False)) == 0


def test_densities_against_a_sum_over_each_bin() -> None:
    found = mean_densities(MIXTURE)
    for row, (mean, variance, weight) in enumerate(((0.1, 0.0009, 0.7), (0.7, 0.04, 0.3))):  # the smaller mean first
        for bin_ in range(BINS):
            points = [(bin_ + (step + 0.5) / 100) / BINS for step in range(100)]
            height = [math.exp(-((x - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance) for x in points]
            assert found[row, bin_] == pytest.approx(weight * sum(height) / 100, abs=1e-3)


def test_a_gaussian_narrower_than_a_bin_keeps_its_weight() -> None:
    found = mean_densities({"means": [0.51, 0.9], "variances": [1e-8, 1e-8], "weights": [0.4, 0.6]})
    assert found[0, 25] == pytest.approx(0.4 * BINS)
    assert found.sum() / BINS == pytest.approx(1.0)


def test_first_and_last_epoch_with_a_mixture() -> None:
    made = [loss_histogram(epoch, np.zeros(6), EVERY, EVERY, MIXTURE if epoch > 2 else {}) for epoch in range(1, 6)]
    assert [found.epoch for found in first_and_last(made)] == [3, 5]
    assert [found.epoch for found in first_and_last(made[:2])] == [1, 2]
    assert [found.epoch for found in first_and_last(made[:3])] == [3]
    assert first_and_last([]) == []
