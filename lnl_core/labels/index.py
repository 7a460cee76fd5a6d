"""What every reader gives: an index (light, in memory) and the encoded images (streamed)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from lnl_core.contracts import BoolArray, Ids, IntArray, QuarantineRow


@dataclass(frozen=True, kw_only=True)
class Index:
    """The rows of a dataset without their pixels. Labels are class numbers; `NO_LABEL` where there is none."""

    ids: Ids  # [n], unique
    observed_label: IntArray  # [n]; what the source says. NO_LABEL: no observed label (e.g. test rows with truth only)
    true_label: IntArray  # [n]; NO_LABEL where no truth is known
    verified: BoolArray  # [n]; a person vouches for `true_label`, so the row may be drawn into the trusted set
    split: Ids  # [n]; train | val | test
    class_names: tuple[str, ...]
    quarantined: tuple[QuarantineRow, ...] = field(default=())  # rows that the index itself had to set aside

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: npt.NDArray[Any]) -> Index:
        """The given rows (numbers or a mask); what was quarantined stays."""
        columns = ("ids", "observed_label", "true_label", "verified", "split")
        return dataclasses.replace(self, **{name: getattr(self, name)[rows] for name in columns})


@runtime_checkable
class Dataset(Protocol):
    """A reader. Built as `make(config)`, which opens nothing."""

    def __init__(self, config: Any) -> None: ...

    def index(self) -> Index:
        """All rows. Raises ContractError for a broken table, ConfigError for a missing path."""
        ...

    def images(self, index: Index, rows: npt.NDArray[np.intp]) -> Iterator[bytes | QuarantineRow]:
        """The encoded bytes of the given rows of `index`, in that order; a QuarantineRow where one cannot be read."""
        ...

    def source_files(self) -> Sequence[str]:
        """Paths whose names, sizes and times show whether the source has changed; empty for data inside a package."""
        ...
