"""A crawl as crawlers leave it: Parquet shards and image folders with label files, cut from photographs."""

from __future__ import annotations

import io
import posixpath
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from PIL import Image
from sklearn.datasets import load_sample_images

CLASSES = ("church", "flower")
_PHOTOGRAPHS = load_sample_images().images  # china.jpg and flower.jpg, 427 x 640


def picture(number: int) -> Image.Image:
    """A piece of one of the two photographs; even numbers are of the first. Two numbers never show the same piece."""
    draw = np.random.default_rng(number)
    top, left = draw.integers(100, 300), draw.integers(0, 500)
    return Image.fromarray(_PHOTOGRAPHS[number % 2][top : top + 100, left : left + 100]).resize((64, 64))


def encoded(image: Image.Image, kind: str = "PNG", quality: int = 75) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": quality} if kind == "JPEG" else {}))
    return buffer.getvalue()


def rows(numbers: range, site: str = "a.example") -> list[dict[str, object]]:
    """Rows as a crawler writes them: every fifth label is wrong."""
    return [
        {
            "id": f"{number:04d}",
            "image": encoded(picture(number)),
            "label": CLASSES[(number + (number % 5 == 0)) % 2],
            "source": site,
        }
        for number in numbers
    ]


Write = Callable[[str, bytes], None]


def into(folder: Path) -> Write:
    """A writer of files below a folder."""

    def write(name: str, data: bytes) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    return write


def parquet_shard(write: Write, name: str, records: list[dict[str, object]]) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records), buffer, row_group_size=7)
    write(name, buffer.getvalue())


def folder_shard(write: Write, name: str, records: list[dict[str, object]], table: str = "labels.csv") -> None:
    """The images first, the label file last."""
    for record in records:
        write(posixpath.join(name, "images", f"{record['id']}.png"), record["image"])  # type: ignore[arg-type]
    label = [{key: value for key, value in record.items() if key != "image"} for record in records]
    paths = pa.Table.from_pylist([{**record, "path": f"images/{record['id']}.png"} for record in label])
    buffer = io.BytesIO()
    if table.endswith(".csv"):
        pa_csv.write_csv(paths, buffer)
    else:
        pq.write_table(paths, buffer)
    write(posixpath.join(name, table), buffer.getvalue())
