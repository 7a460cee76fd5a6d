"""Stage `prepare` for a dataset that does not grow: its index, its image shards and its label table.

A killed run goes on at its first unfinished shard. Beside each shard in the work folder stands a note: what it was made
of, and the rows that were set aside.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from lnl_core.config import Settings
from lnl_core.contracts import FLAGS, PROVENANCE, Ids, Labels, QuarantineRow, check_unique, parts
from lnl_core.files import read_json, write_json
from lnl_core.images.shards import Source, write_shard
from lnl_core.labels.index import Dataset, Index
from lnl_core.labels.prepared import (
    Prepared,
    PrepareRules,
    prepared_labels,
    refuse_misread,
    truth_of,
    usable_rows,
)
from lnl_core.progress import Advance, progress_bar
from lnl_core.runtime import Runtime
from lnl_core.s3 import states


def prepare_dataset(
    name: str, dataset: Dataset, options: Settings, rules: PrepareRules, work: Path, runtime: Runtime
) -> Prepared:
    """Write `work/images/part-*.parquet`, and make the tables.

    Args:
        options: of the dataset; shards of other options are made anew.
    Raises:
        ConfigError, ContractError: as the reader does; a class without trusted row; more broken rows than allowed.
    """
    index = dataset.index()
    check_unique(index.ids, f"dataset {name}")
    index = index.take(np.argsort(index.ids, kind="stable"))
    rows, missing = usable_rows(index, rules.trusted)
    source = _source_fingerprint(dataset, name, options)
    broken = _write_images(dataset, rows.index, source, rules.rows_per_shard, work)
    quarantined = [*index.quarantined, *missing, *broken]
    refuse_misread(quarantined, len(index) + len(index.quarantined), name, rules)
    ids, digests = _digests(work / "images")
    rows = rows.take(np.isin(rows.index.ids.astype(str), ids.astype(str)))
    labels = prepared_labels(rows, rules, runtime)
    return Prepared(
        labels=labels,
        truth=truth_of(rows.index),
        quarantined=quarantined,
        provenance=PROVENANCE.empty_table(),
        flags=FLAGS.empty_table(),
        test_images_elsewhere=_test_images_elsewhere(labels, digests),
        metrics={},
    )


def _write_images(dataset: Dataset, index: Index, source: str, rows_per_shard: int, work: Path) -> list[QuarantineRow]:
    """Write the shards; returns the rows whose image cannot be used."""
    quarantined: list[QuarantineRow] = []
    with progress_bar("prepare", len(index), "images") as advance:
        for number, start in enumerate(range(0, len(index), rows_per_shard)):
            rows = np.arange(start, min(start + rows_per_shard, len(index)))
            note = work / "notes" / f"part-{number:05d}.json"
            shard = work / "images" / f"part-{number:05d}.parquet"
            fingerprint = _shard_fingerprint(source, index.ids[rows])
            if not _is_done(shard, note, fingerprint):
                images = _counted(dataset.images(index, rows), advance)
                set_aside = write_shard(shard, list(index.ids[rows]), images, "prepare")
                records = [dataclasses.asdict(row) for row in set_aside]
                write_json(note, {"fingerprint": fingerprint, "quarantined": records})
            else:
                advance(len(rows))
            quarantined += [QuarantineRow(**record) for record in read_json(note)["quarantined"]]
    _drop_stale(work / "images", -(-len(index) // rows_per_shard))
    return quarantined


def _counted(images: Iterator[Source], advance: Advance) -> Iterator[Source]:
    for image in images:
        yield image
        advance()


def _is_done(shard: Path, note: Path, fingerprint: str) -> bool:
    return shard.exists() and note.exists() and read_json(note)["fingerprint"] == fingerprint


def _drop_stale(folder: Path, shards: int) -> None:
    """Remove what killed runs left: shards of other settings, and the half-written file of a kill that no code saw."""
    wanted = {f"part-{number:05d}.parquet" for number in range(shards)}
    for file in folder.glob("*"):
        if file.name not in wanted:
            file.unlink()


def _source_fingerprint(dataset: Dataset, name: str, options: Settings) -> str:
    digest = hashlib.sha256(json.dumps([name, options.model_dump(mode="json")], sort_keys=True).encode())
    for path, size, stamp in states(dataset.source_files()):
        digest.update(f"{path} {size} {stamp}\n".encode())
    return digest.hexdigest()


def _shard_fingerprint(source: str, ids: Ids) -> str:
    return hashlib.sha256("\n".join([source, *ids]).encode()).hexdigest()


def _digests(folder: Path) -> tuple[Ids, npt.NDArray[Any]]:
    """Ids and SHA-256 of all images, in order of id."""
    tables = [pq.read_table(part, columns=["id", "sha256"]) for part in parts(folder)]
    ids = np.array([name for table in tables for name in table["id"].to_pylist()], dtype=object)
    return ids, np.array([digest for table in tables for digest in table["sha256"].to_pylist()], dtype="S64")


def _test_images_elsewhere(labels: Labels, digests: npt.NDArray[Any]) -> int:
    """How many test images stand, byte for byte, among the train and val images too."""
    test = labels.split == "test"
    return int(np.isin(digests[test], digests[~test]).sum())
