"""The part of the stage evaluate that follows the training: its trace and its estimates against the truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lnl_core.contracts import ContractError, FloatArray, Labels, Purified, Truth
from lnl_core.evaluate.findings import Findings
from lnl_core.evaluate.labels import share
from lnl_core.evaluate.learned_labels import LearnedLabels, learned_labels, learned_transition
from lnl_core.evaluate.small_loss import BINS, LossHistogram, first_and_last, mean_densities
from lnl_core.evaluate.tables import Cell, transition_rows, write_csv
from lnl_core.evaluate.training_trace import EpochScores, LabelAccuracy, Selection, score_trace
from lnl_core.evaluate.transition import transition_error
from lnl_core.layout import Layout
from lnl_core.training.training_trace import trace_files

SELECTION = ("epoch", "selected", "precision", "recall", "auc")
PREDICTED = ("epoch", "accuracy", "learned", "observed")
SMALL_LOSS = ("epoch", "low", "high", "rows", "right", "wrong", "density_small", "density_large")
TRANSITION = ("actual", "predicted", "actual_label", "predicted_label", "true_share", "estimated_share")
NO_CURVE = {
    "selection": "the training method selects no rows",
    "predicted": "the training method predicts no labels of its rows",
}
NO_TRACE = "the training left no trace of its epochs"


def trace_training(
    found: Findings, labels: Labels, purified: Purified, truth: Truth, paths: Layout, plots: Path
) -> None:
    """Write selection.csv, predicted.csv, small_loss.csv and trainer_transition.csv, as far as there is something."""
    metrics = paths.read_metrics("train")
    files = trace_files(paths.train_trace)
    if not metrics and not files:
        found.missing["trace"] = NO_TRACE
        return
    kind = metrics.get("labels") or "observed"
    learned = learned_labels(kind, labels, purified, truth)
    _learned(found, kind, learned)
    _epochs(found, score_trace(files, learned), plots)
    _transition(found, metrics, learned, labels.class_names, plots)


def _learned(found: Findings, kind: str, learned: LearnedLabels) -> None:
    known = learned.known
    scores: dict[str, Any] = {"labels": kind, "rows": len(known), "rows_with_truth": int(known.sum())}
    if known.any():
        true = learned.true[known]
        scores["noise_rate"] = share(learned.label[known] != true)
        scores["prior"] = (np.bincount(true, minlength=learned.classes) / len(true)).tolist()
    else:
        found.missing["trace_truth"] = "no true labels are known for the training rows"
    found.scores["training"] = scores


def _epochs(found: Findings, epochs: Sequence[EpochScores], plots: Path) -> None:
    found.scores["training"]["epochs_traced"] = len(epochs)
    if not epochs:
        found.missing["trace"] = NO_TRACE
        return
    _curve(found, "selection", SELECTION, [(epoch.epoch, epoch.selection) for epoch in epochs], plots)
    _curve(found, "predicted", PREDICTED, [(epoch.epoch, epoch.predicted) for epoch in epochs], plots)
    histograms = first_and_last([epoch.losses for epoch in epochs if epoch.losses is not None])
    if histograms:
        rows = [row for histogram in histograms for row in _histogram_rows(histogram)]
        write_csv(plots / "small_loss.csv", SMALL_LOSS, rows)
    else:
        found.missing["small_loss"] = "the training method keeps no losses of its rows"


def _curve(
    found: Findings,
    name: str,
    columns: Sequence[str],
    epochs: Sequence[tuple[int, Selection | LabelAccuracy | None]],
    plots: Path,
) -> None:
    """One CSV row an epoch that has such scores; the last of them also stand in the metrics."""
    rows = [(epoch, *dataclasses.astuple(held)) for epoch, held in epochs if held is not None]
    if not rows:
        found.missing[name] = NO_CURVE[name]
        return
    write_csv(plots / f"{name}.csv", columns, rows)
    found.scores["training"][name] = dict(zip(columns, rows[-1], strict=True))


def _histogram_rows(histogram: LossHistogram) -> list[tuple[Cell, ...]]:
    """A row a bin; empty fields where no truth, or no mixture, is known."""
    densities = mean_densities(histogram.mixture) if histogram.mixture else np.full((2, BINS), np.nan)
    counts = [histogram.rows, histogram.right, histogram.wrong]
    return [
        (
            histogram.epoch,
            bin_ / BINS,
            (bin_ + 1) / BINS,
            *(None if count is None else int(count[bin_]) for count in counts),
            float(densities[0, bin_]),
            float(densities[1, bin_]),
        )
        for bin_ in range(BINS)
    ]


def _transition(
    found: Findings, metrics: Mapping[str, Any], learned: LearnedLabels, names: Sequence[str], plots: Path
) -> None:
    """Compare the method's own matrix, and that of its noise estimate, with that of the labels it learned from."""
    true = learned_transition(learned)
    noise = metrics.get("noise") or {}
    for key, matrix in (("noise_estimate", noise.get("transition")), ("transition", metrics.get("transition"))):
        estimated = _matrix(matrix, learned.classes)
        if estimated is not None and true is not None:
            found.scores["training"][f"{key}_error"] = transition_error(true, estimated)
    estimated = _matrix(metrics.get("transition"), learned.classes)
    if estimated is None:
        found.missing["trainer_transition"] = "the training method estimates no transition matrix"
    else:
        write_csv(plots / "trainer_transition.csv", TRANSITION, transition_rows(true, estimated, names))


def _matrix(values: Any, classes: int) -> FloatArray | None:
    if values is None:
        return None
    matrix = np.asarray(values, dtype=np.float32)
    if matrix.shape != (classes, classes):
        raise ContractError(
            f"train/metrics.json: transition has shape {matrix.shape}, must be ({classes}, {classes}); "
            "run the stage train again"
        )
    return matrix
