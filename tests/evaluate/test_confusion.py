"""Confusion matrices against double loops and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix

from lnl_core.evaluate.confusion import accuracy, balanced_accuracy, confusion, per_class_accuracy, row_shares


@pytest.fixture
def pairs() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    actual = draw.integers(0, 5, 300).astype(np.int32)
    predicted = np.where(draw.random(300) < 0.3, draw.integers(0, 5, 300), actual).astype(np.int32)
    return actual, predicted


def test_by_hand() -> None:
    counts = confusion(np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 0, 2]), 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]
    assert accuracy(counts) == pytest.approx(3 / 5)
    assert per_class_accuracy(counts).tolist() == [0.5, 1.0, 0.5]


def test_slow_twin(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    actual, predicted = pairs
    slow = np.zeros((5, 5), dtype=int)
    for true, found in zip(actual, predicted, strict=True):
        slow[true, found] += 1
    counts = confusion(actual, predicted, 5)
    assert (counts == slow).all()
    assert (counts == confusion_matrix(actual, predicted)).all()
    assert balanced_accuracy(counts) == pytest.approx(balanced_accuracy_score(actual, predicted))
    for row in range(5):
        for column in range(5):
            assert row_shares(counts)[row, column] == pytest.approx(slow[row, column] / sum(slow[row]))


def test_a_class_without_rows_is_unknown_not_wrong() -> None:
    counts = confusion(np.array([0, 0]), np.array([0, 2]), 3)
    assert np.isnan(per_class_accuracy(counts)).tolist() == [False, True, True]
    assert balanced_accuracy(counts) == pytest.approx(0.5)


def test_no_rows() -> None:
    counts = confusion(np.array([], dtype=np.int32), np.array([], dtype=np.int32), 2)
    assert accuracy(counts) is None
    assert balanced_accuracy(counts) is None
