"""Decoded images as one uint8 tensor, in memory or in a memory-mapped file, and as a stream of batches.

Callers see `ImageStore.pixels` either way. What is held: one row group of encoded images, plus the tensor itself
(or, when it is larger than the memory allowed, the pages of its file that the system chooses to keep).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
from jaxtyping import UInt8
from torch import Tensor

from lnl_core.config import ImageSettings
from lnl_core.contracts import ContractError, Ids, parts, positions, string_ids
from lnl_core.files import atomic_path
from lnl_core.images.decode import BrokenImage, decode_image, map_images, to_array
from lnl_core.images.encoded import Pixels, open_encoded, spans_path, write_encoded
from lnl_core.progress import progress_bar

log = logging.getLogger("lnl")
Arrays = npt.NDArray[np.uint8]
_DECODER = 1  # raise when decoding changes its result, so that old memory-mapped files are not reused
_FOOTER = 65536  # bytes at the end of a shard that identify it: row groups, sizes and statistics


@dataclass(frozen=True)
class ImageStore:
    """Pixels by id: row r of `pixels` is the image `ids[r]`."""

    ids: Ids
    pixels: UInt8[Tensor, "rows channels height width"]

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, ids: Ids) -> Tensor:
        """Row numbers [n] of the given ids, for `pixels[rows]`.

        Raises:
            ContractError: an id that is not in the store.
        """
        return torch.from_numpy(positions(ids, self.ids, "image store"))


def load_images(
    folder: Path, settings: ImageSettings, *, ids: Ids | None = None, scratch: Path, memory_mb: int
) -> ImageStore:
    """Decode the images of `folder`/part-*.parquet: those of `ids` in that order, or all in shard order.

    Above `memory_mb` MiB the pixels lie in a file below `scratch`, which later calls with the same shards, ids and
    settings reuse. Its mapping is copy-on-write: a caller who writes to `pixels` never alters the file.

    Raises:
        ContractError: no shards, an id without an image, or an image that does not decode.
    """
    shards = parts(folder)
    have = np.concatenate([_shard_ids(shard) for shard in shards])
    target = np.full(len(have), -1, dtype=np.int64)  # image in shard order -> row of the store
    wanted = have if ids is None else ids
    target[positions(wanted, have, str(folder))] = np.arange(len(wanted))
    shape = (len(wanted), settings.channels, settings.size, settings.size)
    if int(np.prod(shape)) <= memory_mb * 2**20:
        pixels = np.empty(shape, np.uint8)
        _fill(pixels, shards, target, settings)
    else:
        pixels = _memory_mapped(scratch, shape, shards, wanted, target, settings)
    return ImageStore(ids=wanted, pixels=torch.from_numpy(pixels))


def iterate_images(part: Path, settings: ImageSettings, batch: int) -> Iterator[tuple[Ids, Arrays]]:
    """The images of one shard in order, as (ids [b], pixels [b, C, H, W]); the last batch may be smaller."""
    reader = pq.ParquetFile(part)
    for table in reader.iter_batches(batch_size=batch, columns=["id", "image"]):
        ids = string_ids(table.column("id").to_pylist())
        yield ids, _decode(ids, table.column("image").to_pylist(), settings, part)


def _fill(pixels: Arrays, shards: list[Path], target: npt.NDArray[np.int64], settings: ImageSettings) -> None:
    start = 0
    with progress_bar("decoding", int((target >= 0).sum()), "images") as advance:
        for shard in shards:
            reader = pq.ParquetFile(shard)
            for group in range(reader.num_row_groups):
                rows = reader.metadata.row_group(group).num_rows
                keep = np.flatnonzero(target[start : start + rows] >= 0)
                if len(keep):
                    table = reader.read_row_group(group, columns=["id", "image"]).take(keep)
                    ids = string_ids(table["id"].to_pylist())
                    pixels[target[start + keep]] = _decode(ids, table["image"].to_pylist(), settings, shard)
                start += rows
                advance(len(keep))


def _decode(ids: Ids, images: list[bytes], settings: ImageSettings, shard: Path) -> Arrays:
    def pixels(data: bytes) -> Arrays | BrokenImage:
        try:
            return to_array(decode_image(data), settings)
        except BrokenImage as error:
            return error

    decoded = map_images(pixels, images)
    result = np.empty((len(images), settings.channels, settings.size, settings.size), np.uint8)
    for row, array in enumerate(decoded):
        if isinstance(array, BrokenImage):
            raise ContractError(f"{shard}: image {ids[row]!r}: {array}; run the stage prepare again, it sets it aside")
        result[row] = array
    return result


def _memory_mapped(
    scratch: Path,
    shape: tuple[int, int, int, int],
    shards: list[Path],
    wanted: Ids,
    target: npt.NDArray[np.int64],
    settings: ImageSettings,
) -> Arrays:
    path = scratch / f"images-{_fingerprint(shards, wanted, settings)}.uint8"
    if path.exists() and path.stat().st_size == int(np.prod(shape)):
        log.info("%s: decoded images are there already", path)
    else:
        with atomic_path(path) as temporary:
            mapped = np.memmap(temporary, np.uint8, "w+", shape=shape)
            _fill(mapped, shards, target, settings)
            mapped.flush()
            del mapped
    return np.memmap(path, np.uint8, "c", shape=shape)


def open_pixels(
    folder: Path, settings: ImageSettings, *, ids: Ids, scratch: Path, memory_mb: int, disk_mb: int
) -> Pixels:
    """The pixels of `ids` as `load_images` has them; above `disk_mb` MiB the images stay encoded, see `EncodedPixels`.

    Raises:
        ContractError: as `load_images`.
    """
    if len(ids) * settings.channels * settings.size**2 <= max(memory_mb, disk_mb) * 2**20:
        return load_images(folder, settings, ids=ids, scratch=scratch, memory_mb=memory_mb).pixels
    shards = parts(folder)
    have = np.concatenate([_shard_ids(shard) for shard in shards])
    target = np.full(len(have), -1, dtype=np.int64)
    target[positions(ids, have, str(folder))] = np.arange(len(ids))
    path = scratch / f"images-{_fingerprint(shards, ids, settings)}.encoded"
    if path.exists() and spans_path(path).exists():
        log.info("%s: encoded images are there already", path)
    else:
        write_encoded(path, shards, target)
    return open_encoded(path, ids, settings)


def _fingerprint(shards: list[Path], wanted: Ids, settings: ImageSettings) -> str:
    digest = hashlib.sha256(json.dumps([_DECODER, settings.size, settings.channels]).encode())
    for shard in shards:
        size = shard.stat().st_size
        digest.update(f"{shard.name} {size}\n".encode())
        with shard.open("rb") as file:
            file.seek(max(size - _FOOTER, 0))
            digest.update(file.read())
    for name in wanted:
        digest.update(name.encode() + b"\n")
    return digest.hexdigest()[:32]


def _shard_ids(shard: Path) -> Ids:
    return string_ids(pq.read_table(shard, columns=["id"])["id"].to_pylist())
