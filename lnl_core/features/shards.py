"""Writing the feature cache: one shard of features for each shard of images, skipped where it is there already.

Columns are id: string and feature: fixed_size_list<float16 | float32>[width]; the metadata `lnl` of each shard holds
fingerprint (of the encoder), width, dtype and source (of the image shard). Values are stored plainly: features hardly
compress, and a reader then copies instead of decoding.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lnl_core.contracts import ContractError, FloatArray, Ids, metadata_of
from lnl_core.files import atomic_path

FeatureType = Literal["float16", "float32"]
ROWS_A_GROUP = 4096  # 4 MiB of 512 wide float16 features: what a streaming reader holds at a time
_ARROW: dict[str, pa.DataType] = {"float16": pa.float16(), "float32": pa.float32()}


@dataclass(frozen=True, kw_only=True)
class ShardKey:
    """What decides the bytes of a feature shard. Two shards with the same key are the same."""

    fingerprint: str  # of the encoder
    dtype: FeatureType
    source: str  # content hash of the image shard


def has_key(shard: Path, key: ShardKey) -> bool:
    """Is there a whole shard with this key? Reads its footer only."""
    try:
        about = metadata_of(pq.read_schema(shard))
    except (pa.ArrowInvalid, OSError):
        return False
    return (about.get("fingerprint"), about.get("dtype"), about.get("source")) == (
        key.fingerprint,
        key.dtype,
        key.source,
    )


def write_shard(path: Path, batches: Iterator[tuple[Ids, FloatArray]], key: ShardKey) -> int:
    """Write one shard atomically from batches (ids [b], features [b, width]); returns the number of rows.

    Holds one row group and one batch.

    Raises:
        ContractError: no rows, or a feature that is not finite or does not fit `key.dtype`; it names the image.
    """
    rows = 0
    with atomic_path(path) as temporary, contextlib.ExitStack() as stack:
        writer: Any = None
        for ids, features in _row_groups(batches):
            schema = feature_schema(features.shape[1], key)
            if writer is None:
                writer = stack.enter_context(_writer(temporary, schema))
            values = pa.array(_stored(features, key.dtype, ids, path).ravel(), _ARROW[key.dtype])
            column = pa.FixedSizeListArray.from_arrays(values, type=schema.field("feature").type)
            writer.write_table(pa.Table.from_arrays([pa.array(ids, pa.string()), column], schema=schema))
            rows += len(ids)
        if writer is None:
            raise ContractError(f"{path}: its image shard has no rows; run the stage prepare again")
    return rows


def feature_schema(width: int, key: ShardKey) -> pa.Schema:
    """The schema of a feature shard with its metadata. Nothing in it may be null, which also reads twice as fast."""
    element = pa.field("element", _ARROW[key.dtype], nullable=False)
    fields = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("feature", pa.list_(element, width), nullable=False),
    ]
    about = {"fingerprint": key.fingerprint, "dtype": key.dtype, "source": key.source, "width": width}
    return pa.schema(fields, {"lnl": json.dumps(about, sort_keys=True)})


def _writer(path: Path, schema: pa.Schema) -> Any:
    return pq.ParquetWriter(path, schema, compression="none", use_dictionary=False, write_statistics=False)


def _row_groups(batches: Iterator[tuple[Ids, FloatArray]]) -> Iterator[tuple[Ids, FloatArray]]:
    """Regroup batches of any size to ROWS_A_GROUP rows, the last group smaller."""
    ids: list[Ids] = []
    features: list[FloatArray] = []
    waiting = 0
    for batch_ids, batch in batches:
        start = 0
        while start < len(batch_ids):
            stop = min(start + ROWS_A_GROUP - waiting, len(batch_ids))
            ids.append(batch_ids[start:stop])
            features.append(batch[start:stop])
            waiting, start = waiting + stop - start, stop
            if waiting == ROWS_A_GROUP:
                yield np.concatenate(ids), np.concatenate(features)
                ids, features, waiting = [], [], 0
    if waiting:
        yield np.concatenate(ids), np.concatenate(features)


def _stored(features: FloatArray, dtype: FeatureType, ids: Ids, path: Path) -> npt.NDArray[Any]:
    bad = ~np.isfinite(features).all(axis=1)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ContractError(
            f"{path}: the feature of image {ids[row]!r} is not finite ({int(bad.sum())} such images); "
            "check the encoder's weights, or set run.precision: float32"
        )
    with np.errstate(over="ignore"):  # an overflow is found below, with the image's name
        stored = features.astype(dtype)
    large = ~np.isfinite(stored).all(axis=1)
    if large.any():
        row = int(np.flatnonzero(large)[0])
        raise ContractError(
            f"{path}: the feature of image {ids[row]!r} reaches {float(np.abs(features[row]).max()):.3g}, beyond "
            f"float16's 65504 ({int(large.sum())} such images); set features.dtype: float32"
        )
    return stored
