"""What a training method held of its rows, epoch by epoch: the one file that its analysis plots are made of.

A method writes it without knowing any truth; `evaluate` reads it beside the truth. One Parquet table a traced epoch,
joined on id like every other table; at most `MOST` epochs are traced, evenly spaced, so a long run on a million rows
stays small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lnl_core.contracts import Ids, read_table, string_ids, write_table
from lnl_core.renamed import COLUMNS

MOST = 24  # epochs that are traced: enough for a curve
TRACE = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("selected", pa.bool_(), nullable=True),
        pa.field("clean", pa.float32(), nullable=True),
        pa.field("predicted", pa.int32(), nullable=True),
        pa.field("loss", pa.float32(), nullable=True),
    ]
)


@dataclass(frozen=True, kw_only=True)
class TraceEpoch:
    """One epoch; a column is None where the method has nothing of the kind. Rows that sat the epoch out are absent."""

    epoch: int  # 1 is the first
    ids: Ids  # [n], sorted
    selected: npt.NDArray[np.bool_] | None = None  # [n] rows whose label was learned from as it is
    clean: npt.NDArray[np.float32] | None = None  # [n] the method's probability that the label is right
    predicted: npt.NDArray[np.int32] | None = None  # [n] the class that the method holds to be the true one
    loss: npt.NDArray[np.float32] | None = None  # [n] cross-entropy with the label, scaled as the method splits it
    mixture: Mapping[str, list[float]] = field(default_factory=dict)  # means, variances, weights of a split by loss


def traced_epochs(epochs: int, most: int = MOST) -> frozenset[int]:
    """Which of 1..epochs are traced: all, or `most` of them from the first to the last, evenly spaced."""
    return frozenset(int(epoch) for epoch in np.unique(np.linspace(1, epochs, min(epochs, most)).round()))


def write_trace(folder: Path, trace: TraceEpoch) -> None:
    """Write `epoch-NNNN.parquet` into `folder`, atomically."""
    columns: list[Any] = [pa.array(trace.ids, pa.string())]
    for name in ("selected", "clean", "predicted", "loss"):
        values = getattr(trace, name)
        kind = TRACE.field(name).type
        columns.append(pa.nulls(len(trace.ids), kind) if values is None else pa.array(values, kind))
    metadata = {"epoch": trace.epoch, "mixture": dict(trace.mixture)}
    write_table(folder / f"epoch-{trace.epoch:04d}.parquet", pa.Table.from_arrays(columns, schema=TRACE), metadata)


def read_trace(path: Path) -> TraceEpoch:
    """Read one epoch's table."""
    table, metadata = read_table(path, _schema_of(path))
    table = table.rename_columns([COLUMNS.get(name, name) for name in table.column_names])

    def column(name: str) -> Any:
        values = table[name]
        return None if values.null_count == len(values) else values.to_numpy()

    return TraceEpoch(
        epoch=int(metadata["epoch"]),
        ids=string_ids(table["id"].to_pylist()),
        selected=column("selected"),
        clean=column("clean"),
        predicted=column("predicted"),
        loss=column("loss"),
        mixture=metadata["mixture"],
    )


def trace_files(folder: Path) -> list[Path]:
    """The tables of a folder in order of epochs; none where there is no folder."""
    return sorted(folder.glob("epoch-*.parquet"))


def _schema_of(path: Path) -> pa.Schema:
    """TRACE with the column names of a file: up to version 0.1.0 some were others."""
    try:
        names = pq.read_schema(path).names
    except (pa.ArrowInvalid, OSError):
        return TRACE  # `read_table` says what is wrong with the file
    before = {now: name for name, now in COLUMNS.items() if name in names}
    return pa.schema([field.with_name(before.get(field.name, field.name)) for field in TRACE])
