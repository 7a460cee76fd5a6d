"""Detection scores against scikit-learn and pair counting; curves against sorting by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from lnl_core.evaluate.detection import coverage_curve, detection, review_curve


def test_against_scikit_learn_and_all_pairs() -> None:
    draw = np.random.default_rng(0)
    wrong = draw.random(120) < 0.4
    suspicion = np.round(np.clip(0.4 * wrong + 0.6 * draw.random(120), 0, 1), 1)  # rounded: ties
    changed = suspicion > 0.5
    found = detection(wrong, changed, suspicion)
    assert found.precision == pytest.approx(precision_score(wrong, changed))
    assert found.recall == pytest.approx(recall_score(wrong, changed))
    assert found.f1 == pytest.approx(f1_score(wrong, changed))
    pairs = [(a > b) + 0.5 * (a == b) for a in suspicion[wrong] for b in suspicion[~wrong]]
    assert found.auroc == pytest.approx(np.mean(pairs))


def test_undefined_scores_are_none() -> None:
    right = np.zeros(4, dtype=bool)
    nothing = detection(right, right, np.linspace(0, 1, 4))
    assert (nothing.precision, nothing.recall, nothing.f1, nothing.auroc) == (None, None, None, None)


def test_review_by_hand() -> None:
    wrong = np.array([True, False, True, False])
    reviewed, found = review_curve(wrong, np.array([0.9, 0.8, 0.7, 0.1]), points=5)
    assert reviewed.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert found.tolist() == [0, 0.5, 0.5, 1, 1]
    assert np.isnan(review_curve(~wrong & wrong, np.zeros(4), points=3)[1]).all()


def test_coverage_slow_twin() -> None:
    draw = np.random.default_rng(1)
    right, confidence = draw.random(200) < 0.7, draw.random(200)
    kept, accuracy = coverage_curve(right, confidence, points=11)
    ranked = sorted(range(200), key=lambda row: -confidence[row])
    for share, value in zip(kept[1:], accuracy[1:], strict=True):
        rows = ranked[: round(share * 200)]
        assert value == pytest.approx(sum(right[row] for row in rows) / len(rows))
    assert np.isnan(accuracy[0])
