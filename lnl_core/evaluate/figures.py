"""The twenty figures of a run that a person reads first: what `dvc metrics show` prints, one column each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FIGURES = {  # column -> where it stands in the scores of stage evaluate
    "rows": ("labels", "rows"),
    "changed": ("labels", "changed"),
    "review": ("labels", "review"),
    "labels_before": ("labels", "accuracy_before"),
    "labels_after": ("labels", "accuracy_after"),
    "confidence": ("labels", "mean_confidence"),
    "precision": ("detection", "precision"),
    "recall": ("detection", "recall"),
    "auroc": ("detection", "auroc"),
    "ece": ("calibration", "ece"),
    "noise": ("noise", "rate_estimated"),
    "noise_true": ("noise", "rate_true"),
    "trusted": ("trusted", "rows"),
    "test_rows": ("test", "rows"),
    "test_best": ("test", "model_best", "accuracy"),
    "test_last": ("test", "model_last", "accuracy"),
    "without_best": ("test", "yardstick_best", "accuracy"),
    "without_last": ("test", "yardstick_last", "accuracy"),
    "held_out": ("held_out", "rows"),
    "held_out_right": ("held_out", "model", "accuracy"),
}
DIGITS = 4  # of a share: a hundredth of a percent


def figures(scores: Mapping[str, Any]) -> dict[str, int | float]:
    """The figures that are known, in the order of `FIGURES`; shares in 0..1."""
    found = {name: _at(scores, *place) for name, place in FIGURES.items()}
    return {
        name: round(value, DIGITS) if isinstance(value, float) else value
        for name, value in found.items()
        if value is not None
    }


def _at(scores: Any, *place: str) -> Any:
    for key in place:
        scores = scores.get(key) if isinstance(scores, Mapping) else None
    return scores
