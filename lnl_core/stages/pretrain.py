"""Stage pretrain: an encoder from the images alone (SimCLR), or none where the user brings one.

All rows outside the test split are training images, trusted ones included, because no label is used. The labels of
trusted rows only score the encoder. Read from the labels as prepared, not as noised: splits and trusted rows are the
same in both, and so one pretraining serves every noise setting of a sweep.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from lnl_core.config import Settings, parse
from lnl_core.contracts import Labels, parts, read_labels
from lnl_core.files import atomic_folder, atomic_path, write_json
from lnl_core.images.content import content_hash
from lnl_core.images.encoded import Pixels
from lnl_core.images.store import open_pixels
from lnl_core.models.encoder import Encoder, build_encoder
from lnl_core.models.normalise import pixel_statistics, set_normalisation
from lnl_core.models.saved import save_encoder
from lnl_core.runtime import seed_for
from lnl_core.ssl.simclr import PretrainTask, Record, SimCLRConfig, TrustedRows, pretrain_simclr
from lnl_core.stages.stage import Metrics, Stage, StageContext

log = logging.getLogger("lnl")
CURVE = ("epoch", "loss", "lr", "seconds", "probe_accuracy", "knn_accuracy")


class PretrainSettings(Settings):
    """Section `pretrain`."""

    method: Literal["simclr", "none"] = "simclr"  # none: section features names an encoder from elsewhere
    simclr: SimCLRConfig = Field(default_factory=SimCLRConfig)


def run(settings: PretrainSettings, context: StageContext) -> Metrics:
    """Train the encoder and write it with its curve."""
    if settings.method == "none":
        with atomic_folder(context.paths.encoder) as folder:
            write_json(folder / "config.json", {"kind": "none"})
        _write_curve(context.paths.pretrain_curve, ())
        return {"method": "none"}
    labels = read_labels(context.paths.source_labels)
    labels = labels.take(np.flatnonzero(labels.split != "test"))
    pixels = open_pixels(
        context.paths.images,
        context.shared.images,
        ids=labels.ids,
        scratch=context.paths.resume("pretrain"),
        memory_mb=context.runtime.image_memory_mb,
        disk_mb=context.runtime.image_disk_mb,
    )
    trained = pretrain_simclr(_task(settings, context, labels, pixels), settings.simclr)
    model = context.shared.model
    about = {"method": "simclr", "settings": settings.simclr.model_dump(), "seed": context.runtime.seed}
    save_encoder(context.paths.encoder, trained.encoder, about)
    _write_curve(context.paths.pretrain_curve, trained.curve)
    last = trained.curve[-1]
    return {
        "method": "simclr",
        "epochs": len(trained.curve),
        "final_loss": last["loss"],
        "probe_accuracy": last["probe_accuracy"],
        "knn_accuracy": last["knn_accuracy"],
        "images": len(pixels),
        "trusted": len(labels.where(split="train", trusted=True)),
        "device": context.runtime.device.type,
        "arch": model.arch,
        "stem": model.stem,
        "width": trained.encoder.width,
    }


def _task(settings: PretrainSettings, context: StageContext, labels: Labels, pixels: Pixels) -> PretrainTask:
    shared, runtime = context.shared, context.runtime
    return PretrainTask(
        pixels=pixels,
        trusted=_trusted(labels),
        flip=shared.images.flip,
        encoder=_new_encoder(context, pixels),
        runtime=runtime,
        checkpoint=context.paths.resume("pretrain") / "simclr.pt",
        fingerprint=_fingerprint(settings, context, labels),
    )


def _new_encoder(context: StageContext, pixels: Pixels) -> Encoder:
    shared = context.shared
    seed = seed_for(context.runtime.seed, "pretrain", "encoder")
    encoder = build_encoder(shared.model, shared.images.channels, seed=seed)
    set_normalisation(encoder, *pixel_statistics(pixels))
    return encoder


def _trusted(labels: Labels) -> TrustedRows | None:
    """The trusted train rows among the images; None, with a note, where there are too few to be scored."""
    rows = labels.where(split="train", trusted=True)
    if len(rows) < 2:
        log.info("pretrain: %d trusted rows, so the encoder is not scored by probe and kNN", len(rows))
        return None
    label = torch.from_numpy(labels.label[rows]).long()
    return TrustedRows(rows=torch.from_numpy(rows), label=label, classes=len(labels.class_names))


def _fingerprint(settings: PretrainSettings, context: StageContext, labels: Labels) -> str:
    """What a checkpoint belongs to: settings, seed, device type, images and trusted labels."""
    shared, runtime = context.shared, context.runtime
    about = {
        "simclr": settings.simclr.model_dump(exclude={"checkpoint_every"}),
        "images": shared.images.model_dump(),
        "model": shared.model.model_dump(),
        "run": [runtime.seed, runtime.precision, runtime.device.type],
        "shards": [content_hash(shard) for shard in parts(context.paths.images)],
    }
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    scored = labels.trusted & (labels.split == "train")
    for name, label, trusted in zip(labels.ids, labels.label, scored, strict=True):
        digest.update(f"{name}\0{label if trusted else ''}\n".encode())
    return digest.hexdigest()


def _write_curve(path: Path, curve: Sequence[Record]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, CURVE, lineterminator="\n")
        writer.writeheader()
        writer.writerows(curve)  # None becomes an empty field: not measured


STAGE = Stage(
    name="pretrain",
    summary="Train an encoder on the images alone (SimCLR)",
    settings=lambda values: parse(PretrainSettings, values, "pretrain"),
    run=run,
    reads=("images", "source_labels"),
    writes=("encoder", "pretrain_curve"),
    shared=("run.seed", "run.precision", "images", "model"),
    pool="gpu",
)
