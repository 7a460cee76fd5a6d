"""A published dataset as the first shards of a growing crawl (`lnl crawl import`).

What the source says of a train row becomes its label. Val and test rows come without one: their labels are verified and
go to trusted.csv and test.csv, with those of verified train rows. So no observed label of the crawl is better than a
crawler's, and the trusted set may grow by adding lines to a file.
"""

from __future__ import annotations

import collections
import csv
import hashlib
import itertools
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from lnl_core.config import Params
from lnl_core.contracts import NO_LABEL, IntArray, QuarantineRow, metadata_of
from lnl_core.files import atomic_path
from lnl_core.images.shards import ROW_GROUP
from lnl_core.labels.index import Dataset, Index
from lnl_core.progress import progress_bar

log = logging.getLogger("lnl")
ROWS_A_SHARD = 50_000  # 1 GB of photographs at 20 kB each
_COMPRESSION = {"id": "zstd", "image": "none", "label": "zstd", "source": "zstd"}  # images do not compress further
SHARD = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("source", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What was written."""

    rows: int
    shards: int
    trusted: int
    test: int
    left_out: dict[str, int]  # reason -> rows without an image or a label
    class_names: tuple[str, ...]


def import_dataset(name: str, dataset: Dataset, out: Path, rows_a_shard: int = ROWS_A_SHARD) -> Imported:
    """Write out/shards/NAME-00000.parquet and on, out/trusted.csv and out/test.csv; goes on where it was killed.

    Holds ids and labels, and one row group of encoded images. Images are not decoded: `prepare` does that.

    Args:
        name: of the dataset; the shards are named after it, and it is the source of their rows.
    Raises:
        ConfigError, ContractError: as the reader does.
    """
    index = dataset.index()
    index = index.take(_order(index))
    reasons = collections.Counter(row.reason for row in index.quarantined)
    with progress_bar("import", len(index), "images") as advance:
        starts = range(0, len(index), rows_a_shard)
        for number, start in enumerate(starts):
            rows = np.arange(start, min(start + rows_a_shard, len(index)))
            path = out / "shards" / f"{name}-{number:05d}.parquet"
            reasons.update(_write_shard(path, dataset, index, rows, name))
            advance(len(rows))
    verified = index.verified & (index.true_label != NO_LABEL)
    trusted, test = verified & (index.split != "test"), verified & (index.split == "test")
    _write_labels(out / "trusted.csv", index, trusted)
    _write_labels(out / "test.csv", index, test)
    return Imported(
        rows=len(index),
        shards=len(starts),
        trusted=int(trusted.sum()),
        test=int(test.sum()),
        left_out=dict(sorted(reasons.items())),
        class_names=index.class_names,
    )


def _order(index: Index) -> npt.NDArray[np.intp]:
    """By id, but test rows before verified rows before all others: of two equal images a crawl keeps the first."""
    verified = index.verified & (index.true_label != NO_LABEL)
    rank = np.where(index.split == "test", 0, np.where(verified, 1, 2))
    by_id = np.argsort(index.ids, kind="stable")
    return by_id[np.argsort(rank[by_id], kind="stable")]


def _write_shard(path: Path, dataset: Dataset, index: Index, rows: npt.NDArray[np.intp], source: str) -> dict[str, int]:
    """One shard, unless it is there; returns why rows were left out."""
    label = np.where(index.split[rows] == "train", index.observed_label[rows], NO_LABEL).astype(np.int32)
    key = hashlib.sha256("\n".join([source, *index.ids[rows], *map(str, label)]).encode()).hexdigest()
    if path.exists() and metadata_of(pq.read_schema(path)).get("key") == key:
        gone = len(rows) - pq.read_metadata(path).num_rows
        return {"left-out-before": gone} if gone else {}
    left_out: collections.Counter[str] = collections.Counter()
    schema = SHARD.with_metadata({"lnl": json.dumps({"key": key})})
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, compression=_COMPRESSION) as writer:
        records = _records(dataset, index, rows, label, left_out)
        while chunk := list(itertools.islice(records, ROW_GROUP)):
            table = pa.Table.from_pylist([{**record, "source": source} for record in chunk], schema=schema)
            writer.write_table(table, row_group_size=ROW_GROUP)
    return left_out


def _records(
    dataset: Dataset,
    index: Index,
    rows: npt.NDArray[np.intp],
    label: IntArray,
    left_out: collections.Counter[str],
) -> Iterator[dict[str, object]]:
    for row, number, image in zip(rows, label, dataset.images(index, rows), strict=True):
        if isinstance(image, QuarantineRow):
            left_out[image.reason] += 1
            log.warning("import: %s is left out: %s", image.id, image.detail)
        else:
            text = index.class_names[number] if number != NO_LABEL else None
            yield {"id": index.ids[row], "image": image, "label": text}


def _write_labels(path: Path, index: Index, rows: npt.NDArray[np.bool_]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label"])
        writer.writerows(zip(index.ids[rows], (index.class_names[k] for k in index.true_label[rows]), strict=True))


def write_params(path: Path, params: Params, out: Path, done: Imported) -> None:
    """The params file `path`, unless it is there: `params` with the imported crawl for a dataset."""
    if path.exists():
        return
    out = out.resolve()  # stages run in worktrees elsewhere
    crawl = {"path": str(out / "shards"), "class_names": list(done.class_names)}
    crawl |= {"test_file": str(out / "test.csv")} if done.test else {}
    trusted = {"source": "file", "file": str(out / "trusted.csv")} if done.trusted else {"source": "none"}
    held_out = params.get("prepare", {}).get("trusted", {}).get("held_out_share", 0.0)
    trusted |= {"held_out_share": held_out} if done.trusted else {}
    merged = {**params, "prepare": {"dataset": "crawl", "crawl": crawl, "trusted": trusted}}
    text = yaml.safe_dump(merged, sort_keys=False, default_flow_style=None, width=110)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
