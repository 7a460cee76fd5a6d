"""Stage `purify`: features and observed labels of the untrusted train rows to purified.parquet.

Features of the noisy rows stream from the cache; those of the trusted rows are held, and what the method states.
In a growing collection two things come from the version before: the sums over its rows, where it is a prefix of this
one (`purify_sums`), and its decisions, where `purify.update` names them (`lnl_core.purify.decide.decisions`).
A method that trains networks (`emlc` with `input: images`) also reads the images and the encoder, and wants a GPU for
more than small images; `pool_for` says so to whoever places the stage.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field, SerializeAsAny

from lnl_core.config import Settings
from lnl_core.contracts import PROVENANCE, Labels, Purified, read_labels, read_table, string_ids, write_purified
from lnl_core.execution.shards import execution
from lnl_core.features.cache import FeatureCache
from lnl_core.purify import PURIFIERS
from lnl_core.purify.decide.churn import Origin, churn
from lnl_core.purify.decide.decide import purify
from lnl_core.purify.decide.decisions import Past, UpdateSettings, decided_before, previous_version
from lnl_core.purify.decide.routes import RouteSettings
from lnl_core.purify.noise_metrics import noise_metrics
from lnl_core.purify.task import FeatureRows, PurifyTask
from lnl_core.stages.purify_images import task_images
from lnl_core.stages.purify_sums import LabelledRows, NoisyRowSums
from lnl_core.stages.stage import Metrics, Pool, Stage, StageContext, section_with_methods


class PurifySettings(RouteSettings):
    """Section `purify`: the method, what is promised about its changes, and a sub-section for each method."""

    method: str = "ipc_ensemble"
    update: UpdateSettings = Field(default_factory=UpdateSettings)
    options: dict[str, SerializeAsAny[Settings]]

    @property
    def routes(self) -> RouteSettings:
        """What is promised, alone."""
        return RouteSettings(**{name: getattr(self, name) for name in RouteSettings.model_fields})


def pool_for(settings: PurifySettings) -> Pool:
    """Networks on images want a GPU; a method on frozen features does without."""
    on_images = getattr(settings.options[settings.method], "input", "features") == "images"
    return "gpu" if on_images else "cpu"


def run(settings: PurifySettings, context: StageContext) -> Metrics:
    """Purify the train rows that nobody verified."""
    paths = context.paths
    labels = read_labels(paths.labels)
    found = LabelledRows.of(FeatureCache(paths.features), labels)
    (noisy, features), (trusted, _) = found.where(trusted=False), found.where(trusted=True)
    task = dataclasses.replace(
        purify_task(features, noisy, found.cache.tensor(trusted.ids), trusted),
        images=task_images(context, noisy, trusted),
    )
    before = previous_version(paths.previous.purified, settings.update)
    past = _past(before, noisy, settings.update)
    config = settings.options[settings.method]
    with execution(context.shared.run) as where:
        sums = NoisyRowSums(found, paths.previous.kept_sums, where)
        purified, metrics = purify(
            settings.method,
            config,
            dataclasses.replace(task, sums=lambda: sums.moments, execution=where),
            noisy.ids,
            labels.class_names,
            context.runtime.seed,
            routes=settings.routes,
            past=past,
        )
    write_purified(paths.purified, purified)
    sums.write(paths.kept_sums)
    changes = _churn(purified, before, past, labels, context)
    noise = noise_metrics(task, context.runtime.seed)
    return {**metrics, **noise, "sums": {"parts": sums.parts, "parts_kept": sums.parts_kept}, **changes}


def _past(before: Purified | None, noisy: Labels, settings: UpdateSettings) -> Past | None:
    if before is None:
        return None
    label = decided_before(before, noisy.ids, noisy.label, noisy.class_names)
    return Past(label=label, settings=settings)


def _churn(
    purified: Purified, before: Purified | None, past: Past | None, labels: Labels, context: StageContext
) -> dict[str, Any]:
    if before is None or past is None:
        return {}
    return {"churn": churn(purified, before, past.label, labels.ids[labels.trusted], _origin(context.paths.provenance))}


def _origin(path: Path) -> Origin:
    table, _ = read_table(path, PROVENANCE)
    shard, source = (np.array(table[name].to_pylist(), dtype=object) for name in ("shard", "source"))
    return Origin(ids=string_ids(table["id"].to_pylist()), shard=shard, source=source)


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
    # images and encoder for methods on images (features depend on both); provenance for what changed per source
    reads=("labels", "features", "images", "encoder", "provenance"),
    writes=("purified", "kept_sums"),
    shared=("run.seed", "run.precision", "images", "model"),
    pool="cpu",
    pool_for=pool_for,
)
