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
  - their answers are those of the fit that answers for the noisy rows. With `calibration: cross_fit` they come from
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
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field

from lnl_core.config import Settings
from lnl_core.contracts import NO_LABEL, BoolArray, FloatArray, IntArray
from lnl_core.purify.decide.cross_fit import TrustedPredictions, with_moved
from lnl_core.purify.task import Purification, PurifyTask
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
    def promise(self) -> Promise | None:
        """None where nothing is promised."""
        if self.max_wrong_changes is None:
            return None
        return Promise(max_wrong=self.max_wrong_changes, confidence=self.confidence)


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """A task with some trusted rows hidden at the end of its noisy ones, and what was hidden."""

    task: PurifyTask
    label: IntArray  # [h] verified
    observed: IntArray  # [h] under which the rows were hidden

    def split(self, found: Purification) -> tuple[Purification, TrustedPredictions]:
        """The answer for the noisy rows proper, and the one for the hidden rows."""
        rows = len(found.posterior) - len(self.label)
        hidden = TrustedPredictions(
            posterior=found.posterior[rows:],
            label=self.label,
            observed=self.observed,
            simulated=np.zeros(len(self.label), dtype=bool),
        )
        return dataclasses.replace(found, posterior=found.posterior[:rows]), hidden


def hold_out(task: PurifyTask, share: float, generator: np.random.Generator) -> HeldOut:
    """Hide a random share of the trusted rows whose observed label is known; each class keeps one trusted row.

    Raises:
        Nothing: with no such row nothing is hidden, and no promise can be kept.
    """
    known = np.flatnonzero(task.trusted_observed != NO_LABEL)
    wanted = generator.permutation(known)[: round(share * len(known))]
    left = np.bincount(task.trusted_label, minlength=task.classes)
    moved = np.zeros(len(task.trusted_label), dtype=bool)
    for row in wanted:
        if left[task.trusted_label[row]] > 1:
            moved[row] = True
            left[task.trusted_label[row]] -= 1
    return HeldOut(
        task=with_moved(task, moved, task.trusted_observed),
        label=task.trusted_label[moved],
        observed=task.trusted_observed[moved],
    )


def rows_for_review(
    posterior: FloatArray,
    label: IntArray,
    observed: IntArray,
    answers: TrustedPredictions | None,
    settings: RouteSettings,
    generator: np.random.Generator,
) -> tuple[BoolArray | None, dict[str, Any]]:
    """Which proposals are too uncertain to apply.

    Args:
        posterior: [n, K] of the noisy rows.
        label: [n] what is proposed for them: the mode, or an earlier decision that is held against it.
        observed: [n] their labels.
        answers: the same purifier's answers on trusted rows treated as noisy ones; None where there are none.
    Returns:
        [n], None where nothing is promised; and the metrics.
    """
    promise = settings.promise
    if promise is None:
        return None, {}
    calibration, shift = _calibration_rows(posterior, observed, answers, generator)
    proposed, mode = label != observed, label == posterior.argmax(axis=1)
    score = posterior.max(axis=1)
    found = _certificate(score[proposed & mode], len(observed), calibration, promise)
    review = proposed if found.threshold is None else proposed & ~(mode & (score >= found.threshold))
    if found.refusal is not None and proposed.any():
        log.warning("no label is changed, %d go to review: %s", int(proposed.sum()), found.refusal)
    return review, {**_metrics(found, settings, proposed, review), **shift}


def _certificate(
    scores: FloatArray, rows: int, calibration: TrustedPredictions | None, promise: Promise
) -> Certificate:
    if calibration is None:
        empty = np.empty(0, dtype=np.float32)
        return certify(scores, rows, empty, empty.astype(bool), 0, promise)
    changed = calibration.purified != calibration.observed
    score, wrong = calibration.posterior.max(axis=1)[changed], ~calibration.right[changed]
    return certify(scores, rows, score, wrong, len(calibration), promise)


def _calibration_rows(
    posterior: FloatArray, observed: IntArray, answers: TrustedPredictions | None, generator: np.random.Generator
) -> tuple[TrustedPredictions | None, dict[str, Any]]:
    """The trusted rows whose observed label is known, thinned where they are of other classes than the noisy rows."""
    if answers is None:
        return None, {"calibration_rows": 0}
    known = _taken(answers, ~answers.simulated)
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


def _taken(answers: TrustedPredictions, rows: BoolArray) -> TrustedPredictions:
    columns = ("posterior", "label", "observed", "simulated")
    return dataclasses.replace(answers, **{name: getattr(answers, name)[rows] for name in columns})


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
