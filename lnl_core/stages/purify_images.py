"""The images of a purify task: what stage `purify` adds for methods that train networks on them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import numpy as np
from torch import nn

from lnl_core.config import ConfigError
from lnl_core.contracts import ContractError, Labels, parts
from lnl_core.images.content import content_hash
from lnl_core.images.store import ImageStore, load_images
from lnl_core.models.encoder import build_encoder
from lnl_core.models.normalise import pixel_statistics, set_normalisation
from lnl_core.models.saved import load_encoder, read_config
from lnl_core.purify.task import Start, TaskImages
from lnl_core.stages.stage import StageContext


def task_images(context: StageContext, noisy: Labels, trusted: Labels) -> Callable[[], TaskImages]:
    """A loader, so that methods on features pay nothing; the images of both tables stand in the order of their rows."""

    def load() -> TaskImages:
        store = load_images(
            context.paths.images,
            context.shared.images,
            ids=np.concatenate([noisy.ids, trusted.ids]),
            scratch=context.paths.resume("purify"),
            memory_mb=context.runtime.image_memory_mb,
        )
        return TaskImages(
            noisy=store.pixels[: len(noisy)],
            trusted=store.pixels[len(noisy) :],
            flip=context.shared.images.flip,
            new_backbone=lambda start, seed: _backbone(context, store, start, seed),
            runtime=context.runtime,
            checkpoint=context.paths.resume("purify") / "images.pt",
            fingerprint=_fingerprint(context, noisy, trusted),
        )

    return load


def _backbone(context: StageContext, store: ImageStore, start: Start, seed: int) -> nn.Module:
    if start == "simclr":
        try:
            return load_encoder(context.paths.encoder).train()
        except ContractError as error:
            raise ConfigError(
                f"a start from 'simclr' needs the encoder of stage pretrain ({error}); "
                "set pretrain.method=simclr and run it, or start from scratch"
            ) from error
    encoder = build_encoder(context.shared.model, context.shared.images.channels, seed=seed)
    set_normalisation(encoder, *pixel_statistics(store.pixels))
    return encoder


def _fingerprint(context: StageContext, noisy: Labels, trusted: Labels) -> str:
    """Everything outside the method's own settings that a resumed run must share with the one that stopped."""
    shared, runtime = context.shared, context.runtime
    about = {
        "shards": [content_hash(shard) for shard in parts(context.paths.images)],
        "encoder": _encoder_hash(context),
        "images": shared.images.model_dump(),
        "model": shared.model.model_dump(),
        "run": [runtime.seed, runtime.precision, runtime.device.type],
        "classes": list(noisy.class_names),
    }
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for labels in (noisy, trusted):
        digest.update(json.dumps(list(labels.ids)).encode())
        for column in (labels.label, labels.observed_label):
            digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def _encoder_hash(context: StageContext) -> str:
    try:
        return str(read_config(context.paths.encoder, "encoder")["sha256"])
    except ContractError:
        return "none"  # a start from the encoder would have failed by now
