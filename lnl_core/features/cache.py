"""Reading the feature cache: by row group through a memory map, as batches or as one tensor, joined on id."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from torch import Tensor

from lnl_core.contracts import ContractError, FloatArray, Ids, check_unique, metadata_of, parts, positions, string_ids

Features = npt.NDArray[Any]  # [rows, width], float16 or float32
_TYPES = {pa.float16(): "float16", pa.float32(): "float32"}


@dataclass(frozen=True, kw_only=True)
class _Group:
    """A row group: where it lies and which rows of the whole cache it holds."""

    path: Path
    number: int
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class _Footer:
    """What a shard says about itself."""

    width: int
    dtype: str
    fingerprint: str


class FeatureCache:
    """A folder of part-*.parquet, or a single Parquet file, with columns `id` and `feature`.

    Opening it reads footers only. It holds the ids once they are needed, and a row group while it streams.

    Raises:
        ContractError: no shards, an unreadable one, a wrong column, or shards of different width, type or encoder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._groups: list[_Group] = []
        shards = parts(path) if path.is_dir() else [path]
        self._footer = self._add(shards[0])
        for shard in shards[1:]:
            _check_same(shard, self._add(shard), shards[0], self._footer)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, width)."""
        return (self._groups[-1].stop if self._groups else 0, self._footer.width)

    @property
    def dtype(self) -> str:
        """float16 or float32: how the features are stored."""
        return self._footer.dtype

    @property
    def fingerprint(self) -> str:
        """The encoder's; empty for a file that does not say."""
        return self._footer.fingerprint

    @property
    def shards(self) -> list[tuple[Path, int, int]]:
        """(file, its first row, the row after its last) in order; a file without rows is left out."""
        found: dict[Path, tuple[Path, int, int]] = {}
        for group in self._groups:
            first = found[group.path][1] if group.path in found else group.start
            found[group.path] = (group.path, first, group.stop)
        return list(found.values())

    @cached_property
    def ids(self) -> Ids:
        """All ids, in the order of the rows."""
        columns = [np.empty(0, dtype=object)]
        for path in dict.fromkeys(group.path for group in self._groups):
            columns.append(string_ids(pq.read_table(path, columns=["id"], memory_map=True)["id"].to_pylist()))
        ids = np.concatenate(columns)
        check_unique(ids, str(self.path))
        return ids

    def batches(self, rows: int | None = None) -> Iterator[tuple[Ids, FloatArray]]:
        """(ids [b], features [b, width] in float32) in order: a row group at a time, or at most `rows` of one."""
        for group, features in self._read(self._groups):
            step = rows or max(len(features), 1)
            for start in range(0, len(features), step):
                batch = features[start : start + step].astype(np.float32)
                yield self.ids[group.start + start : group.start + start + len(batch)], batch

    def tensor(self, ids: Ids | None = None, dtype: torch.dtype | None = torch.float32) -> Float[Tensor, "rows width"]:
        """Features of the given ids in their order (all, where None), in `dtype` or, where None, as stored.

        Holds the result and one row group; row groups without a wanted id are not read.

        Raises:
            ContractError: an id without a feature.
        """
        wanted = np.arange(len(self.ids)) if ids is None else positions(ids, self.ids, str(self.path))
        order = np.argsort(wanted, kind="stable")
        ascending = wanted[order]
        found = torch.empty(len(wanted), self.shape[1], dtype=dtype or getattr(torch, self.dtype))
        for start, stop, group, features in self._read_rows(ascending):
            rows = torch.from_numpy(features[ascending[start:stop] - group.start])
            found[torch.from_numpy(order[start:stop])] = rows.to(found.dtype)
        return found

    def in_cache_order(self, ids: Ids) -> npt.NDArray[np.intp]:
        """The order [n] in which `ids` stand in the cache: `cache.select(ids[order])` streams.

        Where the parts were ingested one after the other (a crawl), the cache is sorted by id within a part alone, and
        a table sorted by id must be brought into this order before its features can stream.

        Raises:
            ContractError: an id without a feature.
        """
        return np.argsort(positions(ids, self.ids, str(self.path)), kind="stable")

    def select(self, ids: Ids) -> FeatureSelection:
        """The features of some rows, streamed. `ids` must stand in the order of the cache: see `in_cache_order`.

        Raises:
            ContractError: an id without a feature, or rows that are not in the order of `ids`.
        """
        rows = positions(ids, self.ids, str(self.path))
        falling = np.flatnonzero(np.diff(rows) <= 0)
        if len(falling):
            first, second = ids[falling[0]], ids[falling[0] + 1]
            raise ContractError(
                f"{self.path}: id {second!r} does not stand after {first!r}, so the rows do not stream in the order of "
                "`ids`; bring the ids into the order of the cache (`in_cache_order`), each id once"
            )
        return FeatureSelection(cache=self, rows=rows)

    def _read_rows(self, rows: npt.NDArray[np.intp]) -> Iterator[tuple[int, int, _Group, Features]]:
        """(start, stop, group, its features) for each row group that holds rows[start:stop]; `rows` ascend."""
        bounds = {group: np.searchsorted(rows, (group.start, group.stop)) for group in self._groups}
        needed = [group for group, (start, stop) in bounds.items() if stop > start]
        for group, features in self._read(needed):
            start, stop = bounds[group]
            yield int(start), int(stop), group, features

    def _read(self, groups: list[_Group]) -> Iterator[tuple[_Group, Features]]:
        reader, opened = None, None
        for group in groups:
            if group.path != opened:
                reader, opened = pq.ParquetFile(group.path, memory_map=True), group.path
            assert reader is not None
            column = reader.read_row_group(group.number, columns=["feature"])["feature"].combine_chunks()
            yield group, self._checked(column, group)

    def _checked(self, column: Any, group: _Group) -> Features:
        """A row group's features as an array [rows, width] without a copy."""
        first = group.start - next(other.start for other in self._groups if other.path == group.path)
        if column.null_count:
            row = column.is_null().to_pylist().index(True)
            raise ContractError(f"{group.path}: row {first + row}: feature is null; fill it or drop the row")
        values = column.flatten()
        features: Features = values.to_numpy(zero_copy_only=values.null_count == 0)  # a null within becomes NaN
        features = features.reshape(len(column), self.shape[1])
        finite = np.isfinite(features).all(axis=1)
        if not finite.all():
            row = int(np.flatnonzero(~finite)[0])
            raise ContractError(
                f"{group.path}: row {first + row} (id {self.ids[group.start + row]!r}): feature is not finite; "
                "delete the file and run the stage features again, or correct the row"
            )
        return features

    def _add(self, shard: Path) -> _Footer:
        try:
            metadata = pq.read_metadata(shard)
        except (pa.ArrowInvalid, OSError) as error:
            raise ContractError(f"{shard}: not a readable Parquet file ({error}); write it again") from error
        footer = _footer(shard, metadata.schema.to_arrow_schema())
        start = self._groups[-1].stop if self._groups else 0
        for number in range(metadata.num_row_groups):
            rows = metadata.row_group(number).num_rows
            self._groups.append(_Group(path=shard, number=number, start=start, stop=start + rows))
            start += rows
        return footer


@dataclass(frozen=True, kw_only=True)
class FeatureSelection:
    """Some rows of a cache, streamed in order as often as needed; holds one row group."""

    cache: FeatureCache
    rows: npt.NDArray[np.intp]  # ascending

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, width)."""
        return (len(self.rows), self.cache.shape[1])

    def parts(self) -> list[tuple[slice, FeatureSelection]]:
        """The selection's rows of each shard, to be read alone; shards without any are left out."""
        found, start = [], 0
        for path, first, last in self.cache.shards:
            stop = start + int(np.searchsorted(self.rows[start:], last))
            if stop > start:
                part = FeatureSelection(cache=FeatureCache(path.absolute()), rows=self.rows[start:stop] - first)
                found.append((slice(start, stop), part))
            start = stop
        return found

    def batches(self) -> Iterator[tuple[slice, FloatArray]]:
        """Contiguous ranges of the selection with their features [b, width] in float32."""
        for start, stop, group, features in self.cache._read_rows(self.rows):
            yield slice(start, stop), features[self.rows[start:stop] - group.start].astype(np.float32)


def _footer(shard: Path, schema: pa.Schema) -> _Footer:
    for name in ("id", "feature"):
        if name not in schema.names:
            raise ContractError(f"{shard}: has no column {name!r} (it has: {', '.join(schema.names)})")
    kind = schema.field("feature").type
    if schema.field("id").type != pa.string():
        raise ContractError(f"{shard}: column 'id' is {schema.field('id').type}, must be string")
    if not pa.types.is_fixed_size_list(kind) or kind.value_type not in _TYPES:
        raise ContractError(f"{shard}: column 'feature' is {kind}, must be fixed_size_list<float16 or float32>")
    fingerprint = str(metadata_of(schema).get("fingerprint", ""))
    return _Footer(width=kind.list_size, dtype=_TYPES[kind.value_type], fingerprint=fingerprint)


def _check_same(shard: Path, footer: _Footer, first_shard: Path, first: _Footer) -> None:
    for what in ("width", "dtype", "fingerprint"):
        if getattr(footer, what) != getattr(first, what):
            raise ContractError(
                f"{shard}: {what} is {getattr(footer, what)!r}, but {getattr(first, what)!r} in {first_shard.name}; "
                "the shards are of different encoders: delete them and run the stage features again"
            )
