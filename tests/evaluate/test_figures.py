"""What `dvc metrics show` prints of a run."""

from __future__ import annotations

from lnl_core.evaluate.figures import FIGURES, figures

SCORES = {
    "labels": {"rows": 10, "changed": 3, "accuracy_before": 0.7, "accuracy_after": 0.123456, "mean_confidence": 0.9},
    "test": {"rows": 5, "model_best": {"accuracy": 0.8, "ece": 0.1}},
    "held_out": {"rows": 0},
    "missing": {"yardstick": "not wanted"},
}


def test_shares_are_rounded_counts_are_not_and_what_is_unknown_is_left_out() -> None:
    assert figures(SCORES) == {
        "rows": 10,
        "changed": 3,
        "labels_before": 0.7,
        "labels_after": 0.1235,
        "confidence": 0.9,
        "test_rows": 5,
        "test_best": 0.8,
        "held_out": 0,
    }


def test_they_fit_on_a_screen() -> None:
    assert len(FIGURES) <= 20
