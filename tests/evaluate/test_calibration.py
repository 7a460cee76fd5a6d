"""Reliability bins and calibration error against a loop over rows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lnl_core.evaluate.calibration import expected_calibration_error, overconfidence, reliability


def test_by_hand() -> None:
    """Two bins: 0.5 lies in the lower (closed above), 0.6 and 1.0 in the upper."""
    bins = reliability(np.array([0.5, 0.6, 1.0, 0.0]), np.array([True, False, True, False]), 2)
    assert [(bin_.low, bin_.high, bin_.count) for bin_ in bins] == [(0.0, 0.5, 2), (0.5, 1.0, 2)]
    assert (bins[0].confidence, bins[0].accuracy) == (0.25, 0.5)
    assert (bins[1].confidence, bins[1].accuracy) == (0.8, 0.5)
    assert expected_calibration_error(bins) == pytest.approx(0.5 * 0.25 + 0.5 * 0.3)
    assert overconfidence(bins) == pytest.approx(0.5 * -0.25 + 0.5 * 0.3)


def test_slow_twin() -> None:
    draw = np.random.default_rng(0)
    confidence, right = draw.random(500), draw.random(500) < 0.6
    error = 0.0
    for number in range(15):
        low, high = number / 15, (number + 1) / 15
        rows = [row for row in range(500) if low < confidence[row] <= high]
        if rows:
            gap = np.mean([right[row] for row in rows]) - np.mean([confidence[row] for row in rows])
            error += len(rows) / 500 * abs(gap)
    assert expected_calibration_error(reliability(confidence, right, 15)) == pytest.approx(error)


def test_every_row_is_in_one_bin_also_in_float32() -> None:
    confidence = np.linspace(0, 1, 1001, dtype=np.float32)
    bins = reliability(confidence, confidence > 0.5, 10)
    assert sum(bin_.count for bin_ in bins) == 1001
    assert math.isclose(bins[-1].high, 1.0)


def test_empty_bins_have_no_means() -> None:
    bins = reliability(np.array([0.9]), np.array([True]), 10)
    assert [bin_.confidence is None for bin_ in bins] == [True] * 8 + [False, True]
    assert expected_calibration_error(reliability(np.array([]), np.array([], dtype=bool), 10)) is None
