"""A few images out of the shards, as data URIs: only the row groups that hold a wanted id are read."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from lnl_core.contracts import parts
from lnl_core.images.decode import BrokenImage, decode_image

LOSSLESS = 64  # pixels a side up to which PNG is small and every pixel counts
LARGEST = 160  # pixels a side; 80 in the page, sharp on a screen of double density


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """One image of the page."""

    uri: str
    width: int  # of the original
    height: int
    pixelated: bool  # enlarge by whole pixels, never blur


def thumbnails(folder: Path, ids: Collection[str]) -> dict[str, Thumbnail]:
    """Thumbnails of those ids that have an image. Holds one row group of encoded images at a time."""
    wanted = pa.array(sorted(set(ids)), pa.string())
    if not len(wanted) or not folder.is_dir():
        return {}
    found: dict[str, Thumbnail] = {}
    for part in parts(folder):
        file = pq.ParquetFile(part)
        for group in range(file.num_row_groups):
            if _may_hold(file.metadata.row_group(group), wanted):
                found |= _of_group(file, group, wanted)
    return found


def thumbnail(data: bytes) -> Thumbnail | None:
    """One encoded image made small; None where it cannot be decoded."""
    try:
        image = decode_image(data)
    except BrokenImage:
        return None
    width, height = image.size
    small = max(image.size) <= LOSSLESS
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    return Thumbnail(uri=_data_uri(image, "PNG" if small else "JPEG"), width=width, height=height, pixelated=small)


def _may_hold(group: pq.RowGroupMetaData, wanted: pa.Array) -> bool:
    statistics = next(
        (group.column(i).statistics for i in range(group.num_columns) if group.column(i).path_in_schema == "id"), None
    )
    if statistics is None or not statistics.has_min_max:
        return True
    inside = pc.and_(pc.greater_equal(wanted, statistics.min), pc.less_equal(wanted, statistics.max))
    return bool(pc.any(inside).as_py())


def _of_group(file: pq.ParquetFile, group: int, wanted: pa.Array) -> dict[str, Thumbnail]:
    mask = pc.is_in(file.read_row_group(group, columns=["id"])["id"], value_set=wanted)
    if not pc.any(mask).as_py():
        return {}
    rows = file.read_row_group(group, columns=["id", "image"]).filter(mask)
    made = {name: thumbnail(data) for name, data in zip(rows["id"].to_pylist(), rows["image"].to_pylist(), strict=True)}
    return {name: image for name, image in made.items() if image is not None}


def _data_uri(image: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=85, optimize=True)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
