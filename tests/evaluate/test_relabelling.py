"""The five fates of a label, suspicion, intervals and the error of a transition matrix."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from lnl_core.evaluate.interval import paired_difference, wilson_interval
from lnl_core.evaluate.relabelling import relabelling, suspicion
from lnl_core.evaluate.transition import transition_error


def test_each_fate_once() -> None:
    true = np.array([0, 0, 0, 0, 0])
    observed = np.array([0, 1, 0, 1, 1])
    purified = np.array([0, 0, 1, 2, 1])
    found = relabelling(true, observed, purified)
    fates = (found.right_kept, found.wrong_to_right, found.right_to_wrong, found.wrong_to_wrong, found.wrong_kept)
    assert fates == (1, 1, 1, 1, 1)


def test_slow_twin_and_the_fates_add_up() -> None:
    draw = np.random.default_rng(0)
    true, observed, purified = draw.integers(0, 4, (3, 500))
    found = relabelling(true, observed, purified)
    gained = sum(o != t and p == t for t, o, p in zip(true, observed, purified, strict=True))
    moved = sum(o != t and p != t and o != p for t, o, p in zip(true, observed, purified, strict=True))
    assert (found.wrong_to_right, found.wrong_to_wrong) == (gained, moved)
    assert sum(vars(found).values()) == 500


def test_suspicion_is_what_the_soft_label_takes_from_the_observed_one() -> None:
    soft = np.array([[0.9, 0.1], [0.2, 0.8]], dtype=np.float32)
    assert suspicion(soft, np.array([0, 0])) == pytest.approx([0.1, 0.8], abs=1e-6)
    above = np.array([[1.0000001, 0.0]], dtype=np.float32)
    assert suspicion(above, np.array([0])).tolist() == [0.0]


@pytest.mark.parametrize(("right", "rows"), [(0, 5), (3, 7), (359, 360), (360, 360)])
def test_wilson_against_scipy(right: int, rows: int) -> None:
    known = binomtest(right, rows).proportion_ci(method="wilson")
    assert wilson_interval(right, rows) == pytest.approx((known.low, known.high), abs=1e-6)


def test_an_interval_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        wilson_interval(0, 0)


def test_paired_difference() -> None:
    first = np.array([True, True, True, False])
    second = np.array([True, False, False, False])
    mean, low, high = paired_difference(first, second)
    assert mean == 0.5
    assert (mean - low, high - mean) == pytest.approx((1.96 * 0.5 / 2,) * 2, abs=1e-4)  # std 0.5 of 4 rows
    assert paired_difference(first, first) == (0.0, 0.0, 0.0)


def test_transition_error_skips_unknown_rows() -> None:
    true = np.array([[0.8, 0.2], [np.nan, np.nan]])
    estimated = np.array([[0.7, 0.3], [0.5, 0.5]])
    assert transition_error(true, estimated) == pytest.approx(0.1)
    assert transition_error(np.full((2, 2), np.nan), estimated) is None
