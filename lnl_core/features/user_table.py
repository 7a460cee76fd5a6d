"""Features as people bring them: Parquet or CSV, a file or a folder of files, ids of any type, rows in any order.

They are written once, in order of id, to a memory-mapped scratch file, so that a purifier can stream them as often
as it likes in the order of the labels. Held in memory: the ids, and one batch of rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pa_csv
import torch
from jaxtyping import Float
from torch import Tensor

from lnl_core.config import ConfigError
from lnl_core.contracts import ContractError, FloatArray, Ids, QuarantineRow, check_unique, positions, string_ids
from lnl_core.s3 import Place, files_in, open_parquet, open_place

_BATCH = 8192  # rows converted at a time
_FORMATS = (".parquet", ".csv", ".tsv")


@dataclass(frozen=True, kw_only=True)
class UserFeatures:
    """Feature rows sorted by id, in a memory-mapped array."""

    ids: Ids  # [n]
    values: npt.NDArray[Any]  # [n, d] float16 or float32
    quarantined: tuple[QuarantineRow, ...]  # rows with NaN, infinity or nothing at all

    def select(self, ids: Ids, what: str) -> MappedRows:
        """The rows of `ids` (sorted), streamed; `what` names the table of features in messages."""
        return MappedRows(values=self.values, rows=positions(ids, self.ids, what))

    def tensor(self, ids: Ids, what: str) -> Float[Tensor, "rows width"]:
        """The rows of `ids` in memory, float32."""
        rows = positions(ids, self.ids, what)
        return torch.from_numpy(self.values[rows].astype(np.float32))


@dataclass(frozen=True, kw_only=True)
class MappedRows:
    """Some rows of an array, streamed in order; the `FeatureRows` of a purifier."""

    values: npt.NDArray[Any]
    rows: npt.NDArray[np.intp]

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, width)."""
        return (len(self.rows), self.values.shape[1])

    def batches(self) -> Iterator[tuple[slice, FloatArray]]:
        """Contiguous ranges with their features [b, d] in float32."""
        for start in range(0, len(self.rows), _BATCH):
            stop = min(start + _BATCH, len(self.rows))
            part = self.values[self.rows[start:stop]]
            yield slice(start, stop), torch.from_numpy(part).float().numpy()  # several times faster than astype


def read_user_features(path: Place, id_column: str, feature_column: str, scratch: Path) -> UserFeatures:
    """Features from `path`, local or on S3.

    A Parquet column of lists, or a CSV column of numbers set apart by spaces, commas or semicolons; or, in either
    format, one column a number, named `feature_column` and an index, e.g. feature0, feature_1, feature.2.

    Raises:
        ConfigError: no such path, or no file of a known format in it.
        ContractError: a missing column, rows of different width, text that is no number, an id that stands twice.
    """
    files = _files(path)
    ids = _read_ids(files, id_column)
    check_unique(ids, str(path))
    order = np.argsort(ids, kind="stable")
    place = np.empty(len(ids), dtype=np.intp)
    place[order] = np.arange(len(ids))
    values, finite = _lay_down(files, feature_column, place, scratch)
    ids = ids[order]
    return UserFeatures(ids=ids, values=values, quarantined=tuple(_set_aside(ids, finite, path)))


def _lay_down(
    files: list[Place], feature_column: str, place: npt.NDArray[np.intp], scratch: Path
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Write each row at its place in a memory-mapped array; returns it and which rows are finite."""
    array: npt.NDArray[Any] | None = None
    finite = np.ones(len(place), dtype=bool)
    done = 0
    for file in files:
        for batch in _batches(file, None):
            features = _matrix(batch, feature_column, file)
            if array is None:
                scratch.mkdir(parents=True, exist_ok=True)
                shape = (len(place), features.shape[1])
                array = np.lib.format.open_memmap(scratch / "features.npy", "w+", features.dtype, shape)
            if features.shape[1] != array.shape[1]:
                raise ContractError(
                    f"{file}: features are {features.shape[1]} wide, {array.shape[1]} before; encode all rows alike"
                )
            rows = place[done : done + len(features)]
            array[rows] = features
            finite[rows] = np.isfinite(features).all(axis=1)
            done += len(features)
    if array is None:
        raise ContractError(f"{files[0].parent}: has no rows; give at least one row of features")
    return array, finite


def _set_aside(ids: Ids, finite: npt.NDArray[np.bool_], path: Place) -> Iterator[QuarantineRow]:
    for row in np.flatnonzero(~finite):
        detail = f"{path}: the feature of id {ids[row]!r} is missing or holds NaN or infinity; encode the image again"
        yield QuarantineRow(stage="purify", reason="feature-not-finite", detail=detail, id=str(ids[row]))


def _files(path: Place) -> list[Place]:
    if isinstance(path, Path) and not path.exists():
        raise ConfigError(f"{path}: no such file or folder; correct the path")
    files = files_in(path, _FORMATS)
    if not files or files[0].suffix not in _FORMATS:
        raise ConfigError(f"{path}: not a {', '.join(_FORMATS)} file, nor a folder of such files")
    return files


def _read_ids(files: list[Place], id_column: str) -> Ids:
    columns = [_id_texts(batch, id_column, file) for file in files for batch in _batches(file, id_column)]
    return string_ids([text for column in columns for text in column])


def _id_texts(batch: pa.RecordBatch, name: str, file: Place) -> list[str]:
    if name not in batch.schema.names:
        raise ContractError(f"{file}: has no column {name!r} (it has: {', '.join(batch.schema.names)}); name it right")
    column = batch.column(name)
    if column.null_count:
        raise ContractError(f"{file}: {column.null_count} rows have no {name}; give every row an id")
    return [str(value) for value in column.to_pylist()]


def _batches(file: Place, only: str | None) -> Iterator[pa.RecordBatch]:
    """Record batches of a file; `only` reads one column, where it is there."""
    try:
        if file.suffix == ".parquet":
            reader = open_parquet(file, memory_map=True)
            columns = [only] if only in reader.schema_arrow.names else None
            yield from reader.iter_batches(_BATCH, columns=columns)
        else:
            yield from _csv_batches(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise ContractError(f"{file}: cannot be read as {file.suffix[1:]} ({error}); write it again") from error


def _csv_batches(file: Place) -> Iterator[pa.RecordBatch]:
    """Every column as text: ids such as 0007 must not turn into numbers."""
    delimiter = "\t" if file.suffix == ".tsv" else ","
    with open_place(file) as lines:
        names = lines.readline().decode("utf-8-sig").strip().split(delimiter)
    types = {name.strip('"'): pa.string() for name in names}
    with open_place(file) as lines:
        yield from pa_csv.open_csv(
            lines,
            parse_options=pa_csv.ParseOptions(delimiter=delimiter),
            convert_options=pa_csv.ConvertOptions(column_types=types, strings_can_be_null=False),
        )


def _matrix(batch: pa.RecordBatch, name: str, file: Place) -> npt.NDArray[Any]:
    """Features [b, d] of one batch; a missing one becomes a row of NaN."""
    if name in batch.schema.names:
        column = batch.column(name)
        if pa.types.is_string(column.type):
            return _parse_texts(column.to_pylist(), name, file)
        return _lists(column, name, file)
    wide = [other for other in batch.schema.names if _index_of(other, name) is not None]
    if not wide:
        raise ContractError(f"{file}: has no column {name!r} (it has: {', '.join(batch.schema.names)}); name it right")
    wide.sort(key=lambda other: _index_of(other, name) or 0)
    return np.column_stack([_numbers(batch.column(other), other, file) for other in wide])


def _lists(column: pa.Array, name: str, file: Place) -> npt.NDArray[Any]:
    kind = column.type
    if not (pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise ContractError(f"{file}: column {name!r} is {kind}, must hold lists of numbers")
    dtype = np.float16 if kind.value_type == pa.float16() else np.float32
    if pa.types.is_fixed_size_list(kind) and not column.null_count:
        return _as_float(column.flatten(), dtype).reshape(len(column), kind.list_size)
    rows = column.to_pylist()
    widths = {len(row) for row in rows if row is not None}
    if len(widths) != 1:
        raise ContractError(f"{file}: column {name!r} holds lists of {sorted(widths)[:5]} numbers; all must be as long")
    return _padded(rows, widths.pop(), dtype)


def _padded(rows: list[list[float] | None], width: int, dtype: Any) -> npt.NDArray[Any]:
    blank = [float("nan")] * width
    filled = [blank if row is None else [float("nan") if value is None else value for value in row] for row in rows]
    return np.array(filled, dtype=dtype).reshape(len(rows), width)


def _parse_texts(texts: list[str], name: str, file: Place) -> npt.NDArray[Any]:
    separators = str.maketrans("[](),;", "      ")
    try:
        rows = [[float(number) for number in text.translate(separators).split()] or None for text in texts]
    except ValueError as error:
        raise ContractError(f"{file}: column {name!r}: {error}; it must hold numbers set apart by spaces") from error
    widths = {len(row) for row in rows if row is not None}
    if len(widths) != 1:
        raise ContractError(f"{file}: column {name!r} holds {sorted(widths)[:5]} numbers a row; all must be as many")
    return _padded(rows, widths.pop(), np.float32)


def _numbers(column: pa.Array, name: str, file: Place) -> npt.NDArray[np.float32]:
    if pa.types.is_string(column.type):
        return _parse_texts(column.to_pylist(), name, file)[:, 0]
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise ContractError(f"{file}: column {name!r} is {column.type}, must hold numbers")
    return np.asarray(_as_float(column, np.float32))


def _as_float(values: pa.Array, dtype: Any) -> npt.NDArray[Any]:
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=dtype)  # a null becomes NaN


def _index_of(column: str, name: str) -> int | None:
    rest = column.removeprefix(name).lstrip("_.-") if column.startswith(name) else ""
    return int(rest) if rest.isdecimal() else None
