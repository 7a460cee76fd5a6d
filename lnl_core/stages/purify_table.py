"""`lnl purify`: purified labels for people with features from anywhere and no pipeline."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lnl_core.config import ConfigError, Settings
from lnl_core.contracts import (
    NO_LABEL,
    ContractError,
    Ids,
    IntArray,
    Labels,
    check_unique,
    metadata_of,
    positions,
    string_ids,
    write_purified,
    write_quarantine,
)
from lnl_core.features.user_table import UserFeatures, read_user_features
from lnl_core.labels.class_labels import UNKNOWN_LABEL, class_numbers, names_from
from lnl_core.labels.label_file import read_label_file
from lnl_core.purify.decide.decide import purify
from lnl_core.purify.decide.routes import RouteSettings
from lnl_core.purify.noise_metrics import noise_metrics
from lnl_core.s3 import Place, files_in, open_place
from lnl_core.stages.purify import purify_task

log = logging.getLogger("lnl")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the columns in the user's tables."""

    id: str = "id"
    feature: str = "feature"
    label: str = "label"


def purify_files(
    features: Place,
    labels: Place,
    trusted: Place | None,
    out: Path,
    *,
    method: str,
    config: Settings,
    seed: int,
    columns: Columns,
    class_names: Sequence[str] = (),
    trusted_columns: Columns | None = None,
    routes: RouteSettings | None = None,
) -> dict[str, Any]:
    """Purify the labels of `labels` and write `out` (purified.parquet as in the contract); only `out` must be local.

    Rows without a label are skipped; rows whose feature is not finite go to `<out stem>.quarantine.parquet`; trusted
    rows are left out of the output, and what `labels` says of them calibrates the transition matrix.

    Returns:
        The purifier's metrics, with `skipped` and `quarantined`.
    Raises:
        ConfigError, ContractError: with file, row and mend.
    """
    if out.suffix != ".parquet":
        raise ConfigError(f"--out {out}: must end in .parquet (soft labels are lists)")
    table = _read_tables(labels, trusted, columns, trusted_columns or columns, class_names)
    with tempfile.TemporaryDirectory(dir=_existing_parent(out), prefix=".lnl-") as scratch:
        found = read_user_features(features, columns.id, columns.feature, Path(scratch))
        table, skipped = _usable(table, found, str(features))
        noisy, held = table.take(table.where(trusted=False)), table.take(table.where(trusted=True))
        task = purify_task(found.select(noisy.ids, str(features)), noisy, found.tensor(held.ids, str(features)), held)
        purified, metrics = purify(method, config, task, noisy.ids, table.class_names, seed, routes=routes)
        metrics |= noise_metrics(task, seed)
    write_purified(out, purified)
    wanted = set(table.ids) | skipped
    quarantined = [row for row in found.quarantined if row.id in wanted]
    if quarantined:
        write_quarantine(out.with_suffix(".quarantine.parquet"), quarantined)
    return {**metrics, "quarantined": len(quarantined)}


def _read_tables(
    labels: Place, trusted: Place | None, columns: Columns, trusted_columns: Columns, class_names: Sequence[str]
) -> Labels:
    """Observed labels and trusted set as one table, sorted by id; rows without any label are dropped."""
    ids, raw = _read_labels(labels, columns)
    trusted_ids, trusted_raw = _read_labels(trusted, trusted_columns) if trusted else (string_ids([]), [])
    names = tuple(class_names) or _names_in(labels) or names_from(raw, trusted_raw)
    observed = _numbers(raw, ids, names, labels)
    verified = _numbers(trusted_raw, trusted_ids, names, trusted or labels)
    unlabelled = np.flatnonzero(verified == NO_LABEL)
    if len(unlabelled):
        raise ContractError(f"{trusted}: id {trusted_ids[unlabelled[0]]!r} has no label; a trusted row needs one")
    return _merge(ids, observed, trusted_ids, verified, names)


def _read_labels(path: Place, columns: Columns) -> tuple[Ids, list[object]]:
    """Ids and raw labels of a file, or of all Parquet and CSV files of a folder."""
    files = files_in(path, (".parquet", ".csv", ".tsv"))
    if not files:
        raise ConfigError(f"{path}: no such file, and no folder with .parquet, .csv or .tsv files; correct the path")
    tables = [read_label_file(file, columns.id, columns.label) for file in files]
    ids = string_ids([name for found, _ in tables for name in found])
    check_unique(ids, str(path))
    return ids, [label for _, found in tables for label in found]


def _names_in(labels: Place) -> tuple[str, ...]:
    """Class names in the metadata of a labels.parquet that this pipeline wrote."""
    if labels.suffix != ".parquet":
        return ()
    try:
        with open_place(labels) as file:
            return tuple(metadata_of(pq.read_schema(file)).get("class_names", ()))
    except (pa.ArrowInvalid, OSError):
        return ()


def _numbers(raw: Sequence[object], ids: Ids, names: tuple[str, ...], path: Place) -> IntArray:
    numbers = class_numbers(raw, names)
    bad = np.flatnonzero(numbers == UNKNOWN_LABEL)
    if len(bad):
        shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        raise ContractError(
            f"{path}: row {bad[0]} (id {ids[bad[0]]!r}): label {raw[bad[0]]!r} is no class ({len(bad)} such rows); "
            f"allowed are {shown} or 0 to {len(names) - 1}; correct it or name all classes with --classes"
        )
    return numbers


def _merge(ids: Ids, observed: IntArray, trusted_ids: Ids, verified: IntArray, names: tuple[str, ...]) -> Labels:
    every = string_ids(sorted({*ids[observed != NO_LABEL], *trusted_ids}))
    seen = np.full(len(every), NO_LABEL, dtype=np.int32)
    known = observed != NO_LABEL
    seen[positions(ids[known], every, "labels")] = observed[known]
    label, is_trusted = seen.copy(), np.zeros(len(every), dtype=bool)
    spots = positions(trusted_ids, every, "trusted")
    label[spots], is_trusted[spots] = verified, True
    split = string_ids(["train"] * len(every))
    return Labels(ids=every, label=label, observed_label=seen, trusted=is_trusted, split=split, class_names=names)


def _usable(table: Labels, features: UserFeatures, what: str) -> tuple[Labels, set[str]]:
    """The rows whose feature is there and finite; a label without a feature is an error, for it is a mix-up."""
    positions(table.ids, features.ids, what)
    bad = {row.id for row in features.quarantined}
    good = np.array([name not in bad for name in table.ids], dtype=bool)
    spare = len(features.ids) - len(table)
    if spare:
        log.info("%s: %d rows have no label and are not used", what, spare)
    return table.take(np.flatnonzero(good)), {str(name) for name in table.ids[~good]}


def _existing_parent(out: Path) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    return out.parent
