"""Stage features: every image through the frozen encoder, into the feature cache.

All splits get features; the test rows' are for the report alone. Shards that are there already for the same encoder,
type and images are left untouched, so a growing collection pays for its new shards only, and a killed run for none
twice. Held: one batch of images, one row group of features.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from pydantic import Field

from lnl_core.config import ImageSettings, Settings, parse
from lnl_core.contracts import FloatArray, Ids, parts
from lnl_core.features.cache import FeatureCache
from lnl_core.features.encoders import FeatureEncoder, open_encoder
from lnl_core.features.shards import FeatureType, ShardKey, has_key, write_shard
from lnl_core.images.content import content_hash
from lnl_core.images.store import iterate_images
from lnl_core.models.predictions import as_input
from lnl_core.progress import progress_bar
from lnl_core.stages.stage import Metrics, Stage, StageContext

log = logging.getLogger("lnl")


class FeaturesSettings(Settings):
    """Section `features`."""

    encoder: str = "simclr"  # or torchvision:NAME, timm:NAME, package.module:function
    weights: Path | None = None  # state dict for torchvision and timm, .safetensors or .pth; never downloaded
    dtype: FeatureType = "float16"  # half the size; its 11 bits are more than features carry
    batch_size: int = Field(default=256, ge=1)
    random_weights: bool = False  # torchvision and timm without weights: to try a pipeline, never for results


def run(settings: FeaturesSettings, context: StageContext) -> Metrics:
    """Bring the feature cache up to date with images and encoder."""
    paths, images = context.paths, context.shared.images
    encoder = open_encoder(
        settings.encoder,
        weights=settings.weights,
        random_weights=settings.random_weights,
        pretrained=paths.encoder,
        images=images,
        runtime=context.runtime,
    )
    shards = parts(paths.images)
    started = time.perf_counter()
    ready, encoded = _write_missing(shards, encoder, settings, images, (paths.features, paths.resume("features")))
    seconds = time.perf_counter() - started
    _move_into_place(ready, paths.features)
    cache = FeatureCache(paths.features)
    return {
        "rows": cache.shape[0],
        "width": cache.shape[1],
        "dtype": cache.dtype,
        "encoder": settings.encoder,
        "fingerprint": cache.fingerprint[:12],
        "images_per_second": round(encoded / seconds, 1) if encoded else None,
        "shards_written": sum(not reused for reused in ready.values()),
        "shards_reused": sum(ready.values()),
    }


def _write_missing(
    shards: list[Path],
    encoder: FeatureEncoder,
    settings: FeaturesSettings,
    images: ImageSettings,
    folders: tuple[Path, Path],
) -> tuple[dict[Path, bool], int]:
    """Make sure that each image shard has its features in the output or the resume folder.

    Returns where they lie, each with whether it was there already, and the number of images encoded.
    """
    ready: dict[Path, bool] = {}
    encoded = 0
    total = sum(pq.read_metadata(shard).num_rows for shard in shards)
    with progress_bar("encoding", total, "images") as advance:
        for shard in shards:
            key = ShardKey(fingerprint=encoder.fingerprint, dtype=settings.dtype, source=content_hash(shard))
            there = [folder / shard.name for folder in folders if has_key(folder / shard.name, key)]
            if not there:
                encoded += write_shard(folders[1] / shard.name, _encode(shard, encoder, settings, images), key)
            ready[there[0] if there else folders[1] / shard.name] = bool(there)
            advance(pq.read_metadata(shard).num_rows)
    return ready, encoded


def _encode(
    shard: Path, encoder: FeatureEncoder, settings: FeaturesSettings, images: ImageSettings
) -> Iterator[tuple[Ids, FloatArray]]:
    """Features of one shard, a batch behind: a GPU computes one batch while the next is decoded."""
    device = encoder.runtime.device
    running: tuple[Ids, torch.Tensor] | None = None
    for ids, pixels in iterate_images(shard, images, settings.batch_size):
        features = encoder.encode(as_input(torch.from_numpy(pixels), device))
        if running is not None:
            yield running[0], running[1].cpu().numpy()
        running = ids, features
    if running is not None:
        yield running[0], running[1].cpu().numpy()


def _move_into_place(ready: Mapping[Path, bool], folder: Path) -> None:
    """Leave exactly the shards of `ready` in `folder`; stale ones go first, so two encoders never stand together."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in set(folder.glob("part-*.parquet")) - set(ready):
        stale.unlink()
    for shard in ready:
        if shard.parent != folder:
            os.replace(shard, folder / shard.name)


def _settings(values: Mapping[str, Any] | None) -> FeaturesSettings:
    return parse(FeaturesSettings, values, "features")


STAGE = Stage(
    name="features",
    summary="Encode every image once into the feature cache",
    settings=_settings,
    run=run,
    reads=("images", "encoder"),
    writes=("features",),
    shared=("run.precision", "images"),
    pool="gpu",
)
