"""Churn: what a version changes against the one before it, per class, per source and per shard.

A row is compared where both versions decided on it and its observed label is the same. It flips where the decision
is another now, and is held back where the mode of the present posterior is another but does not beat the margin. A
label in use is the decision where it is applied, and the observed label where the row goes to review; only changes of
labels in use reach the ledger and a training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lnl_core.contracts import NO_LABEL, BoolArray, Ids, IntArray, Purified

MOST = 50  # rows of a table in metrics.json: those with the most flips


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where rows came from."""

    ids: Ids  # [n] in any order
    shard: Ids  # [n]
    source: Ids  # [n] site or domain; None where the crawler names none


def churn(now: Purified, before: Purified, past: IntArray, trusted: Ids, origin: Origin) -> dict[str, Any]:
    """The metrics of a version against the one before; tables have at most `MOST` rows.

    Args:
        past: [n] the decision of before on each row of `now`, in its class numbers; `NO_LABEL`: nothing to compare.
        trusted: ids of all rows that are trusted now.
    """
    place = {name: row for row, name in enumerate(before.ids)}
    known = np.array([name in place for name in now.ids], dtype=bool)
    compared, mode = past != NO_LABEL, now.soft_label.argmax(axis=1)
    flipped = compared & (now.purified_label != past)
    held = compared & ~flipped & (mode != past)
    gone = set(place) - set(now.ids)
    return {
        "rows_before": len(before),
        "rows_new": int((~known).sum()),
        "rows_now_trusted": len(gone & set(trusted)),
        "rows_gone": len(gone - set(trusted)),
        "rows_with_another_observed_label": int((known & ~compared).sum()),
        "compared": int(compared.sum()),
        "flips": int(flipped.sum()),
        "flip_share": _share(flipped, compared),
        "held_back": int(held.sum()),
        "labels_in_use_changed": _in_use_changed(now, before, place, compared),
        "by_class": _by_class(past, flipped, held, compared, now.class_names),
        "from_to": _from_to(past, now.purified_label, flipped, now.class_names),
        **_by_origin(now.ids, origin, known, flipped, compared),
    }


def _in_use_changed(now: Purified, before: Purified, place: dict[str, int], compared: BoolArray) -> int:
    rows = np.flatnonzero(compared)
    then = np.array([place[name] for name in now.ids[rows]], dtype=np.intp)
    names_now, names_then = np.array(now.class_names, dtype=object), np.array(before.class_names, dtype=object)
    return int((names_now[now.applied_label[rows]] != names_then[before.applied_label[then]]).sum())


def _by_class(
    past: IntArray, flipped: BoolArray, held: BoolArray, compared: BoolArray, names: Sequence[str]
) -> list[dict[str, Any]]:
    """A record for each class as decided before."""
    records = []
    for number, name in enumerate(names):
        rows = compared & (past == number)
        counts = {"rows": int(rows.sum()), "flips": int((flipped & rows).sum()), "held_back": int((held & rows).sum())}
        records.append({"class": name, **counts, "flip_share": _share(flipped, rows)})
    return _most(records)


def _from_to(past: IntArray, now: IntArray, flipped: BoolArray, names: Sequence[str]) -> list[dict[str, Any]]:
    pairs, counts = np.unique(np.stack([past[flipped], now[flipped]]), axis=1, return_counts=True)
    return _most(
        [
            {"from": names[before], "to": names[after], "flips": int(count)}
            for before, after, count in zip(*pairs.tolist(), counts.tolist(), strict=True)
        ]
    )


def _by_origin(
    ids: Ids, origin: Origin, known: BoolArray, flipped: BoolArray, compared: BoolArray
) -> dict[str, list[dict[str, Any]]]:
    """Tables by source and by shard; empty where nothing is known of the rows' origin."""
    place = {name: row for row, name in enumerate(origin.ids)}
    rows = np.array([place.get(name, -1) for name in ids], dtype=np.intp)
    tables = {}
    for what, column in (("source", origin.source), ("shard", origin.shard)):
        origins = np.array([column[row] if row >= 0 else None for row in rows], dtype=object)
        tables[f"by_{what}"] = _table(what, origins, known, flipped, compared)
    return tables


def _table(what: str, origins: Ids, known: BoolArray, flipped: BoolArray, compared: BoolArray) -> list[dict[str, Any]]:
    has = np.array([value is not None for value in origins], dtype=bool)
    names, group = np.unique(origins[has].astype(str), return_inverse=True)

    def counts(mask: BoolArray) -> list[int]:
        found: list[int] = np.bincount(group, weights=mask[has], minlength=len(names)).astype(int).tolist()
        return found

    columns = zip(names.tolist(), counts(compared), counts(~known), counts(flipped), strict=True)
    return _most(
        [
            {
                what: name,
                "rows": rows,
                "new": new,
                "flips": flips,
                "flip_share": round(flips / rows, 6) if rows else 0.0,
            }
            for name, rows, new, flips in columns
        ]
    )


def _share(flipped: BoolArray, rows: BoolArray) -> float:
    return round(float((flipped & rows).sum() / max(int(rows.sum()), 1)), 6)


def _most(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records with the most flips, the others cut; equal ones stay in their order."""
    return sorted(records, key=lambda record: -record["flips"])[:MOST]
