"""Stage `evaluate`: scores of the purified labels and of the models; the only stage besides inject that sees truth.

Truth leaves this stage only as scores and in `plots/`: the report reads those and never the truth itself. What is
not there (truth, trusted rows, test rows, a model, a yardstick, a trace) is named with its reason under `missing`.
Held in memory: the label tables and soft labels, one epoch of the training's trace, and the decoded test images (above
`run.image_memory_mb` in a memory-mapped file); for the held-out trusted rows see `evaluate_held_out.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lnl_core.config import parse
from lnl_core.contracts import (
    ContractError,
    FloatArray,
    Labels,
    Truth,
    read_labels,
    read_purified,
    read_truth,
    string_ids,
)
from lnl_core.evaluate.confusion import confusion, per_class_accuracy
from lnl_core.evaluate.detection import coverage_curve, review_curve
from lnl_core.evaluate.figures import figures
from lnl_core.evaluate.findings import Findings
from lnl_core.evaluate.labels import (
    PurifiedRows,
    label_reliability,
    purified_rows,
    score_labels,
    score_transition,
    score_trusted,
    true_transition,
)
from lnl_core.evaluate.settings import EvaluateSettings
from lnl_core.evaluate.tables import (
    CONFUSION,
    Cell,
    confusion_rows,
    per_class_rows,
    reliability_rows,
    transition_rows,
    write_csv,
)
from lnl_core.files import atomic_folder, write_json
from lnl_core.stages.evaluate_held_out import predict_held_out
from lnl_core.stages.evaluate_models import score_models
from lnl_core.stages.evaluate_training import trace_training
from lnl_core.stages.stage import Metrics, Stage, StageContext

ROWS = ("id", "observed", "purified", "confidence", "suspicion", "true")


def evaluate(settings: EvaluateSettings, context: StageContext) -> Metrics:
    """Read labels, truth, purified labels and models; write `plots/`, figures, held_out.parquet; return the scores."""
    paths = context.paths
    labels, truth = read_labels(paths.labels), _truth(paths.truth)
    purified = read_purified(paths.purified)
    rows = purified_rows(purified, truth)
    found = Findings()
    with atomic_folder(paths.plots) as plots:
        _labels(found, rows, purified.class_names, paths.read_metrics("purify"), settings, plots)
        _trusted(found, labels)
        score_models(found, labels, truth, settings, context, plots)
        predict_held_out(found, labels, purified, settings, context)
        trace_training(found, labels, purified, truth, context.paths, plots)
        columns = ("class", "label", *found.per_class)
        write_csv(plots / "per_class.csv", columns, per_class_rows(labels.class_names, found.per_class))
        what = ("what", "low", "high", "count", "confidence", "accuracy")
        write_csv(plots / "reliability.csv", what, found.reliability)
    write_json(paths.figures, figures(found.scores))
    return {**found.scores, "missing": found.missing}


def _truth(path: Path) -> Truth:
    if path.exists():
        return read_truth(path)
    return Truth(ids=string_ids([]), true_label=np.empty(0, dtype=np.int32))


def _labels(
    found: Findings,
    rows: PurifiedRows,
    names: tuple[str, ...],
    estimates: Mapping[str, Any],
    settings: EvaluateSettings,
    plots: Path,
) -> None:
    found.scores |= score_labels(rows, settings.bins)
    transition = _transition(estimates, rows.classes)
    if transition is None:
        found.missing["transition"] = "the purifier estimates no transition matrix"
    if estimates.get("noise_rate") is not None:
        found.scores["noise"]["rate_estimated"] = float(estimates["noise_rate"])
    found.scores["noise"] |= score_transition(rows, transition)
    matrix = transition_rows(true_transition(rows), transition, names)
    cells = ("actual", "predicted", "actual_label", "predicted_label", "true_share", "estimated_share")
    write_csv(plots / "transition.csv", cells, matrix)
    flow = confusion(rows.observed, rows.purified, rows.classes)
    write_csv(plots / "flow.csv", CONFUSION, confusion_rows(flow, names))
    found.per_class["observed_rows"], found.per_class["purified_rows"] = flow.sum(axis=1), flow.sum(axis=0)
    _listed(rows, names, settings.suspicious, plots)
    if rows.known.any():
        _with_truth(found, rows.with_truth, names, settings, plots)
    else:
        found.missing["truth"] = "no true labels are known for the purified rows"


def _with_truth(
    found: Findings, known: PurifiedRows, names: tuple[str, ...], settings: EvaluateSettings, plots: Path
) -> None:
    for name, predicted in (("observed", known.observed), ("purified", known.purified)):
        counts = confusion(known.true, predicted, known.classes)
        write_csv(plots / f"confusion_{name}.csv", CONFUSION, confusion_rows(counts, names))
        found.per_class["before" if name == "observed" else "after"] = per_class_accuracy(counts)
    found.reliability += reliability_rows("labels", label_reliability(known, settings.bins))
    review = review_curve(known.observed != known.true, known.suspicion)
    write_csv(plots / "review.csv", ("reviewed", "found"), zip(*review, strict=True))
    coverage = coverage_curve(known.proposed == known.true, known.confidence)
    write_csv(plots / "coverage.csv", ("kept", "accuracy"), zip(*coverage, strict=True))


def _transition(estimates: Mapping[str, Any], classes: int) -> FloatArray | None:
    if estimates.get("transition") is None:
        return None
    matrix = np.asarray(estimates["transition"], dtype=np.float32)
    if matrix.shape != (classes, classes):
        raise ContractError(
            f"purify/metrics.json: transition has shape {matrix.shape}, must be ({classes}, {classes}); "
            "run the stage purify again"
        )
    return matrix


def _listed(rows: PurifiedRows, names: tuple[str, ...], limit: int, plots: Path) -> None:
    """suspicious.csv: the surest suspicions first; uncertain.csv: the least sure purified labels first."""
    orders = {
        "suspicious": np.lexsort((-rows.confidence, -rows.suspicion)),  # stable: equal rows stay in order of id
        "uncertain": np.argsort(rows.confidence, kind="stable"),
    }
    for name, order in orders.items():
        write_csv(plots / f"{name}.csv", ROWS, [_row(rows, int(row), names) for row in order[:limit]])


def _row(rows: PurifiedRows, row: int, names: tuple[str, ...]) -> tuple[Cell, ...]:
    true = names[rows.true[row]] if rows.known[row] else None
    scores = (float(rows.confidence[row]), float(rows.suspicion[row]))
    return (rows.ids[row], names[rows.observed[row]], names[rows.purified[row]], *scores, true)


def _trusted(found: Findings, labels: Labels) -> None:
    found.scores["trusted"] = score_trusted(labels)
    if not found.scores["trusted"]["rows"]:
        found.missing["trusted"] = "no trusted rows"
    elif "noise_rate" not in found.scores["trusted"]:
        found.missing["trusted"] = "the trusted rows did not keep the label that the source had given them"


STAGE = Stage(
    name="evaluate",
    summary="scores of the purified labels and of the models, tables for plots",
    settings=lambda values: parse(EvaluateSettings, values, "evaluate"),
    run=evaluate,
    reads=("images", "features", "labels", "truth", "purified", "model", "yardstick", "train_trace"),
    writes=("plots", "held_out", "figures"),
    figures=("figures",),
    shared=("run.precision",),
    reads_metrics=("purify", "train"),
)
