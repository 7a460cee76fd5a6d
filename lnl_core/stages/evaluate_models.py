"""The part of the stage evaluate that runs the saved models on the test rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lnl_core.contracts import ContractError, Labels, Truth
from lnl_core.evaluate.confusion import confusion, per_class_accuracy
from lnl_core.evaluate.embedding import SEED, drawn_rows, first_encoder, penultimate_features, tsne, why_no_map
from lnl_core.evaluate.findings import Findings
from lnl_core.evaluate.models import TestRows, score_gain, score_model, test_rows
from lnl_core.evaluate.predictions import Predictions, predict
from lnl_core.evaluate.settings import EvaluateSettings
from lnl_core.evaluate.tables import CONFUSION, confusion_rows, reliability_rows, write_csv
from lnl_core.images.store import ImageStore, load_images
from lnl_core.layout import Layout
from lnl_core.models.saved import SavedClassifier, load_classifier
from lnl_core.stages.stage import StageContext

EMBEDDING = ("x", "y", "actual", "predicted", "actual_label", "predicted_label")


def score_models(
    found: Findings, labels: Labels, truth: Truth, settings: EvaluateSettings, context: StageContext, plots: Path
) -> None:
    """Score every saved model on the test rows, and draw the map of the best one's features."""
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
    predictions = {name: _predict(model, store, settings, context) for name, model in models.items()}
    classes = len(labels.class_names)
    for name, predicted in predictions.items():
        scores, bins = score_model(predicted, rows.label, settings.bins, classes)
        found.scores["test"][name] = scores
        counts = confusion(rows.label, predicted.label, classes)
        write_csv(plots / f"confusion_test_{name}.csv", CONFUSION, confusion_rows(counts, labels.class_names))
        found.per_class[name] = per_class_accuracy(counts)
        found.reliability += reliability_rows(name, bins)
    if "model_best" in models:
        why = _embedding(models["model_best"], predictions["model_best"], rows, store, settings, context, plots)
        found.missing |= {"embedding": why} if why else {}
    if gain := score_gain(predictions, rows.label, "model_best", "yardstick_best"):
        found.scores["test"]["gain"] = gain


def _saved(paths: Layout, class_names: tuple[str, ...], found: Findings) -> dict[str, SavedClassifier]:
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


def _predict(
    model: SavedClassifier, store: ImageStore, settings: EvaluateSettings, context: StageContext
) -> Predictions:
    network = model.ensemble.to(context.runtime.device)
    predictions = predict(network, store.pixels, context.runtime, settings.batch_size)
    network.cpu()  # the next model gets the device's memory
    return predictions


def _embedding(
    model: SavedClassifier,
    predictions: Predictions,
    rows: TestRows,
    store: ImageStore,
    settings: EvaluateSettings,
    context: StageContext,
    plots: Path,
) -> str | None:
    """Write embedding.csv from the features of the ensemble's first network; or say why there is no map."""
    if not settings.embedding_rows:
        return "evaluate.embedding_rows = 0 asks for no map"
    drawn = drawn_rows(len(rows.ids), settings.embedding_rows, np.random.default_rng(SEED))
    encoder = first_encoder(model.ensemble).to(context.runtime.device)
    features = penultimate_features(encoder, store.pixels[drawn], context.runtime, settings.batch_size)
    encoder.cpu()
    why = why_no_map(features)
    if why is None:
        actual, predicted = rows.label[drawn], predictions.label[drawn]
        names = np.asarray(model.class_names, dtype=object)
        columns = (*tsne(features).T, names[actual], names[predicted], actual, predicted)
        write_csv(plots / "embedding.csv", EMBEDDING, zip(*columns, strict=True))
    return why
