"""Features as a caller has them, an array or a path, as rows that stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from lnl_core.contracts import ContractError, FloatArray, Ids, string_ids
from lnl_core.features.cache import FeatureCache
from lnl_core.features.user_table import MappedRows, UserFeatures, read_user_features
from lnl_core.purify.task import FeatureRows

Rows = npt.NDArray[np.intp]


@runtime_checkable
class FeatureSource(Protocol):
    """Features in the order of the caller's labels."""

    ids: Ids  # [n]
    order: Rows  # [n] the caller's row numbers in the order in which rows stream

    @property
    def width(self) -> int: ...

    def stream(self, rows: Rows) -> FeatureRows:
        """Some rows, in the order of `order`."""
        ...

    def take(self, rows: Rows) -> FloatArray:
        """Some rows in memory [m, d]."""
        ...


class ArrayFeatures:
    """An array in memory, or memory-mapped; converted to float32 a batch at a time."""

    def __init__(self, values: npt.NDArray[Any]) -> None:
        self.values = values
        self.ids = string_ids([str(row) for row in range(len(values))])
        self.order = np.arange(len(values))

    @property
    def width(self) -> int:
        return int(self.values.shape[1])

    def stream(self, rows: Rows) -> FeatureRows:
        return MappedRows(values=self.values, rows=rows)

    def take(self, rows: Rows) -> FloatArray:
        return np.asarray(self.values[rows], dtype=np.float32)


class CachedFeatures:
    """A feature cache as the stage `features` writes it: streams from its shards."""

    def __init__(self, path: Path, ids: Ids) -> None:
        self.cache = FeatureCache(path)
        self.ids, self.order = ids, np.argsort(ids, kind="stable")

    @property
    def width(self) -> int:
        return self.cache.shape[1]

    def stream(self, rows: Rows) -> FeatureRows:
        return self.cache.select(self.ids[rows])

    def take(self, rows: Rows) -> FloatArray:
        return self.cache.tensor(self.ids[rows]).numpy()


class TableFeatures:
    """A user's table, written once into a memory-mapped scratch file.

    Raises:
        ContractError: a feature is missing or not finite.
    """

    def __init__(self, path: Path, ids: Ids, scratch: Path) -> None:
        self.path = path
        self.table: UserFeatures = read_user_features(path, "id", "feature", scratch)
        wanted = set(ids)
        bad = [row for row in self.table.quarantined if row.id in wanted]
        if bad:
            raise ContractError(f"{bad[0].detail}, or leave its label out ({len(bad)} such rows)")
        self.ids, self.order = ids, np.argsort(ids, kind="stable")

    @property
    def width(self) -> int:
        return int(self.table.values.shape[1])

    def stream(self, rows: Rows) -> FeatureRows:
        return self.table.select(self.ids[rows], str(self.path))

    def take(self, rows: Rows) -> FloatArray:
        return self.table.tensor(self.ids[rows], str(self.path)).numpy()


def open_path(path: Path, ids: Ids, scratch: Path) -> CachedFeatures | TableFeatures:
    """A folder of part-*.parquet is a feature cache; anything else a table with columns `id` and `feature`."""
    if path.is_dir() and next(path.glob("part-*.parquet"), None) is not None:
        return CachedFeatures(path, ids)
    return TableFeatures(path, ids, scratch)


def as_array(features: Any) -> Any:
    """A torch tensor as numpy (bfloat16, which numpy lacks, as float32); anything else as it is."""
    if not isinstance(features, torch.Tensor):
        return features
    return (features.float() if features.dtype == torch.bfloat16 else features).numpy(force=True)
