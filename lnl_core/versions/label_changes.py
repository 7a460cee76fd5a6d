"""The labels of a version that are not the observed ones, by class name: enough to say how two versions differ.

    id, from (observed), to (in use), confidence, route: relabel | trusted; sorted by id

`relabel` rows are the purifier's; `trusted` rows carry a person's verified label (those whose label is confirmed are
there too), which no promotion writes to the label ledger: a person's word has its own way there. A row that is not in
the file has its observed label. The file depends on its version alone, so any two versions can be compared, whichever
was promoted in between; a list of changes against the parent would not say what a version three promotions later must
undo.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lnl_core.contracts import NO_LABEL, Labels, Purified, read_table, write_table

CHANGES = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("from", pa.string()),
        pa.field("to", pa.string(), nullable=False),
        pa.field("confidence", pa.float32()),
        pa.field("route", pa.string(), nullable=False),
    ]
)


def changes_of(labels: Labels, purified: Purified) -> pa.Table:
    """The rows of a version (`CHANGES`), from its two tables."""
    names = np.array([*purified.class_names, None], dtype=object)  # NO_LABEL, -1, is the last one
    rows = purified.changed
    relabelled = pa.table(
        {
            "id": pa.array(purified.ids[rows], pa.string()),
            "from": pa.array(names[purified.label[rows]], pa.string()),
            "to": pa.array(names[purified.applied_label[rows]], pa.string()),
            "confidence": pa.array(purified.confidence[rows], pa.float32()),
            "route": pa.repeat(pa.scalar("relabel"), int(rows.sum())),
        },
        schema=CHANGES,
    )
    return pa.concat_tables([relabelled, _trusted(labels, names)]).sort_by("id").combine_chunks()


def write_changes(path: Path, changes: pa.Table) -> None:
    """Write the rows as Parquet."""
    write_table(path, changes, {})


def read_changes(path: Path) -> pa.Table:
    """Read them.

    Raises:
        ContractError: not such a table.
    """
    return read_table(path, CHANGES)[0].replace_schema_metadata(None)


def difference(new: pa.Table, old: pa.Table) -> dict[str, int]:
    """How the labels of two versions differ: rows changed in each, rows whose label is another."""
    columns = ["id", "from", "to"]
    both = new.select(columns).join(old.select(columns), "id", join_type="full outer", right_suffix="_old")
    now = pc.coalesce(both["to"], both["from_old"])  # a row that one version does not change has its observed label
    before = pc.coalesce(both["to_old"], both["from"])
    same = pc.fill_null(pc.equal(now, before), False)
    return {
        "changed": _relabelled(new),
        "changed_before": _relabelled(old),
        "different": len(both) - int(pc.sum(same).as_py() or 0),
    }


def _relabelled(changes: pa.Table) -> int:
    return int(pc.sum(pc.equal(changes["route"], "relabel")).as_py() or 0)


def _trusted(labels: Labels, names: np.ndarray) -> pa.Table:
    chosen = labels.take(labels.where(split="train", trusted=True))
    observed = np.where(chosen.observed_label == NO_LABEL, len(names) - 1, chosen.observed_label)
    return pa.table(
        {
            "id": pa.array(chosen.ids, pa.string()),
            "from": pa.array(names[observed], pa.string()),
            "to": pa.array(names[chosen.label], pa.string()),
            "confidence": pa.nulls(len(chosen), pa.float32()),
            "route": pa.repeat(pa.scalar("trusted"), len(chosen)),
        },
        schema=CHANGES,
    )
