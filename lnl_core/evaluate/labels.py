"""All that can be said about purified labels: with truth their accuracy, without it where they went."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from lnl_core.contracts import NO_LABEL, Ids, Labels, Purified, Truth
from lnl_core.evaluate.calibration import (
    ReliabilityBin,
    expected_calibration_error,
    overconfidence,
    reliability,
)
from lnl_core.evaluate.confusion import accuracy, balanced_accuracy, confusion, row_shares
from lnl_core.evaluate.detection import detection
from lnl_core.evaluate.interval import wilson_interval
from lnl_core.evaluate.relabelling import relabelling, suspicion
from lnl_core.evaluate.transition import transition_error


@dataclass(frozen=True, kw_only=True)
class PurifiedRows:
    """The purified rows with their suspicion, and the true label where one is known."""

    ids: Ids
    observed: Int[np.ndarray, " rows"]
    purified: Int[np.ndarray, " rows"]  # as applied: the observed label where the row goes to review
    proposed: Int[np.ndarray, " rows"]  # what the confidence speaks of
    confidence: Float[np.ndarray, " rows"]
    suspicion: Float[np.ndarray, " rows"]
    true: Int[np.ndarray, " rows"]  # NO_LABEL where unknown
    review: Bool[np.ndarray, " rows"]
    classes: int

    @property
    def known(self) -> Bool[np.ndarray, " rows"]:
        return np.asarray(self.true != NO_LABEL)

    @property
    def with_truth(self) -> PurifiedRows:
        """The rows whose true label is known."""
        columns = ("ids", "observed", "purified", "proposed", "confidence", "suspicion", "true", "review")
        return dataclasses.replace(self, **{name: getattr(self, name)[self.known] for name in columns})


def purified_rows(purified: Purified, truth: Truth) -> PurifiedRows:
    """Join purified.parquet with the truth on id; a row without truth gets NO_LABEL.

    Raises:
        ValueError: a true label is no class of purified.parquet.
    """
    true = true_labels(purified.ids, truth)
    classes = len(purified.class_names)
    if len(true) and int(true.max()) >= classes:
        raise ValueError(f"truth: true_label {int(true.max())} is outside 0 to {classes - 1}; prepare the data again")
    return PurifiedRows(
        ids=purified.ids,
        observed=purified.label,
        purified=purified.applied_label,
        proposed=purified.purified_label,
        confidence=purified.confidence,
        suspicion=suspicion(purified.soft_label, purified.label),
        true=true,
        review=purified.route == "review",
        classes=classes,
    )


def true_labels(ids: Ids, truth: Truth) -> Int[np.ndarray, " rows"]:
    """The true label of each id; NO_LABEL where none is known."""
    found = np.full(len(ids), NO_LABEL, dtype=np.int32)
    if len(truth):
        order = np.argsort(truth.ids, kind="stable")
        spots = order[np.minimum(np.searchsorted(truth.ids, ids, sorter=order), len(truth) - 1)]
        hit = truth.ids[spots] == ids
        found[hit] = truth.true_label[spots[hit]]
    return found


def score_labels(rows: PurifiedRows, bins: int) -> dict[str, Any]:
    """Metrics of the labels: what needs no truth always, the rest where truth is known."""
    changed = rows.observed != rows.purified
    scores: dict[str, Any] = {
        "labels": {
            "rows": len(rows.ids),
            "rows_with_truth": int(rows.known.sum()),
            "changed": int(changed.sum()),
            "changed_share": share(changed),
            "review": int(rows.review.sum()),
            "mean_confidence": share(rows.confidence),
            "below_half_confidence": int((rows.confidence < 0.5).sum()),
        },
        "noise": {"rate_by_suspicion": share(rows.suspicion)},
    }
    known = rows.with_truth
    if len(known.ids):
        scores["labels"] |= _accuracies(known)
        scores["noise"]["rate_true"] = share(known.observed != known.true)
        scores["detection"] = dataclasses.asdict(
            detection(known.observed != known.true, known.observed != known.purified, known.suspicion)
        )
        scores["calibration"] = calibration_scores(label_reliability(known, bins))
    return scores


def score_transition(rows: PurifiedRows, estimated: Float[np.ndarray, "classes classes"] | None) -> dict[str, float]:
    """Mean absolute error of the estimated transition matrix; empty where truth or estimate is missing."""
    true = true_transition(rows)
    error = None if true is None or estimated is None else transition_error(true, estimated)
    return {} if error is None else {"transition_error": error}


def true_transition(rows: PurifiedRows) -> Float[np.ndarray, "classes classes"] | None:
    """Realised T[true, observed] of the purified rows, NaN rows for classes without rows; None without truth."""
    known = rows.with_truth
    return row_shares(confusion(known.true, known.observed, rows.classes)) if len(known.ids) else None


def score_trusted(labels: Labels) -> dict[str, Any]:
    """What the trusted rows say about the source: how often the observed label differs from the verified one.

    This needs no truth. It is an estimate of the noise rate as good as the trusted rows are a fair sample; empty
    where no trusted row kept its observed label.
    """
    both = labels.trusted & (labels.observed_label != NO_LABEL) & (labels.split == "train")
    rows = int(both.sum())
    scores: dict[str, Any] = {"rows": int((labels.trusted & (labels.split == "train")).sum())}
    if rows:
        wrong = int((labels.label[both] != labels.observed_label[both]).sum())
        low, high = wilson_interval(wrong, rows)
        scores |= {"with_observed": rows, "noise_rate": wrong / rows, "noise_low": low, "noise_high": high}
    return scores


def label_reliability(rows: PurifiedRows, bins: int) -> list[ReliabilityBin]:
    """Reliability of the confidence in the purified label, over rows with truth."""
    return reliability(rows.confidence, rows.proposed == rows.true, bins)


def calibration_scores(bins: list[ReliabilityBin]) -> dict[str, float | None]:
    """Expected calibration error and overconfidence of one set of bins."""
    return {"ece": expected_calibration_error(bins), "overconfidence": overconfidence(bins)}


def share(values: Float[np.ndarray, " rows"] | Bool[np.ndarray, " rows"]) -> float | None:
    """Mean in float64; None of nothing."""
    return float(values.mean(dtype=np.float64)) if len(values) else None


def _accuracies(known: PurifiedRows) -> Mapping[str, Any]:
    before = confusion(known.true, known.observed, known.classes)
    after = confusion(known.true, known.purified, known.classes)
    return {
        "accuracy_before": accuracy(before),
        "accuracy_after": accuracy(after),
        "balanced_accuracy_before": balanced_accuracy(before),
        "balanced_accuracy_after": balanced_accuracy(after),
        **dataclasses.asdict(relabelling(known.true, known.observed, known.purified)),
    }
