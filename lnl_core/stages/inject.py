"""Stage `inject`: noisy labels for benchmark data, with a protocol card; the identity for real noisy data.

Noise is drawn once, with a generator of its own, for train and val rows and never for test rows. A trusted row keeps
its verified label and gets the noisy one as its observed label, which calibrates the transition matrix.
Held in memory: ids and labels.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import SerializeAsAny

from lnl_core.config import ConfigError, ImageSettings, Settings
from lnl_core.contracts import NO_LABEL, Ids, IntArray, Labels, parts, positions, read_labels, read_truth, write_labels
from lnl_core.images.store import iterate_images
from lnl_core.layout import Layout
from lnl_core.noise import NOISE_TYPES
from lnl_core.noise.source import NoiseConfig, NoiseSource
from lnl_core.stages.stage import Metrics, Stage, StageContext, section_with_methods

_BATCH = 512  # images decoded at a time for instance noise


class InjectSettings(Settings):
    """Section `inject`; each noise type has a sub-section of its own."""

    type: str = "none"
    options: dict[str, SerializeAsAny[Settings]]


def run(settings: InjectSettings, context: StageContext) -> Metrics:
    """Draw the noise, write labels.parquet, return the protocol card."""
    labels = read_labels(context.paths.source_labels)
    true_label = _true_labels(labels, context.paths)
    if settings.type != "none":
        labels = _with_noise(labels, true_label, settings, context)
    card = _card(labels, true_label, settings, context.runtime.seed)
    write_labels(context.paths.labels, dataclasses.replace(labels, protocol=card))
    return card


def _true_labels(labels: Labels, paths: Layout) -> IntArray:
    """True labels [n] of the rows of `labels`; NO_LABEL where unknown."""
    truth = read_truth(paths.truth)
    result = np.full(len(labels), NO_LABEL, dtype=np.int32)
    result[positions(truth.ids, labels.ids, str(paths.source_labels))] = truth.true_label
    return result


def _with_noise(labels: Labels, true_label: IntArray, settings: InjectSettings, context: StageContext) -> Labels:
    rows = np.flatnonzero(labels.split != "test")
    unknown = int((true_label[rows] == NO_LABEL).sum())
    if unknown:
        raise ConfigError(
            f"inject.type = {settings.type!r}: noise needs true labels, and {unknown} of {len(rows)} rows "
            "have none; use inject.type = 'none' for real noisy data, or give the dataset a true-label column"
        )
    ids = labels.ids[rows]
    source = NoiseSource(
        ids=ids,
        true_label=true_label[rows],
        class_names=labels.class_names,
        pixels=lambda: _pixels(ids, context.paths, context.shared.images),
    )
    noise = NOISE_TYPES.get(settings.type)
    observed = labels.observed_label.copy()
    noisy = noise.make(source, settings.options[settings.type], context.runtime.numpy_generator("inject"))
    observed[rows] = noisy
    label = np.where(labels.trusted, labels.label, observed).astype(np.int32)
    return dataclasses.replace(labels, label=label, observed_label=observed)


def _pixels(ids: Ids, paths: Layout, settings: ImageSettings) -> Iterator[tuple[Ids, npt.NDArray[np.uint8]]]:
    wanted = set(ids)
    for part in parts(paths.images):
        for names, pixels in iterate_images(part, settings, _BATCH):
            keep = np.array([name in wanted for name in names], dtype=bool)
            if keep.any():
                yield names[keep], pixels[keep]


def _card(labels: Labels, true_label: IntArray, settings: InjectSettings, seed: int) -> dict[str, Any]:
    """The protocol card: what was set, and what came out on the rows that a method has to correct."""
    config = settings.options[settings.type]
    assert isinstance(config, NoiseConfig)  # the registry takes no others
    noisy = (labels.split == "train") & ~labels.trusted
    every = (labels.split != "test") & (labels.observed_label != NO_LABEL)
    return {
        "type": settings.type,
        "protocol": config.protocol_name,
        "counting": config.counting_name,
        "nominal_rate": config.nominal_rate,
        "rate_realised": _rate(labels, true_label, noisy),
        "rate_realised_overall": _rate(labels, true_label, every),
        "matrix": _matrix(labels, true_label, noisy),
        "rows": int(noisy.sum()),
        "truth": "known" if (true_label[noisy] != NO_LABEL).any() else "unknown",
        "seed": seed,
        "sha256": hashlib.sha256(labels.label.astype("<i4").tobytes()).hexdigest(),
        "settings": config.model_dump(mode="json"),
    }


def _rate(labels: Labels, true_label: IntArray, rows: npt.NDArray[np.bool_]) -> float | None:
    known = rows & (true_label != NO_LABEL)
    if not known.any():
        return None
    return round(float((labels.observed_label[known] != true_label[known]).mean()), 6)


def _matrix(labels: Labels, true_label: IntArray, rows: npt.NDArray[np.bool_]) -> list[list[float]] | None:
    """Realised T[true, observed]; a class without rows has a row of zeros."""
    known = rows & (true_label != NO_LABEL)
    if not known.any():
        return None
    counts = np.zeros((len(labels.class_names),) * 2)
    np.add.at(counts, (true_label[known], labels.observed_label[known]), 1)
    shares: list[list[float]] = np.round(counts / counts.sum(axis=1, keepdims=True).clip(1), 6).tolist()
    return shares


STAGE = Stage(
    name="inject",
    summary="Draw label noise for benchmark data, or pass real noisy labels through.",
    settings=section_with_methods("inject", InjectSettings, NOISE_TYPES),
    run=run,
    reads=("source_labels", "truth", "images"),
    writes=("labels",),
    shared=("run.seed", "images"),
)
