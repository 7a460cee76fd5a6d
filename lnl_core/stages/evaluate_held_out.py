"""The part of the stage evaluate that predicts the held-out trusted rows with a probe and with the model.

The probe is a linear discriminant on the frozen features, fitted on all train rows with the labels of this version: the
applied label of a purified row, the verified one of a trusted row. It is fitted in one pass over the features and moves
with the labels alone, where the model also moves with its seed.
Held in memory: the label tables, the probe's sums (8 d (d + K) bytes), and features and pixels of the held-out rows.
"""

from __future__ import annotations

import numpy as np

from lnl_core.contracts import Ids, IntArray, Labels, Purified, positions
from lnl_core.evaluate.findings import Findings
from lnl_core.evaluate.held_out import Classifier, HeldOutPredictions, HeldOutTable, score_held_out, write_held_out
from lnl_core.evaluate.predictions import predict
from lnl_core.evaluate.settings import EvaluateSettings
from lnl_core.features.cache import FeatureCache
from lnl_core.images.store import load_images
from lnl_core.models.saved import load_classifier, read_config
from lnl_core.stages.stage import StageContext
from lnl_core.statistics.discriminant import fit_discriminant
from lnl_core.statistics.moments import accumulate

NO_ROWS = (
    "no trusted rows are held out, so no version can be held against another; "
    "set prepare.trusted.held_out_share (0.2 of the trusted rows, say)"
)


def predict_held_out(
    found: Findings, labels: Labels, purified: Purified, settings: EvaluateSettings, context: StageContext
) -> None:
    """Write held_out.parquet, empty with its reason where no trusted rows are held out; add the scores."""
    held = labels.take(labels.where(split="val", trusted=True))
    predictions: dict[Classifier, HeldOutPredictions] = {}
    about, missing = {}, {}
    if len(held):
        cache = FeatureCache(context.paths.features)
        about = {"encoder": cache.fingerprint, "probe": {"shrinkage": settings.probe_shrinkage}}
        predictions["probe"] = _probe(cache, labels, purified, held, settings)
        folder = context.paths.model / "best"
        if folder.is_dir():
            about["model"] = read_config(folder, "classifier")["sha256"]
            predictions["model"] = _model(held, settings, context)
        else:
            missing["model"] = "no model was trained"
    else:
        missing["held_out"] = NO_ROWS
    found.missing |= {"held_out": NO_ROWS} if not len(held) else {}
    table = HeldOutTable(
        ids=held.ids,
        label=held.label,
        observed=held.observed_label,
        predictions=predictions,
        class_names=labels.class_names,
        about=about,
        missing=missing,
    )
    write_held_out(context.paths.held_out, table)
    found.scores["held_out"] = score_held_out(table)


def _probe(
    cache: FeatureCache, labels: Labels, purified: Purified, held: Labels, settings: EvaluateSettings
) -> HeldOutPredictions:
    ids, label = _learned(labels, purified)
    order = cache.in_cache_order(ids)
    rows = cache.select(ids[order])
    moments = accumulate(rows.batches(), label[order], rows.shape[1], len(labels.class_names))
    probabilities = fit_discriminant(moments, settings.probe_shrinkage).probabilities(cache.tensor(held.ids).numpy())
    return HeldOutPredictions(
        label=probabilities.argmax(axis=1).astype(np.int32),
        confidence=probabilities.max(axis=1).astype(np.float32),
    )


def _learned(labels: Labels, purified: Purified) -> tuple[Ids, IntArray]:
    """The train rows and the label of this version of each."""
    train = labels.take(labels.where(split="train"))
    label = train.label.copy()
    label[positions(purified.ids, train.ids, "labels.parquet")] = purified.applied_label
    return train.ids, label


def _model(held: Labels, settings: EvaluateSettings, context: StageContext) -> HeldOutPredictions:
    model = load_classifier(context.paths.model / "best")
    store = load_images(
        context.paths.images,
        model.images,
        ids=held.ids,
        scratch=context.paths.resume("evaluate") / "held_out",
        memory_mb=context.runtime.image_memory_mb,
    )
    network = model.ensemble.to(context.runtime.device)
    predicted = predict(network, store.pixels, context.runtime, settings.batch_size)
    network.cpu()
    return HeldOutPredictions(
        label=predicted.label.astype(np.int32), confidence=predicted.confidence.astype(np.float32)
    )
