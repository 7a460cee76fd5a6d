"""The trusted set: a small class-balanced draw from verified rows, or a file of ids and verified labels."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from lnl_core.blocks.label_file import read_label_file
from lnl_core.config import ConfigError, Settings
from lnl_core.contracts import NO_LABEL, ContractError, IntArray, check_unique, positions
from lnl_core.datasets.class_labels import UNKNOWN_LABEL, class_numbers
from lnl_core.datasets.index import Index

log = logging.getLogger("lnl")


class TrustedSettings(Settings):
    """Section `prepare.trusted`."""

    source: Literal["none", "draw", "file"] = "none"
    count: int = Field(default=0, ge=0)  # draw: rows in all, the same number from each class
    share: float = Field(default=0.0, ge=0.0, le=1.0)  # draw: of the verified train rows of each class
    file: str = ""  # file: CSV or Parquet
    id_column: str = "id"
    label_column: str = "label"  # class names or numbers
    allow_empty_classes: bool = False  # may a class have no trusted row?

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.source == "draw" and (self.count > 0) == (self.share > 0):
            raise ValueError("source 'draw' needs either count (rows in all) or share (of each class), above 0")
        if self.source == "file" and not self.file:
            raise ValueError("source 'file' needs file: a CSV or Parquet of ids and labels")
        return self


def trusted_labels(index: Index, settings: TrustedSettings, generator: np.random.Generator) -> IntArray:
    """The verified label [n] of each trusted row, `NO_LABEL` for all others.

    Raises:
        ConfigError: a class has no row to draw from or none in the file, or an id is no train row.
        ContractError: the file names an unknown or repeated id, or something that is no class.
    """
    if settings.source == "draw":
        return _draw(index, settings, generator)
    if settings.source == "file":
        return _from_file(index, settings)
    return np.full(len(index), NO_LABEL, dtype=np.int32)


def _draw(index: Index, settings: TrustedSettings, generator: np.random.Generator) -> IntArray:
    result = np.full(len(index), NO_LABEL, dtype=np.int32)
    candidates = index.verified & (index.split == "train") & (index.true_label != NO_LABEL)
    by_class = [np.flatnonzero(candidates & (index.true_label == k)) for k in range(len(index.class_names))]
    _no_empty_class(by_class, index, settings)
    for number, rows in enumerate(by_class):
        wanted = _quota(settings, number, rows, len(by_class))
        if 0 < len(rows) < wanted:
            log.warning("trusted: class %r has %d verified rows of %d wanted", *_of(index, number, rows), wanted)
        drawn = generator.permutation(rows)[:wanted]
        if len(drawn) and len(drawn) == np.count_nonzero(_train_rows(index, number)):
            log.warning("trusted: all %d train rows of class %r are trusted now", len(drawn), index.class_names[number])
        result[drawn] = number
    return result


def _quota(settings: TrustedSettings, number: int, rows: npt.NDArray[np.intp], classes: int) -> int:
    if settings.share:
        return max(round(settings.share * len(rows)), 1)
    base, rest = divmod(settings.count, classes)
    return max(base + (number < rest), 1)


def _of(index: Index, number: int, rows: npt.NDArray[np.intp]) -> tuple[str, int]:
    return index.class_names[number], len(rows)


def _train_rows(index: Index, number: int) -> npt.NDArray[np.bool_]:
    label = np.where(index.verified, index.true_label, index.observed_label)
    return np.asarray((index.split == "train") & (label == number))


def _no_empty_class(by_class: list[npt.NDArray[np.intp]], index: Index, settings: TrustedSettings) -> None:
    empty = [index.class_names[number] for number, rows in enumerate(by_class) if not len(rows)]
    if empty and not settings.allow_empty_classes:
        where = settings.file if settings.source == "file" else "the verified train rows"
        raise ConfigError(
            f"prepare.trusted: {where}: no row of {_some(empty)} ({len(empty)} of {len(by_class)} classes); verify at "
            "least one image of each class, or set prepare.trusted.allow_empty_classes: true"
        )


def _from_file(index: Index, settings: TrustedSettings) -> IntArray:
    path = Path(settings.file)
    ids, raw = read_label_file(path, settings.id_column, settings.label_column)
    check_unique(ids, str(path))
    label = class_numbers(raw, index.class_names)
    bad = np.flatnonzero((label == UNKNOWN_LABEL) | (label == NO_LABEL))
    if len(bad):
        row = int(bad[0])
        raise ContractError(
            f"{path}: row {row} (id {ids[row]!r}): {settings.label_column} = {raw[row]!r} is no class; allowed are "
            f"{_some(index.class_names)} or 0 to {len(index.class_names) - 1}; correct it ({len(bad)} such rows)"
        )
    unknown = np.flatnonzero(~np.isin(ids.astype(str), index.ids.astype(str)))
    if len(unknown):
        raise ContractError(
            f"{path}: row {unknown[0]}: id {ids[unknown[0]]!r} is no row of the dataset, or its image was set aside "
            f"({len(unknown)} such rows); use the dataset's ids, or drop these rows"
        )
    rows = positions(ids, index.ids, "the dataset")
    other = np.flatnonzero(index.split[rows] != "train")
    if len(other):
        first = other[0]
        raise ContractError(
            f"{path}: row {first}: id {ids[first]!r} is in the {index.split[rows[first]]} split; trusted rows are "
            f"train rows, drop it ({len(other)} such rows)"
        )
    _no_empty_class([np.flatnonzero(label == k) for k in range(len(index.class_names))], index, settings)
    result = np.full(len(index), NO_LABEL, dtype=np.int32)
    result[rows] = label
    return result


def _some(names: tuple[str, ...] | list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:10])
    return shown + (", ..." if len(names) > 10 else "")
