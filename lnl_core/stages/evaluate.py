"""Stage `evaluate`: scores of the purified labels and of the models; the only stage besides inject that sees truth.

Truth leaves this stage only as scores and in `plots/`: the report reads those and never the truth itself. What is
not there (truth, trusted rows, test rows, a model, a yardstick) is named with its reason under `missing`.
Held in memory: the label tables and soft labels, and the decoded test images (above `run.image_memory_mb` in a
memory-mapped file).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from lnl_core.config import Settings, parse
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
from lnl_core.evaluate.labels import (
    PurifiedRows,
    label_reliability,
    purified_rows,
    score_labels,
    score_transition,
    score_trusted,
    true_transition,
)
from lnl_core.evaluate.models import TestRows, score_gain, score_model, test_rows
from lnl_core.evaluate.predictions import Predictions, predict
from lnl_core.evaluate.tables import (
    Cell,
    confusion_rows,
    per_class_rows,
    reliability_rows,
    transition_rows,
    write_csv,
)
from lnl_core.files import atomic_folder, read_json
from lnl_core.images.store import ImageStore, load_images
from lnl_core.models.saved import SavedClassifier, load_classifier
from lnl_core.stages.layout import Layout
from lnl_core.stages.stage import Metrics, Stage, StageContext

CONFUSION = ("actual", "predicted", "actual_label", "predicted_label", "count")
ROWS = ("id", "observed", "purified", "confidence", "suspicion", "true")


class EvaluateSettings(Settings):
    """Section `evaluate`."""

    batch_size: int = Field(default=512, ge=1)  # test images a forward pass; no result depends on it
    bins: int = Field(default=15, ge=2, le=100)  # of the reliability diagram; Guo et al. 2017 use 15
    suspicious: int = Field(default=60, ge=0, le=10_000)  # rows listed in suspicious.csv and in uncertain.csv


@dataclass(kw_only=True)
class _Findings:
    """What the parts of the stage have found so far."""

    scores: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    per_class: dict[str, np.ndarray] = field(default_factory=dict)
    reliability: list[tuple[Cell, ...]] = field(default_factory=list)


def evaluate(settings: EvaluateSettings, context: StageContext) -> Metrics:
    """Read labels, truth, purified labels and models; write `plots/`; return the scores."""
    paths = context.paths
    labels, truth = read_labels(paths.labels), _truth(paths.truth)
    purified = read_purified(paths.purified)
    rows = purified_rows(purified, truth)
    found = _Findings()
    with atomic_folder(paths.plots) as plots:
        _labels(found, rows, purified.class_names, _estimated(paths), settings, plots)
        _trusted(found, labels)
        _models(found, labels, truth, settings, context, plots)
        columns = ("class", "label", *found.per_class)
        write_csv(plots / "per_class.csv", columns, per_class_rows(labels.class_names, found.per_class))
        what = ("what", "low", "high", "count", "confidence", "accuracy")
        write_csv(plots / "reliability.csv", what, found.reliability)
    return {**found.scores, "missing": found.missing}


def _truth(path: Path) -> Truth:
    if path.exists():
        return read_truth(path)
    return Truth(ids=string_ids([]), true_label=np.empty(0, dtype=np.int32))


def _estimated(paths: Layout) -> Mapping[str, Any]:
    """The purifier's own metrics: its transition matrix and noise rate, where it estimates them."""
    path = paths.metrics("purify")
    found: Mapping[str, Any] = read_json(path).get("purify", {}) if path.exists() else {}
    return found


def _labels(
    found: _Findings,
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
    found: _Findings, known: PurifiedRows, names: tuple[str, ...], settings: EvaluateSettings, plots: Path
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


def _trusted(found: _Findings, labels: Labels) -> None:
    found.scores["trusted"] = score_trusted(labels)
    if not found.scores["trusted"]["rows"]:
        found.missing["trusted"] = "no trusted rows"
    elif "noise_rate" not in found.scores["trusted"]:
        found.missing["trusted"] = "the trusted rows did not keep the label that the source had given them"


def _models(
    found: _Findings, labels: Labels, truth: Truth, settings: EvaluateSettings, context: StageContext, plots: Path
) -> None:
    rows = test_rows(labels, truth)
    models = _saved(context.paths, labels.class_names, found)
    found.scores["test"] = {"rows": len(rows.ids)}
    if not len(rows.ids):
        found.missing["test"] = "no test rows, so no test accuracy"
        return
    found.scores["test"]["label_source"] = rows.label_source
    if not models:
        return
    store = _test_images(models, rows, context)
    answers = {name: _answers(model, store, settings, context) for name, model in models.items()}
    classes = len(labels.class_names)
    for name, answer in answers.items():
        scores, bins = score_model(answer, rows.label, settings.bins, classes)
        found.scores["test"][name] = scores
        counts = confusion(rows.label, answer.label, classes)
        write_csv(plots / f"confusion_test_{name}.csv", CONFUSION, confusion_rows(counts, labels.class_names))
        found.per_class[name] = per_class_accuracy(counts)
        found.reliability += reliability_rows(name, bins)
    if gain := score_gain(answers, rows.label, "model_best", "yardstick_best"):
        found.scores["test"]["gain"] = gain


def _saved(paths: Layout, class_names: tuple[str, ...], found: _Findings) -> dict[str, SavedClassifier]:
    """The models that were trained: model_best, model_last, yardstick_best, yardstick_last."""
    models = {}
    for name, folder in (("model", paths.model), ("yardstick", paths.yardstick)):
        for checkpoint in ("best", "last"):
            if (folder / checkpoint).is_dir():
                models[f"{name}_{checkpoint}"] = load_classifier(folder / checkpoint)
        if f"{name}_best" not in models:
            found.missing[name] = f"no {name} was trained"
    for name, model in models.items():
        if model.class_names != class_names:
            raise ContractError(
                f"{name}: was trained for the classes {list(model.class_names)}, labels.parquet has "
                f"{list(class_names)}; run the stage train again"
            )
    return models


def _test_images(models: Mapping[str, SavedClassifier], rows: TestRows, context: StageContext) -> ImageStore:
    """The test images, decoded once: models of one run take the same pixels."""
    first, *others = {model.images: name for name, model in models.items()}.values()
    if others:
        raise ContractError(
            f"{others[0]} takes images as {models[others[0]].images}, {first} as {models[first].images}; "
            "run the stage train again, so that both learn from the same section images"
        )
    return load_images(
        context.paths.images,
        models[first].images,
        ids=rows.ids,
        scratch=context.paths.resume("evaluate"),
        memory_mb=context.runtime.image_memory_mb,
    )


def _answers(
    model: SavedClassifier, store: ImageStore, settings: EvaluateSettings, context: StageContext
) -> Predictions:
    network = model.ensemble.to(context.runtime.device)
    answers = predict(network, store.pixels, context.runtime, settings.batch_size)
    network.cpu()  # the next model gets the device's memory
    return answers


STAGE = Stage(
    name="evaluate",
    summary="scores of the purified labels and of the models, tables for plots",
    settings=lambda values: parse(EvaluateSettings, values, "evaluate"),
    run=evaluate,
    reads=("images", "labels", "truth", "purified", "model", "yardstick"),
    writes=("plots",),
    shared=("run.precision",),
    reads_metrics=("purify",),
)
