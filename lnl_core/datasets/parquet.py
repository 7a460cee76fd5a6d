"""Any Parquet table, a file or a folder of files, local or on S3, with encoded images or paths to them in one column.

The image column may be binary, a path (`path_column`), or the struct of bytes and path that data-set hubs write.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import model_validator

from lnl_core.config import ConfigError
from lnl_core.contracts import ContractError, Ids, QuarantineRow
from lnl_core.datasets import DATASETS
from lnl_core.datasets.label_table import TableColumns, index_from_table, table_ids
from lnl_core.images.image_files import read_image_file
from lnl_core.labels.index import Index
from lnl_core.labels.label_file import column
from lnl_core.s3 import Place, S3Path, below, files_in, in_order, locate, open_parquet

_BATCH = 128  # images read from a row group at a time


class ParquetConfig(TableColumns):
    """Where the table lies and what its columns are called."""

    path: str = ""  # a file, or a folder of *.parquet; s3://bucket/key or s3://bucket/prefix
    image_column: str = "image"  # encoded bytes; empty where path_column is set
    path_column: str = ""  # paths instead, relative to image_root
    image_root: str = ""  # may be on S3; empty: the folder of the table

    @model_validator(mode="after")
    def _needs_ids(self) -> ParquetConfig:
        if not self.id_column or not self.label_column:
            raise ValueError("id_column and label_column must be named")
        return self


@DATASETS.register(
    "parquet",
    config=ParquetConfig,
    summary="a Parquet file or folder with image bytes or paths and label columns; all names settable",
)
class ParquetTable:
    """Holds ids and labels. `images` holds what it has read ahead: nothing where the table is sorted by id as text,
    at most the encoded images of one call (one shard) where it is not; each row group is then read once a call."""

    def __init__(self, config: ParquetConfig) -> None:
        self._config = config
        self._files: list[Place] = []
        self._groups: list[tuple[int, int]] = []  # (file, row group within it)
        self._starts = np.zeros(1, dtype=np.int64)  # first row of each row group, counted over all files
        self._sorted_ids: Ids = np.empty(0, dtype=object)
        self._row_of: npt.NDArray[np.intp] = np.empty(0, dtype=np.intp)
        self._reader: _GroupReader | None = None

    def index(self) -> Index:
        self._files = _files(self._config.path)
        self._measure()
        columns: dict[str, list[object]] = {name: [] for name in self._config.columns()}
        for file in self._files:
            table = _read_columns(file, list(columns))
            for name in columns:
                columns[name] += column(table, name, file)
        index = index_from_table(columns, self._config, self._locate)
        ids = table_ids(columns[self._config.id_column])
        self._row_of = np.argsort(ids, kind="stable")
        self._sorted_ids = ids[self._row_of]
        return index

    def images(self, index: Index, rows: npt.NDArray[np.intp]) -> Iterator[bytes | QuarantineRow]:
        ids = index.ids[rows]
        source = self._row_of[np.searchsorted(self._sorted_ids, ids)]
        group = np.searchsorted(self._starts, source, side="right") - 1
        values = zip(self._values(source, group), ids, strict=True)
        if isinstance(self._image_root(), S3Path):  # many at a time, for each waits on the network
            yield from in_order(lambda pair: self._bytes(*pair), values)
        else:
            yield from (self._bytes(value, name) for value, name in values)

    def _values(self, source: npt.NDArray[np.intp], group: npt.NDArray[np.intp]) -> Iterator[Any]:
        """What stands in the image column of the given rows."""
        ahead: dict[int, Any] = {}  # source row -> image read with its row group, before its turn
        for row, number in zip(source, group, strict=True):
            if row not in ahead:
                ahead.update(self._read(int(number), np.sort(source[group == number])))
            yield ahead.pop(row)

    def _image_root(self) -> Place:
        return locate(self._config.image_root) if self._config.image_root else self._files[0].parent

    def source_files(self) -> Sequence[str]:
        return [str(file) for file in self._files or _files(self._config.path)]

    def _measure(self) -> None:
        sizes = []
        for number, file in enumerate(self._files):
            metadata = _open(file).metadata
            sizes += [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
            self._groups += [(number, group) for group in range(metadata.num_row_groups)]
        self._starts = np.cumsum([0, *sizes])[:-1]

    def _locate(self, row: int) -> str:
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        file = self._groups[group][0]
        first = next(number for number, (owner, _) in enumerate(self._groups) if owner == file)
        return f"{self._files[file]}: row {row - self._starts[first]}"

    def _read(self, group: int, rows: npt.NDArray[np.intp]) -> Iterator[tuple[int, Any]]:
        offsets = rows - self._starts[group]
        if self._reader is None or self._reader.group != group or self._reader.start > offsets[0]:
            file, within = self._groups[group]
            name = self._config.path_column or self._config.image_column
            self._reader = _GroupReader(self._files[file], within, name, group)
        for row, value in zip(rows, self._reader.read(offsets), strict=True):
            yield int(row), value

    def _bytes(self, value: Any, name: str) -> bytes | QuarantineRow:
        if isinstance(value, dict):  # bytes, and a path where there are none
            value = value.get("bytes") or value.get("path")
        if isinstance(value, str):
            return read_image_file(below(self._image_root(), value), name)
        if value is None:
            detail = "the image column is null; fill it or drop the row"
            return QuarantineRow(stage="prepare", reason="missing-image", detail=detail, id=name)
        return bytes(value)


class _GroupReader:
    """Reads one row group forwards, a batch at a time, and stays open, so that even a table written as one huge row
    group is read once and is never in memory as a whole."""

    def __init__(self, file: Place, within: int, name: str, group: int) -> None:
        reader = _open(file)
        if name not in reader.schema_arrow.names:
            raise ContractError(f"{file}: has no column {name!r} (it has: {', '.join(reader.schema_arrow.names)})")
        self.group = group
        self.start = 0  # offset of the batch in hand
        self._batches = reader.iter_batches(_BATCH, row_groups=[within], columns=[name])
        self._batch: pa.Array = pa.array([])

    def read(self, offsets: npt.NDArray[np.intp]) -> Iterator[Any]:
        """The values at ascending offsets."""
        for offset in offsets:
            while offset >= self.start + len(self._batch):
                self.start += len(self._batch)
                self._batch = next(self._batches).column(0)
            yield self._batch[int(offset) - self.start].as_py()


def _files(path: str) -> list[Place]:
    if not path:
        raise ConfigError("prepare.parquet.path is not set; set it to a Parquet file or a folder of them")
    files = files_in(locate(path), (".parquet",))
    if not files:
        raise ConfigError(f"prepare.parquet.path = {path!r}: no such file, or no *.parquet in it; correct the path")
    return files


def _open(file: Place) -> pq.ParquetFile:
    try:
        return open_parquet(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise ContractError(f"{file}: not a readable Parquet file ({error}); write it again") from error


def _read_columns(file: Place, names: list[str]) -> pa.Table:
    reader = _open(file)
    for name in names:
        if name not in reader.schema_arrow.names:
            raise ContractError(f"{file}: has no column {name!r} (it has: {', '.join(reader.schema_arrow.names)})")
    return reader.read(columns=names)
