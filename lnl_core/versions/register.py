"""A finished run becomes a version: its tables are read once, the gate decides, the manifest is written."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from lnl_core import __version__
from lnl_core.config import ConfigError
from lnl_core.contracts import Labels, read_labels, read_purified
from lnl_core.evaluate.held_out import HeldOutTable, read_held_out, score_held_out
from lnl_core.files import file_sha256
from lnl_core.layout import Layout
from lnl_core.versions.artefacts import artefacts_of_folder, artefacts_of_lock
from lnl_core.versions.decision_text import record
from lnl_core.versions.gate import GateDecision, GateSettings, gate
from lnl_core.versions.label_changes import changes_of, difference, write_changes
from lnl_core.versions.manifest import Artefact, Manifest
from lnl_core.versions.store import VersionStore

NEEDED = ("labels", "purified", "held_out")  # names of Layout that `register` reads, besides metrics


@dataclass(frozen=True, kw_only=True)
class RunCard:
    """What the files of a run do not say."""

    run_id: str
    time: datetime
    commit: str | None = None
    params: Mapping[str, Any] | None = None
    lock: Mapping[str, Any] | None = None  # `stages` of its dvc.lock; None: the files are hashed


@dataclass(frozen=True, kw_only=True)
class _Tables:
    labels: Labels
    changes: pa.Table
    held_out: HeldOutTable


def register(store: VersionStore, paths: Layout, card: RunCard, settings: GateSettings) -> Manifest:
    """Add the run in `paths` to the store and say what the gate thinks of it; promotes nothing.

    A run that is registered already gives the version that it is.

    Raises:
        ConfigError: a table of the run is not there.
        ContractError: a table is broken.
    """
    if found := store.of_run(card.run_id):
        return found
    _check_finished(paths)
    tables = _read(paths)
    artefacts = artefacts_of_folder(paths) if card.lock is None else artefacts_of_lock(card.lock)

    def draft(number: int) -> Manifest:
        last = store.last_promotion()
        parent = store.version(last.version) if last else None
        decision = apply_gate(store, number, tables.held_out, tables.changes, parent, settings)
        return _manifest(number, paths, card, tables, artefacts, parent, decision)

    with tempfile.TemporaryDirectory(prefix="lnl-version-") as scratch:
        write_changes(Path(scratch) / "changes.parquet", tables.changes)
        files = {"held_out": paths.held_out, "changes": Path(scratch) / "changes.parquet"}
        return store.add(draft, {what: path.read_bytes() for what, path in files.items()})


def apply_gate(
    store: VersionStore,
    number: int,
    held_out: HeldOutTable,
    changes: pa.Table,
    other: Manifest | None,
    settings: GateSettings,
) -> GateDecision:
    """The gate's decision on version `number` against another one; None: nothing has been promoted."""
    if other is None:
        return gate(held_out, None, settings, version=number)
    labels = difference(changes, store.changes(other))
    return gate(held_out, store.held_out(other), settings, version=number, against=other.number, labels=labels)


def _check_finished(paths: Layout) -> None:
    for name in NEEDED:
        path: Path = getattr(paths, name)
        if not path.exists():
            raise ConfigError(f"{path}: no such file; a version is a run whose stages have run up to evaluate")


def _read(paths: Layout) -> _Tables:
    labels = read_labels(paths.labels)
    changes = changes_of(labels, read_purified(paths.purified))
    return _Tables(labels=labels, changes=changes, held_out=read_held_out(paths.held_out))


def _manifest(
    number: int,
    paths: Layout,
    card: RunCard,
    tables: _Tables,
    artefacts: Mapping[str, Artefact],
    parent: Manifest | None,
    decision: GateDecision,
) -> Manifest:
    kept = record(decision)
    return Manifest(
        number=number,
        key="",
        run_id=card.run_id,
        commit=card.commit,
        parent=parent.number if parent else None,
        created=card.time,
        package=__version__,
        params_sha256=None if card.params is None else params_sha256(card.params),
        listing_sha256=_listing_sha256(paths, card.params),
        class_names=tables.labels.class_names,
        rows=_rows(tables.labels),
        labels_changed=sum(route == "relabel" for route in tables.changes["route"].to_pylist()),
        held_out=score_held_out(tables.held_out),
        churn={**_scalars(paths.read_metrics("purify").get("churn") or {}), **kept["labels"]},
        artefacts=artefacts,
        gate_decision=kept,
    )


def run_name(paths: Layout) -> str:
    """A name for a run of a folder by what it made: the same files are the same version.

    Raises:
        ConfigError: a table of the run is not there.
    """
    _check_finished(paths)
    digest = hashlib.sha256("".join(file_sha256(getattr(paths, name)) for name in NEEDED).encode())
    return f"{paths.root.resolve().name}-{digest.hexdigest()[:12]}"


def params_sha256(params: Mapping[str, Any]) -> str:
    """Of the settings as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(params, sort_keys=True, default=str).encode()).hexdigest()


def _listing_sha256(paths: Layout, params: Mapping[str, Any] | None) -> str | None:
    crawl = ((params or {}).get("prepare") or {}).get("crawl") or {}
    listing = paths.root / "crawl" / "listing.json"
    if crawl.get("listing_sha256"):
        return str(crawl["listing_sha256"])
    return file_sha256(listing) if listing.exists() else None


def _rows(labels: Labels) -> dict[str, int]:
    return {
        "train": len(labels.where(split="train")),
        "val": len(labels.where(split="val")),
        "test": len(labels.where(split="test")),
        "trusted": len(labels.where(split="train", trusted=True)),
        "held_out": len(labels.where(split="val", trusted=True)),
    }


def _scalars(churn: Mapping[str, Any]) -> dict[str, Any]:
    """The counts and shares of the purifier's churn; its tables stay in the run's metrics."""
    return {name: value for name, value in churn.items() if isinstance(value, int | float | str)}
