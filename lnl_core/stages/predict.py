"""Prediction with a trained model: images in, labels out. No stage of the graph; what `lnl predict` runs.

Held in memory: the networks, one batch of images, and for a folder the list of its files.
"""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from lnl_core.config import ConfigError, ImageSettings
from lnl_core.contracts import ContractError, FloatArray, QuarantineRow, write_quarantine
from lnl_core.files import atomic_path
from lnl_core.images.decode import BrokenImage, decode_image, map_images, to_array
from lnl_core.images.image_files import read_image_file
from lnl_core.models.predictions import predict_probabilities
from lnl_core.models.saved import CONFIG, load_classifier
from lnl_core.progress import progress_bar
from lnl_core.runtime import Runtime

PREDICTIONS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("class_name", pa.string(), nullable=False),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("probabilities", pa.list_(pa.float32()), nullable=False),
    ]
)
Image = tuple[str, bytes | QuarantineRow]  # id, and the encoded bytes or why there are none
WriteRows = Callable[[list[str], FloatArray], None]


def predict(
    model: Path,
    source: Path,
    out: Path,
    batch_size: int,
    runtime: Runtime,
    *,
    id_column: str = "id",
    image_column: str = "image",
) -> dict[str, int]:
    """Label the images of `source`, row by row in its order.

    `model` is a classifier's folder, or one with `best/` in it. `source` is an image file, a folder that is searched
    for images (ids are paths relative to it), a folder of part-*.parquet, or one Parquet table with ids and encoded
    images. `out` is written as a whole at the end: .csv, or .parquet, which has the probabilities too. What cannot be
    read or decoded is listed in `<stem of out>.quarantine.parquet` beside it.

    Returns:
        counts: `images` looked at, `predicted`, `quarantined`.

    Raises:
        ConfigError: another extension of `out`, no such source, or a source without a single image or file.
        ContractError: a damaged model, or a table without the columns.
    """
    if out.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"{out}: the extension must be .csv or .parquet")
    images, total = _source(source, id_column, image_column)
    saved = load_classifier(model / "best" if (model / "best" / CONFIG).exists() else model)
    saved.ensemble.to(memory_format=torch.channels_last).to(runtime.device)  # type: ignore[call-overload]
    quarantined: list[QuarantineRow] = []
    predicted = 0
    with (
        atomic_path(out) as temporary,
        _writer(temporary, out.suffix, saved.class_names) as write,
        progress_bar("predicting", total, "images") as advance,
    ):
        while batch := list(islice(images, batch_size)):
            ids, pixels = _decoded(batch, saved.images, quarantined)
            if ids:
                write(ids, predict_probabilities(saved.ensemble, pixels, runtime, batch_size))
            predicted += len(ids)
            advance(len(batch))
    write_quarantine(out.with_name(f"{out.stem}.quarantine.parquet"), quarantined)
    return {"images": predicted + len(quarantined), "predicted": predicted, "quarantined": len(quarantined)}


def _source(source: Path, id_column: str, image_column: str) -> tuple[Iterator[Image], int]:
    """The images, and how many there are."""
    if source.is_dir():
        tables = sorted(source.glob("part-*.parquet"))
        if not tables:
            return _files(source)
    elif source.suffix == ".parquet" and source.is_file():
        tables = [source]
    elif source.is_file():
        return iter([(source.name, _read(source, source.name))]), 1
    else:
        raise ConfigError(f"{source}: no such file or folder; correct the path")
    opened = [_open_table(table, id_column, image_column) for table in tables]
    rows = sum(table.metadata.num_rows for table in opened)
    return _table_rows(tables, opened, id_column, image_column), rows


def _files(folder: Path) -> tuple[Iterator[Image], int]:
    """Every file below the folder that is not hidden, by relative path."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name).relative_to(folder).as_posix() for name in names if not name.startswith(".")]
    if not found:
        raise ConfigError(f"{folder}: has no files; give a folder with images")
    found.sort()
    return ((name, _read(folder / name, name)) for name in found), len(found)


def _read(path: Path, name: str) -> bytes | QuarantineRow:
    read = read_image_file(path, name)
    if isinstance(read, QuarantineRow):
        return QuarantineRow(stage="predict", reason=read.reason, detail=read.detail, id=name, path=read.path)
    return read


def _open_table(path: Path, id_column: str, image_column: str) -> pq.ParquetFile:
    try:
        table = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ContractError(f"{path}: not a readable Parquet file ({error}); write it again") from error
    names = table.schema_arrow.names
    for column in (id_column, image_column):
        if column not in names:
            raise ContractError(f"{path}: has no column {column!r} (it has: {', '.join(names)}); name it right")
    kind = table.schema_arrow.field(image_column).type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise ContractError(f"{path}: column {image_column!r} is {kind}, must be binary: the encoded image")
    return table


def _table_rows(paths: list[Path], tables: list[pq.ParquetFile], id_column: str, image_column: str) -> Iterator[Image]:
    for path, table in zip(paths, tables, strict=True):
        row = 0
        for batch in table.iter_batches(batch_size=64, columns=[id_column, image_column]):
            for name, image in zip(batch[id_column].to_pylist(), batch[image_column].to_pylist(), strict=True):
                yield _checked(name, image, path, row)
                row += 1


def _checked(name: Any, image: bytes | None, path: Path, row: int) -> Image:
    if name is not None and image is not None:
        return str(name), image
    what = "id" if name is None else "image"
    where = QuarantineRow(
        stage="predict",
        reason=f"missing-{what}",
        detail=f"row {row}: {what} is null; fill it or drop the row",
        id=None if name is None else str(name),
        path=str(path),
    )
    return str(name), where


def _decoded(
    batch: list[Image], settings: ImageSettings, quarantined: list[QuarantineRow]
) -> tuple[list[str], torch.Tensor]:
    """Ids and pixels [b, C, H, W] of what decodes; the rest is added to `quarantined`."""

    def pixels(data: bytes) -> Any:
        try:
            return to_array(decode_image(data), settings)
        except BrokenImage as error:
            return error

    decoded = iter(map_images(pixels, [image for _, image in batch if isinstance(image, bytes)]))
    ids, arrays = [], []
    for name, image in batch:
        if isinstance(image, QuarantineRow):
            quarantined.append(image)
            continue
        array = next(decoded)
        if isinstance(array, BrokenImage):
            quarantined.append(QuarantineRow(stage="predict", reason=array.reason, detail=array.detail, id=name))
        else:
            ids.append(name)
            arrays.append(array)
    return ids, torch.from_numpy(np.stack(arrays)) if arrays else torch.empty(0)


def _rows(ids: list[str], probabilities: FloatArray, class_names: tuple[str, ...]) -> Iterator[Mapping[str, Any]]:
    for name, row in zip(ids, probabilities, strict=True):
        label = int(row.argmax())
        yield {
            "id": name,
            "label": label,
            "class_name": class_names[label],
            "confidence": float(row[label]),
            "probabilities": row,
        }


@contextlib.contextmanager
def _writer(path: Path, suffix: str, class_names: tuple[str, ...]) -> Iterator[WriteRows]:
    """A function that appends predictions to a new file."""
    if suffix == ".parquet":
        with pq.ParquetWriter(path, PREDICTIONS, compression="zstd") as parquet:

            def write_parquet(ids: list[str], probabilities: FloatArray) -> None:
                records = list(_rows(ids, probabilities, class_names))
                parquet.write_table(pa.Table.from_pylist(records, schema=PREDICTIONS))

            yield write_parquet
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        columns = [field.name for field in PREDICTIONS if field.name != "probabilities"]
        lines = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        lines.writeheader()

        def write_csv(ids: list[str], probabilities: FloatArray) -> None:
            for row in _rows(ids, probabilities, class_names):
                lines.writerow({**row, "confidence": f"{row['confidence']:.6f}"})

        yield write_csv
