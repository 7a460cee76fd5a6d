"""A user's table of ids and labels to an index: which columns mean what, and what becomes of rows that are wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lnl_core.config import Settings
from lnl_core.contracts import (
    NO_LABEL,
    SPLITS,
    BoolArray,
    ContractError,
    Ids,
    IntArray,
    QuarantineRow,
    Split,
    string_ids,
)
from lnl_core.labels.class_labels import UNKNOWN_LABEL, class_numbers, label_text, names_from
from lnl_core.labels.index import Index

Columns = Mapping[str, Sequence[object]]  # column name -> values
Locate = Callable[[int], str]  # row number -> "labels.csv: row 3"
_YES, _NO = ("true", "1", "yes"), ("false", "0", "no", "")


class TableColumns(Settings):
    """Names of the columns; an empty name means that the table has no such column."""

    id_column: str = "id"  # texts or whole numbers
    label_column: str = "label"  # observed label: class name, or number from 0
    true_label_column: str = ""  # benchmark data alone
    split_column: str = ""  # train, val or test; all rows are train rows without it
    verified_column: str = ""  # true where a person vouches for the true label; all true labels count without it
    class_names: tuple[str, ...] = ()  # in the order of the numbers; empty: the labels that occur, sorted
    verified_splits: tuple[Split, ...] = ()  # splits whose labels are known to be right, e.g. [test]

    def columns(self) -> list[str]:
        """The columns that the table must have."""
        names = (self.id_column, self.label_column, self.true_label_column, self.split_column, self.verified_column)
        return [name for name in names if name]


def index_from_table(table: Columns, names: TableColumns, locate: Locate) -> Index:
    """The rows whose labels can be used, in the table's order; the others as quarantine rows.

    Raises:
        ContractError: an id that is missing or stands twice, or a split or verified value that is not allowed.
    """
    ids = _ids(table[names.id_column], locate)
    split = _split(table, names, locate)
    class_names = names.class_names or names_from(*(table[name] for name in _label_columns(names)))
    observed = class_numbers(table[names.label_column], class_names)
    true = _true_label(table, names, class_names, observed, split)
    verified = _verified(table, names, locate) & (true >= 0)
    good = (observed != UNKNOWN_LABEL) & (true != UNKNOWN_LABEL)
    bad = [_out_of_range(row, table, names, class_names, ids, locate) for row in np.flatnonzero(~good).tolist()]
    return Index(
        ids=ids[good],
        observed_label=observed[good],
        true_label=true[good],
        verified=verified[good],
        split=split[good],
        class_names=tuple(class_names),
        quarantined=tuple(bad),
    )


def table_ids(values: Sequence[object]) -> Ids:
    """Ids as texts: 3, 3.0 and "3" are the same id; empty where nothing is written."""
    return string_ids([value if isinstance(value, str) else label_text(value) for value in values])


def _label_columns(names: TableColumns) -> list[str]:
    return [name for name in (names.label_column, names.true_label_column) if name]


def _ids(values: Sequence[object], locate: Locate) -> Ids:
    ids = table_ids(values)
    empty = np.flatnonzero(ids == "")
    if len(empty):
        raise ContractError(f"{locate(int(empty[0]))}: has no id; give every row an id ({len(empty)} such rows)")
    order = np.argsort(ids, kind="stable")
    twice = np.flatnonzero(ids[order][1:] == ids[order][:-1])
    if len(twice):
        first, second = int(order[twice[0]]), int(order[twice[0] + 1])
        raise ContractError(
            f"{locate(first)} and {locate(second)}: both have id {ids[first]!r} ({len(twice)} repeated ids); ids must "
            "be unique: rename or drop one"
        )
    return ids


def _split(table: Columns, names: TableColumns, locate: Locate) -> Ids:
    if not names.split_column:
        return string_ids(["train"] * len(table[names.id_column]))
    split = string_ids([str(value) for value in table[names.split_column]])
    bad = np.flatnonzero(~np.isin(split.astype(str), SPLITS))
    if len(bad):
        raise ContractError(
            f"{locate(int(bad[0]))}: {names.split_column} = {split[bad[0]]!r}; allowed are {', '.join(SPLITS)} "
            f"({len(bad)} such rows)"
        )
    return split


def _true_label(
    table: Columns, names: TableColumns, class_names: Sequence[str], observed: IntArray, split: Ids
) -> IntArray:
    true = np.full(len(observed), NO_LABEL, dtype=np.int32)
    if names.true_label_column:
        true = class_numbers(table[names.true_label_column], class_names)
    vouched = np.isin(split.astype(str), names.verified_splits) & (true == NO_LABEL) & (observed >= 0)
    return np.where(vouched, observed, true).astype(np.int32)


def _verified(table: Columns, names: TableColumns, locate: Locate) -> BoolArray:
    if not names.verified_column:
        return np.ones(len(table[names.id_column]), dtype=bool)
    texts = [label_text(value).lower() for value in table[names.verified_column]]
    for row, text in enumerate(texts):
        if text not in _YES + _NO:
            raise ContractError(f"{locate(row)}: {names.verified_column} = {text!r}; allowed are true and false")
    return np.array([text in _YES for text in texts], dtype=bool)


def _out_of_range(
    row: int,
    table: Columns,
    names: TableColumns,
    class_names: Sequence[str],
    ids: Ids,
    locate: Locate,
) -> QuarantineRow:
    found = ", ".join(f"{name} = {table[name][row]!r}" for name in _label_columns(names))
    shown = ", ".join(class_names[:10]) + (", ..." if len(class_names) > 10 else "")
    detail = f"{locate(row)}: {found}; allowed are {shown} or 0 to {len(class_names) - 1}; correct the label"
    return QuarantineRow(stage="prepare", reason="label-out-of-range", detail=detail, id=ids[row])
