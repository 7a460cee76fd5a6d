"""Stage features: every image through the frozen encoder, into the feature cache.

All splits get features; the test rows' are for the report alone. Shards that are there already for the same encoder,
type and images are left untouched, or taken from the last version's features, so a growing collection pays for its new
shards only, and a killed run for none twice. Held: one batch of images, one row group of features. With
`run.execution: ray` shards are encoded by the workers of a cluster, which write them to the file system that all share.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from pathlib import Path

import pyarrow.parquet as pq
from pydantic import Field

from lnl_core.config import Settings, parse
from lnl_core.contracts import parts
from lnl_core.execution.shards import Execution, execution
from lnl_core.features.cache import FeatureCache
from lnl_core.features.encode_shard import EncodedShard, EncoderSource, ShardEncoder
from lnl_core.features.shards import FeatureType
from lnl_core.files import link_or_copy
from lnl_core.progress import progress_bar
from lnl_core.stages.stage import Metrics, Stage, StageContext


class FeaturesSettings(Settings):
    """Section `features`."""

    encoder: str = "simclr"  # or saved:FOLDER, torchvision:NAME, timm:NAME, package.module:function
    weights: Path | None = None  # state dict for torchvision and timm, .safetensors or .pth; never downloaded
    dtype: FeatureType = "float16"  # half the size; its 11 bits are more than features carry
    batch_size: int = Field(default=256, ge=1)
    random_weights: bool = False  # torchvision and timm without weights: to try a pipeline, never for results


def run(settings: FeaturesSettings, context: StageContext) -> Metrics:
    """Bring the feature cache up to date with images and encoder."""
    paths = context.paths
    shards = parts(paths.images)
    encode = _shard_encoder(settings, context)
    with execution(context.shared.run) as where:
        started = time.perf_counter()
        made = _encode_missing(shards, encode, where, context.shared.run.ray.gpus_per_task)
        seconds = time.perf_counter() - started
    _move_into_place({shard.path for shard in made}, paths.features, paths.previous.features)
    encoded = sum(shard.rows for shard in made if not shard.reused)
    cache = FeatureCache(paths.features)
    return {
        "rows": cache.shape[0],
        "width": cache.shape[1],
        "dtype": cache.dtype,
        "encoder": settings.encoder,
        "fingerprint": cache.fingerprint[:12],
        "images_encoded": encoded,
        "images_per_second": round(encoded / seconds, 1) if encoded else None,
        "shards_written": sum(not shard.reused for shard in made),
        "shards_reused": sum(shard.reused for shard in made),
    }


def _shard_encoder(settings: FeaturesSettings, context: StageContext) -> ShardEncoder:
    """The function of a shard, with the encoder opened here; its paths are absolute, for workers have other folders."""
    paths = context.paths
    folders = (paths.features, paths.previous.features, paths.resume("features"))
    source = EncoderSource(
        name=settings.encoder,
        weights=settings.weights.absolute() if settings.weights else None,
        random_weights=settings.random_weights,
        pretrained=paths.encoder.absolute(),
        images=context.shared.images,
        run=context.shared.run,
    )
    encoder = source.open()
    return ShardEncoder(
        source=source,
        fingerprint=encoder.fingerprint,
        dtype=settings.dtype,
        batch_size=settings.batch_size,
        folders=tuple(folder.absolute() for folder in folders),
        here=encoder,
    )


def _encode_missing(shards: list[Path], encode: ShardEncoder, where: Execution, gpus: float) -> list[EncodedShard]:
    """Make sure that each image shard has its features in the output, the previous or the resume folder."""
    made = []
    with progress_bar("encoding", sum(pq.read_metadata(shard).num_rows for shard in shards), "images") as advance:
        for shard in where.map(encode, [shard.absolute() for shard in shards], gpus=gpus):
            made.append(shard)
            advance(shard.rows)
    return made


def _move_into_place(ready: Collection[Path], folder: Path, previous: Path) -> None:
    """Leave exactly the shards of `ready` in `folder`; stale ones go first, so two encoders never stand together."""
    folder, previous = folder.absolute(), previous.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for stale in set(folder.glob("part-*.parquet")) - set(ready):
        stale.unlink()
    for shard in ready:
        if shard.parent == previous:
            link_or_copy(shard, folder / shard.name)
        elif shard.parent != folder:
            os.replace(shard, folder / shard.name)


STAGE = Stage(
    name="features",
    summary="Encode every image once into the feature cache",
    settings=lambda values: parse(FeaturesSettings, values, "features"),
    run=run,
    reads=("images", "encoder"),
    writes=("features",),
    shared=("run.precision", "images"),
    pool="gpu",
)
