"""What is appended to a ledger: the labels of a purified table, a person's corrections, or the inverse of a run.

Each is a plan: from the latest row of each id to the rows that lead to the wanted labels. Asking twice for the same
labels therefore appends nothing the second time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lnl_core import __version__
from lnl_core.config import ConfigError
from lnl_core.contracts import NO_LABEL, BoolArray, ContractError, Purified, check_unique, read_purified, string_ids
from lnl_core.files import file_sha256
from lnl_core.labels.class_labels import UNKNOWN_LABEL, class_numbers
from lnl_core.labels.label_file import column, read_user_table
from lnl_core.ledger.store import CHANGES, Card, Ledger, Run

Names = npt.NDArray[np.object_]  # class names; None where there is no label


@dataclass(frozen=True, kw_only=True)
class Appended:
    """What came of it."""

    run: Run | None  # None: the labels were as wanted already
    rows: int  # that the call names
    kept_by_person: int = 0  # rows that a person has set, which no purifier changes
    undecided: int = 0  # rows of a review that nobody has filled in


def commit_purified(ledger: Ledger, path: Path, time: datetime) -> Appended:
    """Make the ledger's labels those of a purified table: relabelled where its route says so, else as observed.

    A row that an earlier run changed and this table keeps goes back to its observed label. Rows set by a person stay.

    Raises:
        ContractError: not a purified table.
    """
    purified = read_purified(path)
    names = np.array(purified.class_names, dtype=object)
    observed, wanted = names[purified.label], names[purified.applied_label]
    about = {**purified.about, "sha256": file_sha256(path)}
    card = Card(
        source="purify",
        method=str(purified.about.get("method", "unknown")),
        version=str(purified.about.get("version", "unknown")),
        class_names=purified.class_names,
        about=about,
    )
    kept = 0

    def plan(latest: pa.Table) -> tuple[Card, pa.Table]:
        nonlocal kept
        now, source = _now(latest, purified.ids)
        current = np.where(now == None, observed, now)  # noqa: E711
        differs = np.asarray(current != wanted, dtype=bool)
        person = np.asarray(source == "person", dtype=bool)
        kept = int((differs & person).sum())
        return card, _purified_changes(purified, current, wanted, differs & ~person)

    run = ledger.append(plan, time)
    return Appended(run=run, rows=len(purified), kept_by_person=kept)


def apply_reviewed(
    ledger: Ledger,
    path: Path,
    time: datetime,
    *,
    reviewer: str,
    id_column: str = "id",
    label_column: str = "label",
    class_names: Sequence[str] = (),
) -> Appended:
    """Append what a person says: a CSV or Parquet file of ids and labels; a row without a label is left for later.

    A label that is confirmed is a row too (from = to), for it is knowledge, and no purifier changes it afterwards.
    Where the file has a column `observed_label`, as the list for review does, it is the label before the first change.

    Raises:
        ConfigError: no such file, or no class names known.
        ContractError: an id that stands twice, or a label that is no class; with its row.
    """
    table = read_user_table(path)
    ids, raw = string_ids([str(value) for value in column(table, id_column, path)]), column(table, label_column, path)
    check_unique(ids, str(path))
    names = tuple(class_names) or _known_classes(ledger)
    wanted = _class_names(raw, names, path)
    before = column(table, "observed_label", path) if "observed_label" in table.column_names else [None] * len(ids)
    observed = _class_names(before, names, path)
    decided = np.array([label is not None for label in wanted], dtype=bool)
    card = Card(source="person", method=reviewer, version=__version__, class_names=names, about={"file": path.name})

    def plan(latest: pa.Table) -> tuple[Card, pa.Table]:
        now, source = _now(latest, ids)
        current = np.where(now == None, observed, now)  # noqa: E711
        rows = np.asarray((current != wanted) | (source != "person"), dtype=bool) & decided
        route = np.where(current == wanted, "keep", "relabel").astype(object)
        nothing = pa.nulls(int(rows.sum()), pa.float32())
        return card, _changes(ids[rows], current[rows], wanted[rows], nothing, route[rows])

    run = ledger.append(plan, time)
    return Appended(run=run, rows=len(ids), undecided=int((~decided).sum()))


def revert_run(ledger: Ledger, name: str, time: datetime, *, skip_changed: bool = False) -> Appended:
    """Append the inverse of a run: each row goes back to the label it had before.

    Args:
        skip_changed: leave rows alone that a later run has changed, instead of refusing.
    Raises:
        ConfigError: no such run, or rows changed since; the message names the first and the later run.
    """
    run = ledger.run(name)
    done = ledger.changes(run)
    ids = string_ids(done["id"].to_pylist())
    card = Card(
        source="revert",
        method=f"revert-{run.number}",
        version=__version__,
        class_names=run.card.class_names,
        about={"reverts": run.name},
    )

    def plan(latest: pa.Table) -> tuple[Card, pa.Table]:
        last = _objects(latest["run"].combine_chunks().take(_places(latest, ids)))
        since = np.asarray(last != run.name, dtype=bool)
        if since.any() and not (skip_changed and not since.all()):
            first = int(np.flatnonzero(since)[0])
            raise ConfigError(
                f"{ledger.folder}: {int(since.sum()):,} of the {len(ids):,} rows of run {run.name} have been changed "
                f"since, the first is {ids[first]!r} by run {last[first]}; revert the later runs first"
                + ("" if since.all() else ", or leave those rows alone with --skip-changed")
            )
        return card, _inverse(done.filter(pa.array(~since)))

    return Appended(run=ledger.append(plan, time), rows=len(ids))


def review_list(purified: Purified) -> pa.Table:
    """The rows for review, the surest proposals first: id, observed_label, proposed_label, confidence, empty label."""
    rows = np.flatnonzero(purified.route == "review")
    order = rows[np.argsort(-purified.confidence[rows], kind="stable")]
    names = np.array(purified.class_names, dtype=object)
    return pa.table(
        {
            "id": pa.array(purified.ids[order], pa.string()),
            "observed_label": pa.array(names[purified.label[order]], pa.string()),
            "proposed_label": pa.array(names[purified.purified_label[order]], pa.string()),
            "confidence": pa.array(purified.confidence[order], pa.float32()),
            "label": pa.nulls(len(order), pa.string()),
        }
    )


def _inverse(done: pa.Table) -> pa.Table:
    route = pa.repeat(pa.scalar("relabel"), len(done))
    columns = [done["id"], done["to"], done["from"], pa.nulls(len(done), pa.float32()), route]
    return pa.Table.from_arrays(columns, schema=CHANGES)


def _purified_changes(purified: Purified, current: Names, wanted: Names, rows: BoolArray) -> pa.Table:
    confidence = pa.array(purified.confidence[rows], pa.float32())
    return _changes(purified.ids[rows], current[rows], wanted[rows], confidence, purified.route[rows])


def _changes(ids: Names, before: Names, after: Names, confidence: pa.Array, route: Names) -> pa.Table:
    text = [pa.array(values, pa.string()) for values in (ids, before, after, route)]
    return pa.Table.from_arrays([*text[:3], confidence, text[3]], schema=CHANGES)


def _now(latest: pa.Table, ids: Names) -> tuple[Names, Names]:
    """The ledger's label and its source for each id; None where it has none."""
    places = _places(latest, ids)
    return _objects(latest["to"].combine_chunks().take(places)), _objects(
        latest["source"].combine_chunks().take(places)
    )


def _places(latest: pa.Table, ids: Names) -> pa.Array:
    return pc.index_in(pa.array(ids, pa.string()), value_set=latest["id"].combine_chunks())


def _objects(values: pa.Array) -> Names:
    found: Names = np.asarray(values.to_numpy(zero_copy_only=False), dtype=object)
    return found


def _known_classes(ledger: Ledger) -> tuple[str, ...]:
    for run in reversed(ledger.runs()):
        if run.card.class_names:
            return run.card.class_names
    raise ConfigError(f"{ledger.folder}: no run says which classes there are; name them with --classes a,b,c")


def _class_names(raw: Sequence[object], names: tuple[str, ...], path: Path) -> Names:
    numbers = class_numbers(raw, names)
    bad = np.flatnonzero(numbers == UNKNOWN_LABEL)
    if len(bad):
        shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        raise ContractError(
            f"{path}: row {bad[0]}: label {raw[bad[0]]!r} is no class ({len(bad)} such rows); allowed are {shown}; "
            "correct it, or name all classes with --classes"
        )
    found = np.array([*names, None], dtype=object)[np.where(numbers == NO_LABEL, len(names), numbers)]
    return np.asarray(found, dtype=object)
