"""The trusted set in the forms that `fit` takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lnl_core.contracts import ContractError, FloatArray, Ids, positions, string_ids
from lnl_core.estimators.features import as_array
from lnl_core.estimators.labels import MISSING, GivenLabels
from lnl_core.labels.class_labels import label_text
from lnl_core.labels.label_file import read_label_file

Rows = npt.NDArray[np.intp]
HOW = "give trusted=(rows, labels) for rows of `features`, or trusted=(features, labels) for rows of their own"


@dataclass(frozen=True, kw_only=True)
class GivenTrusted:
    """Verified labels: of rows of the features that are to be purified, or of rows of their own."""

    labels: GivenLabels  # [m]
    rows: Rows  # [m], or empty where `features` is there
    features: FloatArray | None  # [m, d]


def id_labels(labels: Any, what: str) -> tuple[Ids, GivenLabels]:
    """Labels by id: a mapping id -> label, a pair (ids, labels), or a file with columns `id` and `label`."""
    if isinstance(labels, str | Path):
        names, raw = read_label_file(Path(labels), "id", "label")
        return string_ids(names), GivenLabels.of(_numbers_where_all_are(raw), str(labels))
    if isinstance(labels, Mapping):
        return string_ids([str(name) for name in labels]), GivenLabels.of(list(labels.values()), what)
    names, raw = pair(
        labels,
        f"{what}: features come from a path, so labels are joined on id: give a mapping "
        "id -> label, a pair (ids, labels), or a file with columns id and label",
    )
    found = GivenLabels.of(raw, what)
    if len(names) != len(found):
        raise ContractError(f"{what}: {len(names)} ids and {len(found)} labels; give one label for each id")
    return string_ids([str(name) for name in names]), found


def _numbers_where_all_are(raw: list[object]) -> list[object]:
    """A CSV file has texts alone: those of a column of whole numbers are meant as numbers."""
    texts = [label_text(value) for value in raw]
    if all(not text or text.removeprefix("-").isdecimal() for text in texts):
        return [int(text) if text else MISSING for text in texts]
    return list(texts)


def trusted_of(trusted: Any | None, ids: Ids, width: int, *, by_id: bool) -> GivenTrusted:
    """The trusted set from what `fit` was given.

    Args:
        ids: [n] of the rows to be purified.
        by_id: rows are named by id (features from a path), not by number.
    """
    if trusted is None:
        return GivenTrusted(labels=GivenLabels.of([], "trusted"), rows=np.empty(0, dtype=np.intp), features=None)
    if not by_id and isinstance(trusted, Mapping):
        trusted = (list(trusted), list(trusted.values()))
    if by_id and not _has_features(trusted):
        names, labels = id_labels(trusted, "trusted")
        return _of_rows(positions(names, ids, "features"), labels)
    first, second = pair(trusted, f"trusted: {HOW}")
    which, labels = np.asarray(as_array(first)), GivenLabels.of(second, "trusted")
    if which.ndim == 2:
        return _with_features(which, labels, width)
    if which.dtype == bool:
        which = _rows_of_mask(which, len(ids))
    return _of_rows(_row_numbers(which, len(ids)), labels)


def pair(value: Any, message: str) -> tuple[Any, Any]:
    """The two members of a tuple or list; anything else is a ContractError with `message`."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ContractError(message)
    return value[0], value[1]


def _has_features(trusted: Any) -> bool:
    return isinstance(trusted, tuple | list) and len(trusted) == 2 and np.ndim(as_array(trusted[0])) == 2


def _with_features(features: npt.NDArray[Any], labels: GivenLabels, width: int) -> GivenTrusted:
    if len(features) != len(labels):
        raise ContractError(f"trusted: {len(features)} rows of features and {len(labels)} labels; give one for each")
    if features.shape[1] != width:
        raise ContractError(
            f"trusted: features are {features.shape[1]} wide, `features` {width}; encode both with the same encoder"
        )
    _check_all_known(labels)
    own = np.empty(0, dtype=np.intp)
    return GivenTrusted(labels=labels, rows=own, features=np.asarray(features, dtype=np.float32))


def _of_rows(rows: Rows, labels: GivenLabels) -> GivenTrusted:
    if len(rows) != len(labels):
        raise ContractError(f"trusted: {len(rows)} rows and {len(labels)} labels; give one label for each row")
    values, counts = np.unique(rows, return_counts=True)
    if (counts > 1).any():
        raise ContractError(f"trusted: row {values[counts > 1][0]} stands twice; name each row once")
    _check_all_known(labels)
    return GivenTrusted(labels=labels, rows=rows, features=None)


def _check_all_known(labels: GivenLabels) -> None:
    missing = np.flatnonzero(~labels.known)
    if len(missing):
        raise ContractError(f"trusted: entry {missing[0]} has no label; a trusted row needs one")


def _rows_of_mask(mask: npt.NDArray[np.bool_], rows: int) -> Rows:
    if len(mask) != rows:
        raise ContractError(f"trusted: a mask of {len(mask)} rows for {rows} rows of features; {HOW}")
    return np.flatnonzero(mask)


def _row_numbers(which: npt.NDArray[Any], rows: int) -> Rows:
    if which.size == 0:
        return np.empty(0, dtype=np.intp)
    if which.ndim != 1 or which.dtype.kind not in "iu":
        raise ContractError(f"trusted: the first member is {which.ndim}-dimensional of type {which.dtype}; {HOW}")
    outside = np.flatnonzero((which < 0) | (which >= rows))
    if len(outside):
        raise ContractError(f"trusted: row {which[outside[0]]} of {rows} rows of features; allowed are 0 to {rows - 1}")
    return which.astype(np.intp)
