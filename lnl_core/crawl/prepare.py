"""Stage `prepare` for a crawl: its new shards are ingested, and the label table of all rows is made.

The texts that crawlers wrote become class numbers and splits, and pictures that are nearly those of test rows are set
aside. All of it is done anew for all rows each time, for the classes, the test set and the trusted set may have changed
since a row was ingested; no pixel is read for that. Held: ids, labels and 8 bytes of hash of all rows.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lnl_core.config import ConfigError
from lnl_core.contracts import (
    FLAGS,
    NO_LABEL,
    PROVENANCE,
    SPLITS,
    BoolArray,
    Ids,
    IntArray,
    Labels,
    QuarantineRow,
    string_ids,
)
from lnl_core.crawl.ingest import ROWS, IngestedShard, ingest
from lnl_core.crawl.near_duplicates import NOT_NEAR, nearest
from lnl_core.crawl.reader import CrawlReader
from lnl_core.crawl.settings import NearDuplicates
from lnl_core.images.phash import NO_PHASH
from lnl_core.labels.class_labels import UNKNOWN_LABEL, class_numbers
from lnl_core.labels.index import Index
from lnl_core.labels.prepared import (
    Prepared,
    PrepareRules,
    prepared_labels,
    refuse_misread,
    truth_of,
    usable_rows,
)
from lnl_core.runtime import Runtime

log = logging.getLogger("lnl")
NO_DAMAGE = ("duplicate-image", "id-taken", "near-duplicate-of-test", "near-duplicate-of-held-out")
MOST_SOURCES = 50  # named in the metrics, the largest first


@dataclass(frozen=True, kw_only=True)
class Crawled:
    """All rows of a crawl."""

    index: Index  # sorted by id; its quarantined rows are those of the ingest and those without a split
    provenance: pa.Table  # `PROVENANCE`, in the same order
    unknown_label: dict[str, str]  # id -> what is written there and is no class


def prepare_crawl(
    crawl: CrawlReader, rules: PrepareRules, work: Path, earlier: Sequence[tuple[Path, Path]], runtime: Runtime
) -> Prepared:
    """Bring `work/images` and `work/ingest` up to date with the listing, and make the tables.

    Args:
        earlier: folders (images, ingest) of runs from which shards may be taken; only the others are read.
    Raises:
        ConfigError: settings that draw rows, or a class without trusted row.
        ContractError: a shard that has to be read is gone or has changed, or more broken rows than allowed.
    """
    _refuse_draws(rules)
    ingested = ingest(crawl, work, earlier, rules.rows_per_shard)
    found, ahead = _crawled(crawl, ingested), list[str]()
    rows, missing = usable_rows(found.index, rules.trusted, ahead)
    quarantined = [*found.index.quarantined, *_named_labels(missing, found)]
    refuse_misread(_damaged(quarantined), len(rows.index) + len(quarantined), "crawl", rules)
    labels = prepared_labels(rows, rules, runtime)
    near = near_duplicates(labels, found.provenance, crawl.config.near_duplicates)
    return Prepared(
        labels=labels.take(np.flatnonzero(~near.aside)),
        truth=truth_of(rows.index.take(~near.aside)),
        quarantined=[*quarantined, *near.quarantined],
        provenance=found.provenance,
        flags=near.flags,
        test_images_elsewhere=0,  # a crawl keeps the first of equal images
        metrics=_metrics(ingested, near, listed=len(crawl.shards()), ahead=len(ahead)),
    )


def _refuse_draws(rules: PrepareRules) -> None:
    """Raise ConfigError for settings that draw rows: what they draw would change whenever the crawl grows."""
    if rules.trusted.source == "draw":
        raise ConfigError(
            "prepare.trusted.source = 'draw': a crawl grows, and each draw would be another; name a file of ids and "
            "verified labels (source: file)"
        )
    if rules.val_share:
        raise ConfigError(
            f"prepare.val_share = {rules.val_share}: a crawl grows, and each draw would be another; use "
            "prepare.trusted.held_out_share or prepare.crawl.split_column"
        )


def _crawled(crawl: CrawlReader, ingested: Sequence[IngestedShard]) -> Crawled:
    """The texts of all rows as class numbers and splits."""
    tables = [one.rows.append_column("shard", _repeated(one.shard.name, len(one.rows))) for one in ingested]
    empty = ROWS.empty_table().append_column("shard", pa.array([], pa.string()))
    rows = pa.concat_tables([empty, *tables]).sort_by("id").combine_chunks()
    ids, names = string_ids(rows["id"].to_pylist()), crawl.config.class_names
    split = np.array(rows["split"].fill_null("train").to_pylist(), dtype=object)
    observed, true = (_numbers(rows[column], names) for column in ("label", "true_label"))
    unknown = np.flatnonzero(observed == UNKNOWN_LABEL)
    texts = dict(zip(ids[unknown].tolist(), rows["label"].take(pa.array(unknown)).to_pylist(), strict=True))
    _apply_test_file(crawl, rows["id"], split, observed)
    good = np.isin(split.astype(str), SPLITS)
    index = Index(
        ids=ids,
        observed_label=np.maximum(observed, NO_LABEL).astype(np.int32),
        true_label=np.maximum(true, NO_LABEL).astype(np.int32),
        verified=np.zeros(len(ids), dtype=bool),  # the trusted file alone names who is verified
        split=split,
        class_names=names,
        quarantined=(*(row for one in ingested for row in one.quarantined), *_without_split(ids, split, ~good)),
    )
    return Crawled(index=index.take(good), provenance=rows.select(PROVENANCE.names), unknown_label=texts)


def _named_labels(missing: Iterable[QuarantineRow], found: Crawled) -> list[QuarantineRow]:
    """Rows without a label: those where nothing is written and those where it is no class."""
    names = ", ".join(found.index.class_names[:10]) + (", ..." if len(found.index.class_names) > 10 else "")

    def named(row: QuarantineRow) -> QuarantineRow:
        text = found.unknown_label.get(row.id or "")
        if text is None:
            return row
        detail = f"label {text!r}; allowed are {names}; the image is kept and counts once its class is named"
        return dataclasses.replace(row, reason="label-out-of-range", detail=detail)

    return [named(row) for row in missing]


@dataclass(frozen=True, kw_only=True)
class Near:
    """What the perceptual hashes have found."""

    flags: pa.Table  # `FLAGS`
    aside: BoolArray  # [rows of the label table] too near to a test or held-out row to be learned from
    quarantined: list[QuarantineRow]
    other_label: int  # rows near a trusted row whose observed label is not the verified one


def near_duplicates(labels: Labels, provenance: pa.Table, settings: NearDuplicates) -> Near:
    """Rows whose picture is nearly that of a test, held-out or trusted row."""
    aside = np.zeros(len(labels), dtype=bool)
    if not settings.enabled:
        return Near(flags=FLAGS.empty_table(), aside=aside, quarantined=[], other_label=0)
    place = pc.index_in(pa.array(labels.ids, pa.string()), value_set=provenance["id"].combine_chunks())
    hashes = provenance["phash"].fill_null(NO_PHASH).to_numpy()[place.to_numpy()]
    test, train = labels.split == "test", labels.split == "train"
    held_out = (labels.split == "val") & labels.trusted
    search = _Search(labels.ids, hashes, settings.distance)
    quarantined = []
    for kind, what, queries, references in (
        ("near-test", "test", ~test & ~held_out, test),
        ("near-held-out", "held-out", train, held_out),
    ):
        rows, others, bits = search.find(kind, queries & ~aside, references)
        aside[rows] = True
        pairs = zip(labels.ids[rows], others, bits.tolist(), strict=True)
        quarantined += [_too_near(name, what, other, count) for name, other, count in pairs]
    rows, others, _ = search.find("near-trusted", train & ~labels.trusted & ~aside, train & labels.trusted & ~aside)
    differ = labels.label[rows] != labels.label[search.rows_of(others)]
    return Near(flags=search.flags(), aside=aside, quarantined=quarantined, other_label=int(differ.sum()))


def _metrics(ingested: Sequence[IngestedShard], near: Near, listed: int, ahead: int) -> dict[str, Any]:
    """Counts for people; `new` are rows of shards that no earlier run had read."""
    if ahead:
        log.warning("prepare: %d trusted ids are not in the crawl (yet)", ahead)
    kinds = collections.Counter(near.flags["kind"].to_pylist())
    if kinds:
        log.warning(
            "prepare: nearly the same picture: %s", ", ".join(f"{kind} {n}" for kind, n in sorted(kinds.items()))
        )
    reasons = [row.reason for one in ingested for row in one.quarantined]
    return {
        "shards": {
            "listed": listed,
            "repeated": listed - len(ingested),
            "new": sum(one.new for one in ingested),
            "unusable": reasons.count("unusable-shard"),
        },
        "images": sum(len(one.rows) for one in ingested),
        "images_new": sum(len(one.rows) for one in ingested if one.new),
        "rows_by_source": _by_source(ingested),
        "rows_seen_before": sum(one.skipped for one in ingested),
        "near_duplicates": {**dict(sorted(kinds.items())), "near_trusted_with_another_label": near.other_label},
        "trusted_not_in_crawl": ahead,
    }


def _damaged(quarantined: Iterable[QuarantineRow]) -> list[QuarantineRow]:
    """Those that say something about the quality of the source; a crawl that is repeated daily has many others."""
    return [row for row in quarantined if row.reason not in NO_DAMAGE]


class _Search:
    """Near pairs among the rows of a label table, gathered as flags."""

    def __init__(self, ids: Ids, hashes: npt.NDArray[np.uint64], distance: int) -> None:
        self._ids = ids
        self._hashes = hashes
        self._distance = distance
        self._flags: list[pa.Table] = []

    def find(self, kind: str, queries: BoolArray, references: BoolArray) -> tuple[npt.NDArray[np.intp], Ids, IntArray]:
        """(rows of `queries` that are near one of `references`, ids of those, bits)."""
        has = self._hashes != NO_PHASH
        wanted, known = np.flatnonzero(queries & has), np.flatnonzero(references & has)
        found, bits = nearest(self._hashes[wanted], self._hashes[known], self._distance)
        near = found != NOT_NEAR
        rows, others, bits = wanted[near], self._ids[known[found[near]]], bits[near]
        columns = [self._ids[rows], _repeated(kind, len(rows)), others, bits]
        self._flags.append(pa.table(dict(zip(FLAGS.names, columns, strict=True)), schema=FLAGS))
        return rows, others, bits

    def rows_of(self, ids: Ids) -> npt.NDArray[np.intp]:
        """Row numbers of ids that are there."""
        return np.searchsorted(self._ids, ids)

    def flags(self) -> pa.Table:
        return pa.concat_tables(self._flags)


def _repeated(text: str, times: int) -> pa.Array:
    return pa.repeat(pa.scalar(text, pa.string()), times)


def _numbers(column: Any, class_names: Sequence[str]) -> IntArray:
    """Class numbers [n] of texts; each distinct text is looked up once."""
    encoded = column.combine_chunks().dictionary_encode()
    numbers = np.append(class_numbers(encoded.dictionary.to_pylist(), class_names), NO_LABEL).astype(np.int32)
    result: IntArray = numbers[encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)]
    return result


def _apply_test_file(crawl: CrawlReader, ids: Any, split: Ids, observed: IntArray) -> None:
    """Move the rows of `test_file` into the test split, with the label that stands there."""
    names, raw = crawl.test_labels()
    if not len(names):
        return
    row = pc.index_in(pa.array(names, pa.string()), value_set=ids.combine_chunks()).fill_null(-1).to_numpy()
    there = row >= 0
    if not there.all():
        log.warning("prepare: %d of %d test ids are not in the crawl (yet)", int((~there).sum()), len(names))
    split[row[there]] = "test"
    label = class_numbers([value for value, known in zip(raw, there, strict=True) if known], crawl.config.class_names)
    observed[row[there]] = np.where(label == NO_LABEL, observed[row[there]], label)


def _without_split(ids: Ids, split: Ids, wrong: BoolArray) -> list[QuarantineRow]:
    return [
        QuarantineRow(
            stage="prepare",
            reason="split-unknown",
            detail=f"split {split[row]!r}; allowed are {', '.join(SPLITS)}; the crawler must write one of them",
            id=ids[row],
        )
        for row in np.flatnonzero(wrong)
    ]


def _too_near(name: str, what: str, other: str, bits: int) -> QuarantineRow:
    detail = (
        f"differs from {what} row {other} in {bits} of 64 bits, so it is nearly that picture; it is not learned from"
    )
    return QuarantineRow(stage="prepare", reason=f"near-duplicate-of-{what}", detail=detail, id=name)


def _by_source(ingested: Sequence[IngestedShard]) -> dict[str, dict[str, int]]:
    """Rows old and new of each source, the largest sources first in choice; the rest together as `(others)`."""
    counts: dict[str, dict[str, int]] = {}
    for one in ingested:
        for counted in one.rows["source"].value_counts().to_pylist():
            of_source = counts.setdefault(counted["values"] or "(none)", {"old": 0, "new": 0})
            of_source["new" if one.new else "old"] += counted["counts"]
    largest = sorted(counts, key=lambda name: (-sum(counts[name].values()), name))
    for name in largest[MOST_SOURCES:]:
        rest = counts.setdefault("(others)", {"old": 0, "new": 0})
        for age, number in counts.pop(name).items():
            rest[age] += number
    return counts
