"""A method's trace against the truth: how good its selection and its predicted labels were, epoch by epoch.

A selected row is one whose label the method learned from as it is; the label is right where it equals the true one.
AUROC as in the LNL-flywheel's Figure 5 (left), label accuracy as in its Figure 5 (right).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from sklearn.metrics import roc_auc_score

from lnl_core.evaluate.labels import share
from lnl_core.evaluate.learned_labels import LearnedLabels
from lnl_core.evaluate.small_loss import LossHistogram, loss_histogram, scaled_losses
from lnl_core.training.training_trace import TraceEpoch, read_trace


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Scores of the rows that were learned from as they are; None where undefined, or where the truth is not known."""

    selected: float | None  # share of the rows
    precision: float | None  # of the selected rows, the share with a right label
    recall: float | None  # of the rows with a right label, the share that was selected
    auc: float | None  # p(a right label ranks above a wrong one)


@dataclass(frozen=True, kw_only=True)
class LabelAccuracy:
    """Shares of right labels among the rows with truth."""

    accuracy: float | None  # of the class that the method holds to be the true one
    learned: float | None  # of the labels that it learned from
    observed: float | None


@dataclass(frozen=True, kw_only=True)
class EpochScores:
    """One traced epoch; None where the method has nothing of the kind."""

    epoch: int
    selection: Selection | None
    predicted: LabelAccuracy | None
    losses: LossHistogram | None


def score_trace(files: Iterable[Path], learned: LearnedLabels) -> list[EpochScores]:
    """Read one epoch at a time, so a million rows need the memory of one epoch."""
    return [score_epoch(read_trace(file), learned) for file in files]


def score_epoch(trace: TraceEpoch, learned: LearnedLabels) -> EpochScores:
    """Scores of one epoch over the train rows that are not trusted; whatever else was traced is left out."""
    rows = learned.rows_of(trace.ids)
    ours = rows >= 0
    rows = rows[ours]
    known, right = learned.known[rows], learned.label[rows] == learned.true[rows]
    selected, clean, predicted, losses = (
        None if column is None else column[ours]
        for column in (
            trace.selected,
            trace.clean,
            trace.predicted,
            None if trace.loss is None else scaled_losses(trace.loss, bool(trace.mixture)),
        )
    )
    return EpochScores(
        epoch=trace.epoch,
        selection=None if selected is None and clean is None else score_selection(selected, clean, right, known),
        predicted=None
        if predicted is None
        else LabelAccuracy(
            accuracy=share((predicted == learned.true[rows])[known]),
            learned=share(right[known]),
            observed=share((learned.observed[rows] == learned.true[rows])[known]),
        ),
        losses=None if losses is None else loss_histogram(trace.epoch, losses, right, known, trace.mixture),
    )


def score_selection(
    selected: Bool[np.ndarray, " rows"] | None,
    clean: Float[np.ndarray, " rows"] | None,
    right: Bool[np.ndarray, " rows"],
    known: Bool[np.ndarray, " rows"],
) -> Selection:
    """AUROC of `clean`, or of `selected` where the method has no probability. `right` counts where it is `known`."""
    ranks = clean if clean is not None else selected
    auc = None if ranks is None else _auroc(right[known], ranks[known])
    if selected is None:
        return Selection(selected=None, precision=None, recall=None, auc=auc)
    return Selection(
        selected=share(selected),
        precision=share(right[known & selected]),
        recall=share(selected[known & right]),
        auc=auc,
    )


def _auroc(right: Bool[np.ndarray, " rows"], ranks: np.ndarray) -> float | None:
    return float(roc_auc_score(right, ranks)) if right.any() and not right.all() else None
