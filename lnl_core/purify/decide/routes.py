"""Three routes for a row: keep its label, relabel it, or leave it to a person, under a promise about wrong changes.

    keep      the purifier proposes no other label
    relabel   it does, and its posterior there reaches the threshold: the change is applied
    review    it does, but with less: the row keeps its observed label until somebody has looked

The threshold is the laxest for which at most `max_wrong_changes` of the applied changes are wrong, with probability
`confidence` over the draw of the trusted set (`lnl_core.statistics.risk_control`). It is tested on trusted rows whose
observed label is known, treated as noisy rows. What the promise rests on:
  - such rows are a fair sample of the noisy rows. Where their observed labels are distributed otherwise (chi-squared
    test), as with a class-balanced trusted set for unbalanced data, they are thinned to the class prior that the
    posterior gives the noisy rows; the promise is then as good as that prior, and a warning says so. A trusted set
    that was chosen in another way, say among easy rows, cannot be seen from here;
  - they are predicted by the fit that predicts the noisy rows. With `calibration: cross_fit` they are predicted by
    fits without the row's fold, which saw a little less and are as a rule a little worse; with `split` a share of the
    trusted set is held out and hidden among the noisy rows of the one fit: exact, at the price of fewer trusted rows;
  - a row whose decision of an earlier version is held against the mode of its posterior (`decisions.py`) is like no
    trusted row, for those have no past. Held at another label than the observed one it goes to review; held at the
    observed one it is kept, so that fewer of the changes that score as high as the applied ones are applied;
  - the share is the one that is expected of rows from the same source. Of n applied changes the realised share
    scatters around it with a standard deviation of at most sqrt(share (1 - share) / n).
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, Literal

import numpy as np
from pydantic import Field

from lnl_core.config import Settings
from lnl_core.contracts import BoolArray, FloatArray, IntArray
from lnl_core.purify.decide.cross_fit import TrustedPredictions
from lnl_core.statistics.risk_control import Certificate, Promise, certify, class_shift, thinned

log = logging.getLogger("lnl")
SHIFT_LEVEL = 0.001  # class shares this unlikely to be the same are not; a promise for the same data is made but rarely


class RouteSettings(Settings):
    """What is promised about the applied changes, and on which trusted rows it is tested."""

    max_wrong_changes: float | None = Field(
        default=None, gt=0, lt=1
    )  # share; null: no promise, all changes are applied
    confidence: float = Field(default=0.9, gt=0, lt=1)  # of the promise, over the draw of the trusted set
    calibration: Literal["cross_fit", "split"] = "cross_fit"  # split: exact, but the purifier sees fewer trusted rows
    calibration_share: float = Field(default=0.5, gt=0, lt=1)  # of the trusted rows, held out by `split`

    @property
    def hidden_share(self) -> float:
        """Share of the trusted rows that are hidden among the noisy ones to test the promise; 0: none."""
        return self.calibration_share if self.promise is not None and self.calibration == "split" else 0.0

    @property
    def promise(self) -> Promise | None:
        """None where nothing is promised."""
        if self.max_wrong_changes is None:
            return None
        return Promise(max_wrong=self.max_wrong_changes, confidence=self.confidence)


def rows_for_review(
    posterior: FloatArray,
    label: IntArray,
    observed: IntArray,
    predictions: TrustedPredictions | None,
    settings: RouteSettings,
    generator: np.random.Generator,
) -> tuple[BoolArray | None, dict[str, Any]]:
    """Which proposals are too uncertain to apply.

    Args:
        posterior: [n, K] of the noisy rows.
        label: [n] what is proposed for them: the mode, or an earlier decision that is held against it.
        observed: [n] their labels.
        predictions: the same purifier's predictions on trusted rows treated as noisy ones; None where there are none.
    Returns:
        [n], None where nothing is promised; and the metrics.
    """
    promise = settings.promise
    if promise is None:
        return None, {}
    calibration, shift = _calibration_rows(posterior, observed, predictions, generator)
    proposed, mode = label != observed, label == posterior.argmax(axis=1)
    score = posterior.max(axis=1)
    found = certify(score[proposed & mode], len(observed), *_changes(calibration), promise)
    review = proposed if found.threshold is None else proposed & ~(mode & (score >= found.threshold))
    if found.refusal is not None and proposed.any():
        log.warning("no label is changed, %d go to review: %s", int(proposed.sum()), found.refusal)
    return review, {**_metrics(found, settings, proposed, review), **shift}


def _changes(calibration: TrustedPredictions | None) -> tuple[FloatArray, BoolArray, int]:
    """(score of each proposed change, is it wrong, rows in all) among the trusted rows that test the promise."""
    if calibration is None:
        empty = np.empty(0, dtype=np.float32)
        return empty, empty.astype(bool), 0
    changed = calibration.purified != calibration.observed
    return calibration.posterior.max(axis=1)[changed], ~calibration.right[changed], len(calibration)


def _calibration_rows(
    posterior: FloatArray, observed: IntArray, predictions: TrustedPredictions | None, generator: np.random.Generator
) -> tuple[TrustedPredictions | None, dict[str, Any]]:
    """The trusted rows whose observed label is known, thinned where they are of other classes than the noisy rows."""
    if predictions is None:
        return None, {"calibration_rows": 0}
    known = _taken(predictions, ~predictions.simulated)
    classes = posterior.shape[1]
    p_value = class_shift(np.bincount(observed, minlength=classes), np.bincount(known.observed, minlength=classes))
    metrics: dict[str, Any] = {"calibration_rows": len(known), "same_classes_p_value": round(p_value, 6)}
    if p_value >= SHIFT_LEVEL:
        return known, metrics
    used = _taken(known, thinned(known.label, posterior.mean(axis=0, dtype=np.float64), generator))
    log.warning(
        "the trusted rows' observed labels are distributed otherwise than those of the noisy rows (p = %.2g), so the "
        "promise about wrong changes rests on %d of %d, drawn to the estimated class prior; a trusted set drawn at "
        "random from the noisy rows needs no such estimate",
        p_value,
        len(used),
        len(known),
    )
    return used, {**metrics, "calibration_rows_thinned": len(used)}


def _taken(predictions: TrustedPredictions, rows: BoolArray) -> TrustedPredictions:
    columns = ("posterior", "label", "observed", "simulated")
    return dataclasses.replace(predictions, **{name: getattr(predictions, name)[rows] for name in columns})


def _metrics(found: Certificate, settings: RouteSettings, proposed: BoolArray, review: BoolArray) -> dict[str, Any]:
    return {
        "max_wrong_changes": settings.max_wrong_changes,
        "promise_confidence": settings.confidence,
        "promise_calibration": settings.calibration,
        "promise_kept_from": None if found.threshold is None else round(found.threshold, 6),
        "promise_refused": found.refusal,
        "routes": {
            "keep": int((~proposed).sum()),
            "relabel": int((proposed & ~review).sum()),
            "review": int(review.sum()),
        },
        "promise_tests": [
            {name: round(value, 6) for name, value in dataclasses.asdict(test).items()} for test in found.tests
        ],
    }
