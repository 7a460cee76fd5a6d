"""Where two sets of labels differ: two runs of a ledger, two purified tables, or one of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lnl_core.config import ConfigError
from lnl_core.contracts import read_purified
from lnl_core.ledger.store import Ledger

KINDS = ("same", "different", "first only", "second only")


def labels_of(name: str, ledger: Ledger) -> pa.Table:
    """id and label: of a purified table (a path that ends in .parquet) every row's label to use, of a run what it set.

    Raises:
        ConfigError: no such file or run.
        ContractError: the file is no purified table.
    """
    if not name.endswith(".parquet"):
        rows = ledger.changes(ledger.run(name))
        return pa.table({"id": rows["id"], "label": rows["to"]})
    path = Path(name)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; name a purified table or a run (`lnl labels list`)")
    purified = read_purified(path)
    labels = np.array(purified.class_names, dtype=object)[purified.applied_label]
    return pa.table({"id": pa.array(purified.ids, pa.string()), "label": pa.array(labels, pa.string())})


def compare(first: pa.Table, second: pa.Table) -> pa.Table:
    """id, first, second, kind (`KINDS`), sorted by id; a label is null where that side does not have the id."""
    left = first.rename_columns(["id", "first"]).append_column("in_first", pa.repeat(True, len(first)))
    right = second.rename_columns(["id", "second"]).append_column("in_second", pa.repeat(True, len(second)))
    both = left.join(right, "id", join_type="full outer").sort_by("id")
    same = pc.fill_null(pc.equal(both["first"], both["second"]), False)
    same = pc.or_(same, pc.and_(pc.is_null(both["first"]), pc.is_null(both["second"])))
    shared = pc.and_(pc.is_valid(both["in_first"]), pc.is_valid(both["in_second"]))
    cases = pc.make_struct(pc.and_(shared, same), shared, pc.is_valid(both["in_first"]))
    kind = pc.case_when(cases, *(pa.scalar(name) for name in KINDS))
    return both.select(["id", "first", "second"]).append_column("kind", kind)


def counts(compared: pa.Table) -> dict[str, int]:
    """How many ids are of each kind."""
    found = pc.value_counts(compared["kind"])
    tally = {str(item["values"]): int(item["counts"]) for item in found.to_pylist()}
    return {kind: tally.get(kind, 0) for kind in KINDS}
