"""The features of one image shard: a function that any process can call that sees the files.

It travels to other processes without the weights; each opens the encoder itself, once, and checks that it is the same.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from lnl_core.config import ConfigError, ImageSettings, RunSettings
from lnl_core.contracts import ContractError, FloatArray, Ids
from lnl_core.features.encoders import FeatureEncoder, open_encoder
from lnl_core.features.shards import FeatureType, ShardKey, has_key, write_shard
from lnl_core.images.content import content_hash
from lnl_core.images.store import iterate_images
from lnl_core.models.predictions import as_input
from lnl_core.runtime import resolve


@dataclass(frozen=True, kw_only=True)
class EncoderSource:
    """What `open_encoder` needs, as plain values."""

    name: str
    weights: Path | None
    random_weights: bool
    pretrained: Path
    images: ImageSettings
    run: RunSettings

    def open(self) -> FeatureEncoder:
        """On this process's device, with as many threads as it has now where the settings leave that open."""
        threads = self.run.threads or torch.get_num_threads()
        return open_encoder(
            self.name,
            weights=self.weights,
            random_weights=self.random_weights,
            pretrained=self.pretrained,
            images=self.images,
            runtime=resolve(self.run.model_copy(update={"threads": threads})),
        )


@dataclass(frozen=True, kw_only=True)
class EncodedShard:
    """Where a shard's features lie."""

    path: Path
    rows: int
    reused: bool  # were they there already?


@dataclass(frozen=True, kw_only=True)
class ShardEncoder:
    """Call it with the path of an image shard: its features are then there. Paths must be absolute to travel.

    Held: one batch of images, one row group of features.
    """

    source: EncoderSource
    fingerprint: str  # of the encoder
    dtype: FeatureType
    batch_size: int
    folders: tuple[Path, ...]  # looked through in this order for features with the right key; new ones go into the last
    here: FeatureEncoder | None = None  # opened already, in this process

    def __call__(self, shard: Path) -> EncodedShard:
        """Raises:
        ContractError: no such shard, an image that does not decode, or a feature that cannot be stored.
        ConfigError: the encoder that this process opens has another fingerprint than `fingerprint`.
        """
        if not shard.exists():
            raise ContractError(f"{shard}: no such file here; every node must see the run's folder under the same path")
        rows = pq.read_metadata(shard).num_rows
        key = ShardKey(fingerprint=self.fingerprint, dtype=self.dtype, source=content_hash(shard))
        for folder in self.folders:
            if has_key(folder / shard.name, key):
                return EncodedShard(path=folder / shard.name, rows=rows, reused=True)
        path = self.folders[-1] / shard.name
        write_shard(path, self._encode(shard), key)
        return EncodedShard(path=path, rows=rows, reused=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "here": None}

    def _encode(self, shard: Path) -> Iterator[tuple[Ids, FloatArray]]:
        """Features of one shard, a batch behind: a GPU computes one batch while the next is decoded."""
        encoder = self.here or _opened(self.source, self.fingerprint)
        running: tuple[Ids, torch.Tensor] | None = None
        for ids, pixels in iterate_images(shard, self.source.images, self.batch_size):
            features = encoder.encode(as_input(torch.from_numpy(pixels), encoder.runtime.device))
            if running is not None:
                yield running[0], running[1].cpu().numpy()
            running = ids, features
        if running is not None:
            yield running[0], running[1].cpu().numpy()


@functools.lru_cache(maxsize=1)
def _opened(source: EncoderSource, fingerprint: str) -> FeatureEncoder:
    """The encoder of this process, loaded once."""
    encoder = source.open()
    if encoder.fingerprint != fingerprint:
        raise ConfigError(
            f"features.encoder = {source.name!r}: this node opens encoder {encoder.fingerprint[:12]}, the stage was "
            f"started with {fingerprint[:12]}; give every node the same code, weights and packages"
        )
    return encoder
