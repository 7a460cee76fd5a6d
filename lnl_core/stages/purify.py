"""Stage `purify`: features and observed labels of the untrusted train rows to purified.parquet.

Features of the noisy rows stream from the cache; those of the trusted rows are held, and what the method states.
A method that trains networks (`emlc` with `input: images`) also reads the images and the encoder, and wants a GPU for
more than small images: run the stage where one is (its pool is `cpu`, for most methods need no more).
"""

from __future__ import annotations

import dataclasses

import torch
from pydantic import SerializeAsAny, field_validator

from lnl_core.config import Settings
from lnl_core.contracts import Labels, read_labels, write_purified
from lnl_core.features.cache import FeatureCache
from lnl_core.purify import PURIFIERS
from lnl_core.purify.answer import purify
from lnl_core.purify.routes import RouteSettings
from lnl_core.purify.task import FeatureRows, PurifyTask
from lnl_core.stages.purify_images import task_images
from lnl_core.stages.stage import Metrics, Stage, StageContext, section_with_methods


class PurifySettings(RouteSettings):
    """Section `purify`: the method, what is promised about its changes, and a sub-section for each method."""

    method: str = "dmlp"
    options: dict[str, SerializeAsAny[Settings]]

    @property
    def routes(self) -> RouteSettings:
        """What is promised, alone."""
        return RouteSettings(**{name: getattr(self, name) for name in RouteSettings.model_fields})

    @field_validator("method")
    @classmethod
    def _known(cls, name: str) -> str:
        PURIFIERS.get(name)
        return name


def run(settings: PurifySettings, context: StageContext) -> Metrics:
    """Purify the train rows that nobody verified."""
    labels = read_labels(context.paths.labels)
    cache = FeatureCache(context.paths.features)
    noisy = labels.take(labels.where(split="train", trusted=False))
    trusted = labels.take(labels.where(split="train", trusted=True))
    task = dataclasses.replace(
        purify_task(cache.select(noisy.ids), noisy, cache.tensor(trusted.ids), trusted),
        images=task_images(context, noisy, trusted),
    )
    config = settings.options[settings.method]
    purified, metrics = purify(
        settings.method,
        config,
        task,
        noisy.ids,
        labels.class_names,
        context.runtime.seed,
        routes=settings.routes,
    )
    write_purified(context.paths.purified, purified)
    return metrics


def purify_task(features: FeatureRows, noisy: Labels, trusted_features: torch.Tensor, trusted: Labels) -> PurifyTask:
    """The task of a purifier from the noisy and the trusted rows of a label table."""
    return PurifyTask(
        noisy=features,
        observed=noisy.label,
        trusted=trusted_features.float().numpy(),
        trusted_label=trusted.label,
        trusted_observed=trusted.observed_label,
        classes=len(noisy.class_names),
    )


STAGE = Stage(
    name="purify",
    summary="Purify the labels from features, observed labels and the trusted set",
    settings=section_with_methods("purify", PurifySettings, PURIFIERS),
    run=run,
    reads=("labels", "features", "images", "encoder"),  # the last two for methods on images; features depend on both
    writes=("purified",),
    shared=("run.seed", "run.precision", "images", "model"),
    pool="cpu",
)
