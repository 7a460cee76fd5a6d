"""The label ledger follows the promoted version: its labels become those of that version, by appending.

A row that an earlier version changed and this one keeps goes back to its observed label, so the ledger says what the
promoted version says, whatever was promoted in between. Rows that a person has set stay as they are, and rows that are
trusted in the version are left alone. Run twice, it appends nothing the second time.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lnl_core.ledger.change import Appended
from lnl_core.ledger.store import CHANGES, LATEST, Card, Ledger
from lnl_core.versions.manifest import Manifest


def commit_version(
    ledger: Ledger, manifest: Manifest, changes: pa.Table, time: datetime, *, rollback: bool = False
) -> Appended:
    """Append what leads from the ledger's labels to those of the version (`changes`: see `label_changes.py`).

    Args:
        rollback: the run is listed as a revert.
    """
    card = Card(
        source="revert" if rollback else "purify",
        method=manifest.tag,
        version=manifest.package,
        class_names=manifest.class_names,
        about={"version": manifest.number, "run": manifest.run_id},
    )
    kept = 0

    def plan(latest: pa.Table) -> tuple[Card, pa.Table]:
        nonlocal kept
        wanted = _wanted(latest, changes)
        differs = np.asarray(
            wanted["now"].to_numpy(zero_copy_only=False) != wanted["to"].to_numpy(zero_copy_only=False)
        )
        person = pc.fill_null(pc.equal(wanted["source"], "person"), False).to_numpy()
        kept = int((differs & person).sum())
        return card, _rows(wanted.filter(pa.array(differs & ~person)))

    run = ledger.append(plan, time)
    return Appended(run=run, rows=len(changes), kept_by_person=kept)


def _wanted(latest: pa.Table, changes: pa.Table) -> pa.Table:
    """Each id of either table with the ledger's label now (`now`; its base label where it has none) and `to`."""
    trusted = changes.filter(pc.equal(changes["route"], "trusted"))["id"]
    mine = changes.filter(pc.equal(changes["route"], "relabel"))
    known = latest.select(LATEST.names).rename_columns(["id", "ledger", "source", "run"]).drop_columns(["run"])
    known = known.append_column("in_ledger", pa.repeat(pa.scalar(True), len(known)))
    known = known.filter(pc.invert(pc.is_in(known["id"], value_set=trusted.combine_chunks())))
    both = mine.join(known, "id", join_type="full outer")
    now = pc.if_else(pc.fill_null(both["in_ledger"], False), both["ledger"], both["from"])
    return both.append_column("now", now)


def _rows(wanted: pa.Table) -> pa.Table:
    route = pc.if_else(pc.is_null(wanted["to"]), "keep", "relabel")
    columns = [wanted["id"], wanted["now"], wanted["to"], wanted["confidence"], route]
    return pa.Table.from_arrays([column.combine_chunks() for column in columns], schema=CHANGES)
