"""Stage `prepare`: any dataset to image shards, labels, truth and quarantine.

It reads the light index first, then streams the encoded images in order of id, decodes each once to see that it can
be decoded, and writes them as they came. A broken image or label goes to quarantine with a reason and the run goes on.
A killed run starts again at its first unfinished shard; the files are the same either way.
Held in memory: the index (ids and labels), one SHA-256 an image, and one row group of encoded images.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from pydantic import Field, SerializeAsAny, field_validator

from lnl_core.config import Settings
from lnl_core.contracts import (
    FLAGS,
    NO_LABEL,
    PROVENANCE,
    SPLITS,
    ContractError,
    Ids,
    IntArray,
    Labels,
    QuarantineRow,
    Truth,
    check_unique,
    parts,
    write_flags,
    write_labels,
    write_provenance,
    write_quarantine,
    write_truth,
)
from lnl_core.crawl.ingest import ingest
from lnl_core.crawl.prepare import (
    crawl_metrics,
    crawled,
    damaged,
    named_labels,
    near_duplicates,
    refuse_draws,
)
from lnl_core.crawl.reader import CrawlReader
from lnl_core.datasets import DATASETS
from lnl_core.files import atomic_folder, read_json, write_json
from lnl_core.images.shards import Source, write_shard
from lnl_core.labels.index import Dataset, Index
from lnl_core.labels.trusted_rows import (
    TrustedSettings,
    drawn_labels,
    held_out_rows,
    held_out_val_labels,
    labels_from_file,
    refuse_empty_classes,
)
from lnl_core.progress import Advance, progress_bar
from lnl_core.runtime import Runtime
from lnl_core.s3 import states
from lnl_core.stages.stage import Metrics, Stage, StageContext, section_with_methods

log = logging.getLogger("lnl")


class PrepareSettings(Settings):
    """Section `prepare`; each dataset has a sub-section of its own."""

    dataset: str = "digits"
    rows_per_shard: int = Field(default=10_000, ge=1)  # 1 GB of photographs at 100 kB each; thousands of CIFAR's
    max_quarantined_share: float = Field(default=0.5, ge=0.0, le=1.0)  # above it the source is misread, not damaged
    val_share: float = Field(default=0.0, ge=0.0, lt=1.0)  # of each class's train rows, where the source has no val
    trusted: TrustedSettings = Field(default_factory=TrustedSettings)
    options: dict[str, SerializeAsAny[Settings]]

    @field_validator("dataset")
    @classmethod
    def _known(cls, name: str) -> str:
        DATASETS.get(name)
        return name


@dataclasses.dataclass(frozen=True)
class _Rows:
    """The index and, row for row, the verified label of each trusted row (`NO_LABEL` for all others)."""

    index: Index
    trusted: IntArray

    def take(self, rows: npt.NDArray[Any]) -> _Rows:
        return _Rows(self.index.take(rows), self.trusted[rows])


def run(settings: PrepareSettings, context: StageContext) -> Metrics:
    """Read the dataset, write its tables, return counts."""
    paths, work = context.paths, context.paths.resume("prepare")
    dataset = DATASETS.get(settings.dataset).make(settings.options[settings.dataset])
    if isinstance(dataset, CrawlReader):
        return _run_crawl(dataset, settings, context)
    rows, quarantined = _labelled_rows(dataset, settings)
    total = len(rows.index) + len(quarantined)
    quarantined += _write_images(dataset, rows.index, settings, work)
    _check_share(quarantined, total, settings)
    ids, digests = _digests(work / "images")
    rows = rows.take(np.isin(rows.index.ids.astype(str), ids.astype(str)))
    labels = _labels(rows, settings, context.runtime)
    write_labels(paths.source_labels, labels)
    write_truth(paths.truth, _truth(rows.index))
    write_quarantine(paths.quarantine, quarantined)
    write_provenance(paths.provenance, PROVENANCE.empty_table())
    write_flags(paths.flags, FLAGS.empty_table())
    _move(work / "images", paths.images)
    with atomic_folder(paths.ingest):
        pass  # of crawls alone
    return _metrics(labels, quarantined, _leaks(labels, digests), settings)


def _run_crawl(crawl: CrawlReader, settings: PrepareSettings, context: StageContext) -> Metrics:
    """The same for a crawl: only shards that no earlier run has read are read (`crawl_ingest.py`)."""
    paths, work, before = context.paths, context.paths.resume("prepare"), context.paths.previous
    refuse_draws(settings.trusted, settings.val_share)
    earlier = [(paths.images, paths.ingest), (before.images, before.ingest)]
    ingested = ingest(crawl, work, earlier, settings.rows_per_shard)
    found, ahead = crawled(crawl, ingested), list[str]()
    rows, missing = _labelled(found.index, settings, ahead)
    quarantined = [*found.index.quarantined, *named_labels(missing, found)]
    _check_share(damaged(quarantined), len(rows.index) + len(quarantined), settings)
    labels = _labels(rows, settings, context.runtime)
    near = near_duplicates(labels, found.provenance, crawl.config.near_duplicates)
    labels = labels.take(np.flatnonzero(~near.aside))
    quarantined += near.quarantined
    write_labels(paths.source_labels, labels)
    write_truth(paths.truth, _truth(rows.index.take(~near.aside)))
    write_quarantine(paths.quarantine, quarantined)
    write_provenance(paths.provenance, found.provenance)
    write_flags(paths.flags, near.flags)
    _move(work / "images", paths.images)
    _move(work / "ingest", paths.ingest)
    own = crawl_metrics(ingested, near, listed=len(crawl.shards()), ahead=len(ahead))
    return {**_metrics(labels, quarantined, 0, settings), **own}


def _labelled_rows(dataset: Dataset, settings: PrepareSettings) -> tuple[_Rows, list[QuarantineRow]]:
    """The rows that have a label to go by, sorted by id, and those that were set aside."""
    index = dataset.index()
    check_unique(index.ids, f"dataset {settings.dataset}")
    index = index.take(np.argsort(index.ids, kind="stable"))
    rows, missing = _labelled(index, settings, None)
    return rows, [*index.quarantined, *missing]


def _labelled(index: Index, settings: PrepareSettings, ahead: list[str] | None) -> tuple[_Rows, list[QuarantineRow]]:
    """The rows that have a label to go by, and the others. Only test and verified rows may go by their true label.

    `ahead`: gets the trusted ids that are no row; None: they are an error.
    """
    trusted = np.full(len(index), NO_LABEL, dtype=np.int32)
    if settings.trusted.source == "file":
        trusted = labels_from_file(index, settings.trusted, ahead)
    has = (index.observed_label != NO_LABEL) | (trusted != NO_LABEL)
    has |= (index.true_label != NO_LABEL) & (index.verified | (index.split == "test"))
    missing = [_missing_label(name) for name in index.ids[~has]]
    return _Rows(index, trusted).take(has), missing


def _missing_label(name: str) -> QuarantineRow:
    detail = "the source gives no label for this row; label it or drop it"
    return QuarantineRow(stage="prepare", reason="missing-label", detail=detail, id=name)


def _truth(index: Index) -> Truth:
    known = index.true_label != NO_LABEL
    return Truth(ids=index.ids[known], true_label=index.true_label[known])


def _write_images(dataset: Dataset, index: Index, settings: PrepareSettings, work: Path) -> list[QuarantineRow]:
    quarantined: list[QuarantineRow] = []
    source = _source_fingerprint(dataset, settings)
    with progress_bar("prepare", len(index), "images") as advance:
        for number, start in enumerate(range(0, len(index), settings.rows_per_shard)):
            rows = np.arange(start, min(start + settings.rows_per_shard, len(index)))
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
    _drop_stale(work / "images", -(-len(index) // settings.rows_per_shard))
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


def _source_fingerprint(dataset: Dataset, settings: PrepareSettings) -> str:
    options = settings.options[settings.dataset].model_dump(mode="json")
    digest = hashlib.sha256(json.dumps([settings.dataset, options], sort_keys=True).encode())
    for path, size, stamp in states(dataset.source_files()):
        digest.update(f"{path} {size} {stamp}\n".encode())
    return digest.hexdigest()


def _shard_fingerprint(source: str, ids: Ids) -> str:
    return hashlib.sha256("\n".join([source, *ids]).encode()).hexdigest()


def _check_share(quarantined: list[QuarantineRow], rows: int, settings: PrepareSettings) -> None:
    if not rows:
        raise ContractError(f"dataset {settings.dataset}: no rows at all; check its path and columns")
    share = len(quarantined) / rows
    if share > settings.max_quarantined_share or len(quarantined) == rows:
        reasons = ", ".join(f"{reason} {count}" for reason, count in _by_reason(quarantined).items())
        first = quarantined[0]
        raise ContractError(
            f"dataset {settings.dataset}: {len(quarantined)} of {rows} rows cannot be used ({reasons}), more than "
            f"prepare.max_quarantined_share = {settings.max_quarantined_share}. First: {first.id or first.path}: "
            f"{first.detail}"
        )


def _by_reason(quarantined: list[QuarantineRow]) -> dict[str, int]:
    return dict(sorted(collections.Counter(row.reason for row in quarantined).items()))


def _digests(folder: Path) -> tuple[Ids, npt.NDArray[Any]]:
    """Ids and SHA-256 of all images, in order of id."""
    tables = [pq.read_table(part, columns=["id", "sha256"]) for part in parts(folder)]
    ids = np.array([name for table in tables for name in table["id"].to_pylist()], dtype=object)
    return ids, np.array([digest for table in tables for digest in table["sha256"].to_pylist()], dtype="S64")


def _labels(rows: _Rows, settings: PrepareSettings, runtime: Runtime) -> Labels:
    index, verified = rows.index, rows.trusted
    if settings.trusted.source == "draw":
        verified = drawn_labels(index, settings.trusted, runtime.numpy_generator("prepare", "trusted"))
    held_out = held_out_rows(index.ids, verified, settings.trusted, index.class_names)
    if settings.trusted.source != "none":
        counts = np.bincount(verified[(verified != NO_LABEL) & ~held_out], minlength=len(index.class_names))
        refuse_empty_classes(counts.tolist(), index.class_names, settings.trusted)
    own_val = held_out_val_labels(index, settings.trusted)
    verified = np.where(own_val != NO_LABEL, own_val, verified)
    trusted = verified != NO_LABEL
    observed = np.where(index.observed_label != NO_LABEL, index.observed_label, index.true_label).astype(np.int32)
    return Labels(
        ids=index.ids,
        label=np.where(trusted, verified, observed).astype(np.int32),
        observed_label=np.where(trusted, index.observed_label, observed).astype(np.int32),
        trusted=trusted,
        split=np.where(held_out, "val", _splits(index, observed, trusted, settings, runtime)).astype(object),
        class_names=index.class_names,
    )


def _splits(
    index: Index,
    label: IntArray,
    trusted: npt.NDArray[np.bool_],
    settings: PrepareSettings,
    runtime: Runtime,
) -> Ids:
    split, generator = index.split.copy(), runtime.numpy_generator("prepare", "val")
    if not settings.val_share:
        return split
    if (split == "val").any():
        log.info("prepare.val_share is not used: the source has a val split of its own")
        return split
    for number in range(len(index.class_names)):
        rows = np.flatnonzero((split == "train") & (label == number))
        free = generator.permutation(rows[~trusted[rows]])
        split[free[: round(settings.val_share * len(rows))]] = "val"
    return split


def _leaks(labels: Labels, digests: npt.NDArray[Any]) -> int:
    """How many test images stand, byte for byte, among the train and val images too."""
    test = labels.split == "test"
    return int(np.isin(digests[test], digests[~test]).sum())


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(source, target)


def _metrics(labels: Labels, quarantined: list[QuarantineRow], leaks: int, settings: PrepareSettings) -> dict[str, Any]:
    if leaks:
        log.warning("prepare: %d test images stand in the train or val split too", leaks)
    learned = labels.trusted & (labels.split == "train")
    trusted = np.bincount(labels.label[learned], minlength=len(labels.class_names))
    return {
        "dataset": settings.dataset,
        "rows": {split: int((labels.split == split).sum()) for split in SPLITS},
        "classes": len(labels.class_names),
        "trusted": int(learned.sum()),
        "trusted_held_out": len(labels.where(split="val", trusted=True)),
        "trusted_per_class": dict(zip(labels.class_names, trusted.tolist(), strict=True)),
        "quarantined": len(quarantined),
        "quarantined_by_reason": _by_reason(quarantined),
        "test_images_also_in_train_or_val": leaks,
    }


STAGE = Stage(
    name="prepare",
    summary="Read a dataset into image shards, labels, truth and quarantine.",
    settings=section_with_methods("prepare", PrepareSettings, DATASETS),
    run=run,
    reads=(),
    writes=("images", "source_labels", "truth", "quarantine", "provenance", "flags", "ingest"),
    shared=("run.seed",),
)
