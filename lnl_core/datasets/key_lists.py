"""Text files that say which images belong to a split and what they are: a key a line, or a key and a label.

Published image sets come with such lists (`images/0/0/1.jpg`, `google/q0001/2.jpg 7`). A key may hold a comma, so they
are no CSV; the label is what stands after the last blank. What is wrong with one line belongs to that line's image
and never stops the others.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lnl_core.config import ConfigError
from lnl_core.contracts import NO_LABEL, ContractError, IntArray, QuarantineRow
from lnl_core.s3 import Place, open_place

Fault = tuple[str, str]  # reason and detail of a quarantine row


@dataclass(frozen=True)
class KeyList:
    """The keys of a file in its order, each once."""

    path: Place
    keys: tuple[str, ...]
    repeated: int  # lines whose key had been there already


@dataclass(frozen=True)
class LabelList:
    """Keys in the order of their file, each with its class number or with what is wrong with it."""

    path: Place
    rows: Mapping[str, int | Fault]
    repeated: int

    def keys(self) -> KeyList:
        return KeyList(self.path, tuple(self.rows), self.repeated)

    def numbers(self, keys: Sequence[str]) -> IntArray:
        """Class numbers [n]; `NO_LABEL` where a key is not there or has a fault."""
        found = (self.rows.get(key) for key in keys)
        return np.array([label if isinstance(label, int) else NO_LABEL for label in found], dtype=np.int32)

    def fault(self, key: str) -> QuarantineRow:
        """Why `key` has no label here."""
        row = self.rows.get(key)
        missing = ("missing-label", f"{self.path}: has no line for it; add one or drop the row")
        reason, detail = row if isinstance(row, tuple) else missing
        return QuarantineRow(stage="prepare", reason=reason, detail=detail, id=key)


def read_keys(path: Place) -> KeyList:
    """A file of keys.

    Raises:
        ConfigError: no such file.
        ContractError: not UTF-8.
    """
    lines = [line for _, line in numbered_lines(path)]
    keys = tuple(dict.fromkeys(lines))
    return KeyList(path, keys, len(lines) - len(keys))


def read_labels(path: Place, classes: int) -> LabelList:
    """A file of keys and class numbers 0..`classes`-1. A key with two different labels has neither.

    Raises:
        ConfigError: no such file.
        ContractError: not UTF-8.
    """
    rows: dict[str, int | Fault] = {}
    repeated = 0
    for number, line in numbered_lines(path):
        key, label = _split(line, classes, path, number)
        if key not in rows:
            rows[key] = label
            continue
        repeated += 1
        if isinstance(rows[key], int) and label != rows[key]:
            detail = f"{path}: line {number}: the label is not the {rows[key]} of an earlier line; keep the right one"
            rows[key] = ("conflicting-labels", detail)
    return LabelList(path, rows, repeated)


def read_names(path: Place) -> tuple[str, ...]:
    """A file of class names, number 0 first.

    Raises:
        ConfigError: no such file.
        ContractError: empty, not UTF-8, or a name stands there twice.
    """
    names = tuple(name for _, name in numbered_lines(path))
    if not names or len(set(names)) < len(names):
        raise ContractError(f"{path}: {len(names)} names, {len(set(names))} different ones; take the published file")
    return names


def numbered_lines(path: Place) -> Iterator[tuple[int, str]]:
    """Line numbers from 1 and stripped texts; blank lines are passed over.

    Raises:
        ConfigError: no such file.
        ContractError: not UTF-8.
    """
    try:
        with io.TextIOWrapper(open_place(path), encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if text := line.strip():
                    yield number, text
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; unpack the data set's own lists there") from error
    except UnicodeDecodeError as error:
        raise ContractError(f"{path}: not UTF-8 ({error.reason}); take the published file") from error


def _split(line: str, classes: int, path: Place, number: int) -> tuple[str, int | Fault]:
    key, *rest = line.rsplit(maxsplit=1)
    if rest and rest[0].isdecimal() and int(rest[0]) < classes:
        return key, int(rest[0])
    where = f"{path}: line {number}"
    if not rest:
        return key, ("missing-label", f"{where}: has no label; add it or drop the row")
    detail = f"{where}: label {rest[0]!r}; allowed are 0 to {classes - 1}; correct it or drop the row"
    return key, ("label-out-of-range", detail)
