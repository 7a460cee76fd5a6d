"""The data contracts: Parquet tables joined on `id`, never on position, and the checks that guard them.

Every table is written atomically, sorted by id, so the same rows give the same bytes. Every reader checks schema,
uniqueness and ranges and raises `ContractError`, which names the file, the row and the mend.

    images/part-*.parquet    id, image (encoded bytes), width, height, sha256
    labels.parquet           id, label, observed_label, trusted, split; class names and protocol card in the metadata
    truth.parquet            id, true_label; read by inject and evaluate alone; no rows where no truth is known
    quarantine.parquet       id, path, stage, reason, detail
    provenance.parquet       id, shard, source, phash: of every image of a crawl; no rows for other datasets
    flags.parquet            id, kind, other, distance: near-duplicates in a crawl; no rows for other datasets
    features/part-*.parquet  id, feature: fixed_size_list<float16 | float32>[d]; encoder fingerprint in the metadata
    purified.parquet         id, label, purified_label, confidence, soft_label, changed, route
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lnl_core.files import atomic_path
from lnl_core.renamed import METRICS

Split = Literal["train", "val", "test"]
Route = Literal["keep", "relabel", "review"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
Ids = npt.NDArray[np.object_]  # python strings
IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
NO_LABEL = -1  # in memory; null in files

IMAGES = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
    ]
)
LABELS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("observed_label", pa.int32()),
        pa.field("trusted", pa.bool_(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
    ]
)
TRUTH = pa.schema([pa.field("id", pa.string(), nullable=False), pa.field("true_label", pa.int32(), nullable=False)])
QUARANTINE = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("path", pa.string()),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)
PROVENANCE = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("source", pa.string()),
        pa.field("phash", pa.uint64()),
    ]
)
FLAGS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # near-test, near-held-out or near-trusted
        pa.field("other", pa.string(), nullable=False),
        pa.field("distance", pa.int32(), nullable=False),  # bits of 64
    ]
)
PURIFIED = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("purified_label", pa.int32(), nullable=False),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("soft_label", pa.list_(pa.float32()), nullable=False),
        pa.field("changed", pa.bool_(), nullable=False),
        pa.field("route", pa.string(), nullable=False),
    ]
)


class ContractError(ValueError):
    """A table that breaks its contract. The message names the file, the row and the mend."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """labels.parquet in memory, sorted by id.

    `label` is what a method learns from: the observed label, or the verified one where `trusted`. `observed_label`
    is what the source said, kept beside a verified label because it calibrates the transition matrix; `NO_LABEL`
    where a trusted row never had one. Untrusted rows have `label == observed_label`.
    """

    ids: Ids  # [n]
    label: IntArray  # [n], 0..K-1
    observed_label: IntArray  # [n], 0..K-1 or NO_LABEL
    trusted: BoolArray  # [n]
    split: Ids  # [n], train | val | test
    class_names: tuple[str, ...]  # K names, in label order
    protocol: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # the noise protocol card

    def __len__(self) -> int:
        return len(self.ids)

    def where(self, *, split: Split | None = None, trusted: bool | None = None) -> npt.NDArray[np.intp]:
        """Row numbers of a split and/or of the (un)trusted rows."""
        mask = np.ones(len(self), dtype=bool)
        if split is not None:
            mask &= self.split == split
        if trusted is not None:
            mask &= self.trusted == trusted
        return np.flatnonzero(mask)

    def take(self, rows: npt.NDArray[np.intp]) -> Labels:
        """The given rows, in the given order."""
        columns = ("ids", "label", "observed_label", "trusted", "split")
        return dataclasses.replace(self, **{name: getattr(self, name)[rows] for name in columns})


@dataclass(frozen=True, kw_only=True)
class Truth:
    """truth.parquet in memory: true labels of benchmark data, sorted by id. Empty where no truth is known."""

    ids: Ids  # [n]
    true_label: IntArray  # [n]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class Purified:
    """purified.parquet in memory, sorted by id: the train rows that are not trusted."""

    ids: Ids  # [n]
    label: IntArray  # [n] observed
    purified_label: IntArray  # [n] what the purifier proposes
    confidence: FloatArray  # [n], 0..1: the method's probability that the purified label is right
    soft_label: FloatArray  # [n, K], rows sum to 1
    class_names: tuple[str, ...]
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # method, settings, version
    review: BoolArray | None = None  # [n] proposals too uncertain to apply; None: no promise was set, all are applied

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def changed(self) -> BoolArray:
        """[n] is the label to use another than the observed one?"""
        return np.asarray(self.label != self.applied_label)

    @property
    def route(self) -> Ids:
        """[n] keep: no other label is proposed; relabel: the proposal is applied; review: a person should look."""
        route = np.where(self.changed, "relabel", "keep").astype(object)
        if self.review is not None:
            route[self.review] = "review"
        return route

    @property
    def applied_label(self) -> IntArray:
        """[n] what to learn from: the purified label, and the observed one where the row goes to review."""
        if self.review is None:
            return self.purified_label
        return np.where(self.review, self.label, self.purified_label)


@dataclass(frozen=True, kw_only=True)
class QuarantineRow:
    """One image or label row that was set aside; the run goes on without it."""

    stage: str
    reason: str  # a short slug, e.g. truncated-image, label-out-of-range
    detail: str  # a sentence for a person: what was found and how to mend it
    id: str | None = None
    path: str | None = None


def write_labels(path: Path, labels: Labels) -> None:
    """Check, sort by id and write labels.parquet; metadata: class names, prior of the train rows, protocol card."""
    _check_labels(labels, str(path))
    order = np.argsort(labels.ids, kind="stable")
    labels = labels.take(order)
    train = labels.label[labels.split == "train"]
    prior = np.bincount(train, minlength=len(labels.class_names)) / max(len(train), 1)
    metadata = {
        "class_names": list(labels.class_names),
        "prior": [round(float(share), 8) for share in prior],
        "protocol": dict(labels.protocol),
    }
    observed = pa.array(labels.observed_label, pa.int32(), mask=labels.observed_label == NO_LABEL)
    columns = [
        pa.array(labels.ids, pa.string()),
        pa.array(labels.label, pa.int32()),
        observed,
        pa.array(labels.trusted, pa.bool_()),
        pa.array(labels.split, pa.string()),
    ]
    write_table(path, pa.Table.from_arrays(columns, schema=LABELS), metadata)


def read_labels(path: Path) -> Labels:
    """Read and check labels.parquet."""
    table, metadata = read_table(path, LABELS)
    card: Mapping[str, Any] = metadata.get("protocol", {})
    labels = Labels(
        ids=_strings(table, "id"),
        label=_ints(table, "label"),
        observed_label=_ints(table, "observed_label"),
        trusted=table["trusted"].to_numpy().astype(bool),
        split=_strings(table, "split"),
        class_names=tuple(metadata.get("class_names", ())),
        protocol={METRICS.get(key, key): value for key, value in card.items()},  # old keys: up to version 0.1.0
    )
    _check_labels(labels, str(path))
    return labels


def write_truth(path: Path, truth: Truth) -> None:
    """Check, sort by id and write truth.parquet."""
    check_unique(truth.ids, str(path))
    order = np.argsort(truth.ids, kind="stable")
    columns = [pa.array(truth.ids[order], pa.string()), pa.array(truth.true_label[order], pa.int32())]
    write_table(path, pa.Table.from_arrays(columns, schema=TRUTH), {})


def read_truth(path: Path) -> Truth:
    """Read truth.parquet. Only noise injection and evaluation may call this (a test holds it)."""
    table, _ = read_table(path, TRUTH)
    truth = Truth(ids=_strings(table, "id"), true_label=_ints(table, "true_label"))
    check_unique(truth.ids, str(path))
    return truth


def write_purified(path: Path, purified: Purified) -> None:
    """Check, sort by id and write purified.parquet."""
    _check_purified(purified, str(path))
    order = np.argsort(purified.ids, kind="stable")
    classes = len(purified.class_names)
    soft = purified.soft_label[order].astype(np.float32)
    offsets = np.arange(0, (len(order) + 1) * classes, classes, dtype=np.int32)
    columns = [
        pa.array(purified.ids[order], pa.string()),
        pa.array(purified.label[order], pa.int32()),
        pa.array(purified.purified_label[order], pa.int32()),
        pa.array(purified.confidence[order], pa.float32()),
        pa.ListArray.from_arrays(pa.array(offsets), pa.array(soft.ravel(), pa.float32())),
        pa.array(purified.changed[order], pa.bool_()),
        pa.array(purified.route[order], pa.string()),
    ]
    metadata: dict[str, Any] = {"class_names": list(purified.class_names), "about": dict(purified.about)}
    metadata["routed"] = purified.review is not None
    write_table(path, pa.Table.from_arrays(columns, schema=PURIFIED), metadata)


def read_purified(path: Path) -> Purified:
    """Read and check purified.parquet."""
    table, metadata = read_table(path, PURIFIED)
    class_names = tuple(metadata.get("class_names", ()))
    soft = table["soft_label"].combine_chunks()
    lengths = np.diff(soft.offsets.to_numpy())
    if (lengths != len(class_names)).any():
        row = int(np.flatnonzero(lengths != len(class_names))[0])
        _fail(path, f"row {row}: soft_label has {lengths[row]} values for {len(class_names)} classes")
    route = _strings(table, "route")
    purified = Purified(
        ids=_strings(table, "id"),
        label=_ints(table, "label"),
        purified_label=_ints(table, "purified_label"),
        confidence=table["confidence"].to_numpy().astype(np.float32),
        soft_label=soft.flatten().to_numpy().reshape(len(table), len(class_names)).astype(np.float32),
        class_names=class_names,
        about=metadata.get("about", {}),
        review=route == "review" if metadata.get("routed") else None,
    )
    _check_purified(purified, str(path))
    differs = np.flatnonzero(purified.route != route)
    if len(differs):
        row = int(differs[0])
        _fail(
            path,
            f"row {row} (id {purified.ids[row]!r}): route = {route[row]!r}, must be {purified.route[row]!r} for label "
            f"{purified.label[row]} and purified_label {purified.purified_label[row]}; purify again",
        )
    return purified


def write_provenance(path: Path, table: pa.Table) -> None:
    """Sort by id and write provenance.parquet; the table has the columns of `PROVENANCE`."""
    write_table(path, table.select(PROVENANCE.names).cast(PROVENANCE).sort_by("id"), {})


def read_sources(path: Path) -> tuple[Ids, Ids]:
    """(ids [n], source [n]) of provenance.parquet, sorted by id; the source is empty where the crawler names none."""
    table, _ = read_table(path, PROVENANCE)
    return _strings(table, "id"), string_ids(table["source"].fill_null("").to_pylist())


def write_flags(path: Path, table: pa.Table) -> None:
    """Sort by id and kind and write flags.parquet; the table has the columns of `FLAGS`."""
    write_table(path, table.select(FLAGS.names).cast(FLAGS).sort_by([("id", "ascending"), ("kind", "ascending")]), {})


def write_quarantine(path: Path, rows: Iterable[QuarantineRow]) -> None:
    """Write quarantine.parquet, sorted; an empty one says that nothing was set aside."""
    ordered = sorted(rows, key=lambda row: (row.stage, row.id or "", row.path or "", row.reason, row.detail))
    records = [dataclasses.asdict(row) for row in ordered]
    write_table(path, pa.Table.from_pylist(records, schema=QUARANTINE), {})


def read_quarantine(path: Path) -> list[QuarantineRow]:
    """Read quarantine.parquet."""
    table, _ = read_table(path, QUARANTINE)
    return [QuarantineRow(**row) for row in table.to_pylist()]


def positions(wanted: Ids, have: Ids, what: str) -> npt.NDArray[np.intp]:
    """Where each wanted id stands in `have`, so tables join on id and never on position.

    Raises:
        ContractError: an id of `wanted` is missing in `have` (`what` names that table).
    """
    order = np.argsort(have, kind="stable")
    spots = np.searchsorted(have, wanted, sorter=order)
    spots = np.minimum(spots, max(len(have) - 1, 0))
    found = have[order[spots]] == wanted if len(have) else np.zeros(len(wanted), dtype=bool)
    if not np.all(found):
        missing = wanted[~found]
        raise ContractError(
            f"{what}: has no row for id {missing[0]!r} ({len(missing)} of {len(wanted)} ids are missing); "
            "make both tables from the same rows"
        )
    return order[spots]


def check_unique(ids: Ids, where: str) -> None:
    """Raise if an id stands twice, naming it and both rows."""
    order = np.argsort(ids, kind="stable")
    twice = np.flatnonzero(ids[order][1:] == ids[order][:-1])
    if len(twice):
        first, second = sorted((int(order[twice[0]]), int(order[twice[0] + 1])))
        _fail(where, f"id {ids[first]!r} stands in rows {first} and {second}; ids must be unique: rename or drop one")


def check_range(values: IntArray, ids: Ids, classes: int, column: str, where: str) -> None:
    """Raise if a label is outside 0..classes-1, naming the row."""
    bad = np.flatnonzero((values < 0) | (values >= classes))
    if len(bad):
        row = int(bad[0])
        _fail(
            where,
            f"row {row} (id {ids[row]!r}): {column} = {values[row]}, allowed are 0 to {classes - 1}; "
            f"correct the label or drop the row ({len(bad)} such rows)",
        )


def write_table(path: Path, table: pa.Table, metadata: Mapping[str, Any]) -> None:
    """Write one Parquet file atomically with JSON metadata under the key `lnl`."""
    text = json.dumps(dict(metadata), sort_keys=True)
    table = table.replace_schema_metadata({"lnl": text})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_table(path: Path, schema: pa.Schema) -> tuple[pa.Table, dict[str, Any]]:
    """Read one Parquet file, check its columns against `schema`, return it with its `lnl` metadata.

    Raises:
        ContractError: missing or unreadable file, missing column, wrong type, or a null where none may be.
    """
    if not path.exists():
        _fail(path, "no such file; run the stage that writes it first (`lnl stage --help` lists them)")
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        _fail(path, f"not a readable Parquet file ({error}); delete it and run its stage again")
    for field in schema:
        if field.name not in table.column_names:
            _fail(path, f"has no column {field.name!r} (it has: {', '.join(table.column_names)})")
        if table.schema.field(field.name).type != field.type:
            _fail(path, f"column {field.name!r} is {table.schema.field(field.name).type}, must be {field.type}")
        if not field.nullable and table[field.name].null_count:
            row = table[field.name].is_null().to_pylist().index(True)
            _fail(path, f"row {row}: {field.name} is null; fill it or drop the row")
    return table, metadata_of(table.schema)


def metadata_of(schema: pa.Schema) -> dict[str, Any]:
    """The JSON metadata under the key `lnl`; empty where there is none."""
    raw = (schema.metadata or {}).get(b"lnl", b"{}")
    loaded: dict[str, Any] = json.loads(raw)
    return loaded


def parts(folder: Path) -> list[Path]:
    """The shards `part-*.parquet` of a folder, in order.

    Raises:
        ContractError: there are none.
    """
    found = sorted(folder.glob("part-*.parquet"))
    if not found:
        _fail(folder, "has no part-*.parquet; run the stage that writes it first")
    return found


def string_ids(ids: Sequence[str] | Ids) -> Ids:
    """Ids as an object array of python strings."""
    array = np.empty(len(ids), dtype=object)
    array[:] = [str(name) for name in ids]
    return array


def _check_labels(labels: Labels, where: str) -> None:
    if not labels.class_names:
        _fail(where, "the metadata has no class names; write the table with write_labels")
    check_unique(labels.ids, where)
    classes = len(labels.class_names)
    check_range(labels.label, labels.ids, classes, "label", where)
    has = labels.observed_label != NO_LABEL
    check_range(labels.observed_label[has], labels.ids[has], classes, "observed_label", where)
    bad = np.flatnonzero(~np.isin(labels.split.astype(str), SPLITS))
    if len(bad):
        _fail(
            where,
            f"row {bad[0]} (id {labels.ids[bad[0]]!r}): split = {labels.split[bad[0]]!r}, allowed: train, val, test",
        )
    bad = np.flatnonzero(~labels.trusted & (labels.label != labels.observed_label))
    if len(bad):
        _fail(where, f"row {bad[0]} (id {labels.ids[bad[0]]!r}): an untrusted row's label must be its observed_label")


def _check_purified(purified: Purified, where: str) -> None:
    check_unique(purified.ids, where)
    classes = len(purified.class_names)
    check_range(purified.label, purified.ids, classes, "label", where)
    check_range(purified.purified_label, purified.ids, classes, "purified_label", where)
    if purified.review is not None and (purified.review & (purified.label == purified.purified_label)).any():
        row = int(np.flatnonzero(purified.review & (purified.label == purified.purified_label))[0])
        _fail(where, f"row {row} (id {purified.ids[row]!r}): route = 'review', but no other label is proposed")
    rows = np.isfinite(purified.soft_label).all(axis=1) & (np.abs(purified.soft_label.sum(axis=1) - 1) < 1e-3)
    rows &= (purified.confidence >= 0) & (purified.confidence <= 1)
    if not rows.all():
        row = int(np.flatnonzero(~rows)[0])
        _fail(
            where,
            f"row {row} (id {purified.ids[row]!r}): soft_label {purified.soft_label[row]} must be finite and sum to 1, "
            f"confidence {purified.confidence[row]} must lie in 0..1",
        )


def _strings(table: pa.Table, column: str) -> Ids:
    return string_ids(table[column].to_pylist())


def _ints(table: pa.Table, column: str) -> IntArray:
    values: IntArray = table[column].fill_null(NO_LABEL).to_numpy().astype(np.int32)
    return values


def _fail(where: object, problem: str) -> NoReturn:
    raise ContractError(f"{where}: {problem}")
