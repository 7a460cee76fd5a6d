"""Scores of saved models on the test rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from lnl_core.contracts import NO_LABEL, Ids, Labels, Truth
from lnl_core.evaluate.calibration import ReliabilityBin, expected_calibration_error, reliability
from lnl_core.evaluate.confusion import balanced_accuracy, confusion
from lnl_core.evaluate.interval import paired_difference, wilson_interval
from lnl_core.evaluate.labels import true_labels
from lnl_core.evaluate.predictions import Predictions


@dataclass(frozen=True, kw_only=True)
class TestRows:
    """The test rows with the best label that is known for each."""

    __test__ = False  # pytest: not a test class

    ids: Ids
    label: Int[np.ndarray, " rows"]
    label_source: str  # truth | verified | observed | mixed


def test_rows(labels: Labels, truth: Truth) -> TestRows:
    """True labels where they are known, else verified ones, else what the source says (which may be wrong)."""
    rows = labels.where(split="test")
    true = true_labels(labels.ids[rows], truth)
    label = np.where(true != NO_LABEL, true, labels.label[rows])
    sources = np.where(true != NO_LABEL, "truth", np.where(labels.trusted[rows], "verified", "observed"))
    kinds = sorted(set(sources.tolist()))
    return TestRows(ids=labels.ids[rows], label=label, label_source=kinds[0] if len(kinds) == 1 else "mixed")


test_rows.__test__ = False  # type: ignore[attr-defined]  # pytest: not a test


def score_model(
    predictions: Predictions, label: Int[np.ndarray, " rows"], bins: int, classes: int
) -> tuple[dict[str, Any], list[ReliabilityBin]]:
    """Accuracy with its 95 % interval, balanced accuracy and calibration of one model on at least one test row."""
    right = predictions.label == label
    low, high = wilson_interval(int(right.sum()), len(right))
    found = reliability(predictions.confidence, right, bins)
    scores = {
        "accuracy": float(right.mean()),
        "accuracy_low": low,
        "accuracy_high": high,
        "balanced_accuracy": balanced_accuracy(confusion(label, predictions.label, classes)),
        "ece": expected_calibration_error(found),
    }
    return scores, found


def score_gain(
    predictions: Mapping[str, Predictions], label: Int[np.ndarray, " rows"], model: str, yardstick: str
) -> dict[str, float]:
    """Test accuracy of `model` minus that of `yardstick` with its paired 95 % interval; empty where one is missing."""
    if model not in predictions or yardstick not in predictions:
        return {}
    pair = [predictions[name].label == label for name in (model, yardstick)]
    difference, low, high = paired_difference(*pair)
    return {"difference": difference, "low": low, "high": high}
