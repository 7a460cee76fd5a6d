"""The image shards part-*.parquet: encoded bytes as they came, checked by decoding each once."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lnl_core.contracts import IMAGES, QuarantineRow
from lnl_core.files import atomic_path
from lnl_core.images.decode import BrokenImage, decode_image, map_images

ROW_GROUP = 512  # images that a reader holds at a time: 50 MB of photographs at 100 kB each
Source = bytes | QuarantineRow


def write_shard(path: Path, ids: Sequence[str], images: Iterable[Source], stage: str) -> list[QuarantineRow]:
    """Write one shard atomically, streaming; returns what was set aside, because `images` or decoding said so.

    Holds one row group. The bytes of the file depend on ids and images alone.
    """
    quarantined: list[QuarantineRow] = []
    with atomic_path(path) as temporary, shard_writer(temporary) as writer:
        pairs = zip(ids, images, strict=True)
        while chunk := list(itertools.islice(pairs, ROW_GROUP)):
            records = list(_check(chunk, stage, quarantined))
            if records:
                writer.write_table(pa.Table.from_pylist(records, schema=IMAGES), row_group_size=ROW_GROUP)
    return quarantined


def shard_writer(path: Path) -> pq.ParquetWriter:
    """A writer of tables with the columns of `IMAGES`."""
    # Encoded images do not compress further, and statistics of them would only swell the footer.
    return pq.ParquetWriter(
        path,
        IMAGES,
        compression={"id": "zstd", "image": "none", "width": "zstd", "height": "zstd", "sha256": "zstd"},
        use_dictionary=["width", "height"],
        write_statistics=["id", "sha256"],
    )


def _check(
    chunk: list[tuple[str, Source]], stage: str, quarantined: list[QuarantineRow]
) -> Iterator[dict[str, object]]:
    sizes = iter(map_images(_size, [image for _, image in chunk if isinstance(image, bytes)]))
    for name, image in chunk:
        if isinstance(image, QuarantineRow):
            quarantined.append(image)
            continue
        size = next(sizes)
        if isinstance(size, BrokenImage):
            quarantined.append(QuarantineRow(stage=stage, reason=size.reason, detail=size.detail, id=name))
            continue
        digest = hashlib.sha256(image).hexdigest()
        yield {"id": name, "image": image, "width": size[0], "height": size[1], "sha256": digest}


def _size(image: bytes) -> tuple[int, int] | BrokenImage:
    try:
        return decode_image(image).size  # upright: after the EXIF orientation
    except BrokenImage as error:
        return error
