"""The trusted set: a small class-balanced draw from verified rows, or a file of ids and verified labels.

A share of it may be held out: those rows become trusted rows of the val split, which no purifier, training or choice of
an epoch sees. They compare a version with the one before (docs/versions.md).
"""

from __future__ import annotations

import hashlib
import logging
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from lnl_core.config import ConfigError, Settings
from lnl_core.contracts import NO_LABEL, BoolArray, ContractError, Ids, IntArray, check_unique, positions
from lnl_core.labels.class_labels import UNKNOWN_LABEL, class_numbers
from lnl_core.labels.index import Index
from lnl_core.labels.label_file import check_hash, read_label_file
from lnl_core.s3 import Place, locate

log = logging.getLogger("lnl")
FEW_HELD_OUT = 20  # rows a class; the promotion gate compares no class with fewer (`lnl_core/versions/gate.py`)


class TrustedSettings(Settings):
    """Section `prepare.trusted`."""

    source: Literal["none", "draw", "file"] = "none"
    count: int = Field(default=0, ge=0)  # draw: rows in all, the same number from each class
    share: float = Field(default=0.0, ge=0.0, le=1.0)  # draw: of the verified train rows of each class
    file: str = ""  # file: CSV or Parquet, local or on S3
    id_column: str = "id"
    label_column: str = "label"  # class names or numbers
    allow_empty_classes: bool = False  # may a class have no trusted row?
    sha256: str = Field(default="", pattern="^([0-9a-f]{64})?$")  # of file, checked; DVC sees a change by it
    held_out_share: float = Field(default=0.0, ge=0.0, lt=1.0)  # of the trusted rows: for the promotion gate alone
    held_out_val: bool = False  # the source's own verified val rows are held out too, and then choose no epoch

    @model_validator(mode="after")
    def _one_way(self) -> TrustedSettings:
        if self.source == "draw" and (self.count > 0) == (self.share > 0):
            raise ValueError("source 'draw' needs either count (rows in all) or share (of each class), above 0")
        if self.source == "file" and not self.file:
            raise ValueError("source 'file' needs file: a CSV or Parquet of ids and labels")
        if self.sha256 and self.source != "file":
            raise ValueError("sha256 is the hash of file, so it needs source 'file'")
        return self


def drawn_labels(index: Index, settings: TrustedSettings, generator: np.random.Generator) -> IntArray:
    """Draw the trusted rows: their verified label [n], `NO_LABEL` for all others.

    Raises:
        ConfigError: a class has no verified train row.
    """
    result = np.full(len(index), NO_LABEL, dtype=np.int32)
    train = (index.split == "train") & (index.true_label != NO_LABEL)
    by_class = [np.flatnonzero(train & index.verified & (index.true_label == k)) for k in range(len(index.class_names))]
    refuse_empty_classes([len(rows) for rows in by_class], index.class_names, settings)
    for number, rows in enumerate(by_class):
        drawn = generator.permutation(rows)[: _quota(settings, number, len(rows), len(by_class))]
        result[drawn] = number
        if len(drawn) and len(drawn) == np.count_nonzero(train & (index.true_label == number)):
            log.warning("trusted: class %r: all its %d train rows are trusted", index.class_names[number], len(drawn))
    return result


def labels_from_file(index: Index, settings: TrustedSettings, unknown: list[str] | None = None) -> IntArray:
    """The trusted rows that the file names: their verified label [n], `NO_LABEL` for all others.

    Ids that the reader has set aside are passed over with a warning.

    Args:
        unknown: gets the ids that are no row of the dataset, for a file may be ahead of a crawl; None: an error.

    Raises:
        ConfigError: no such file, or one whose hash is not `settings.sha256`.
        ContractError: an id that is unknown, repeated or no train row, or a label that is no class.
    """
    path = locate(settings.file)
    check_hash(path, settings.sha256, "prepare.trusted.sha256")
    ids, raw = read_label_file(path, settings.id_column, settings.label_column)
    label = class_numbers(raw, index.class_names)
    _check_labels(label, raw, ids, index.class_names, f"{path}: %s: {settings.label_column}")
    usable = _usable(ids, index, path, unknown)
    _check_train(ids[usable], index, path)
    check_unique(ids, str(path))
    result = np.full(len(index), NO_LABEL, dtype=np.int32)
    result[positions(ids[usable], index.ids, "the dataset")] = label[usable]
    return result


def held_out_rows(ids: Ids, verified: IntArray, settings: TrustedSettings, class_names: tuple[str, ...]) -> BoolArray:
    """Which trusted rows are held out [n]: those whose id hashes below `held_out_share`.

    The choice depends on the row's id alone, so a row never changes sides while the trusted set grows: a row that a
    version was compared on was learned by none before it and will be learned by none after it.

    Args:
        verified: verified label [n] of each trusted row, `NO_LABEL` for all others.
    """
    held = np.zeros(len(ids), dtype=bool)
    trusted = np.flatnonzero(verified != NO_LABEL)
    held[trusted] = [_place(str(name)) < settings.held_out_share for name in ids[trusted]]
    if settings.held_out_share:
        _warn_of_few(np.bincount(verified[held], minlength=len(class_names)), class_names)
    return held


def held_out_val_labels(index: Index, settings: TrustedSettings) -> IntArray:
    """The verified label [n] of the source's own val rows where `held_out_val` asks for it; else `NO_LABEL`."""
    rows = index.verified & (index.split == "val") & settings.held_out_val
    return np.where(rows, index.true_label, NO_LABEL).astype(np.int32)


def refuse_empty_classes(counts: list[int], class_names: tuple[str, ...], settings: TrustedSettings) -> None:
    """Raise ConfigError if a class has no trusted row (`counts` is one number a class) and that is not allowed."""
    empty = [class_names[number] for number, count in enumerate(counts) if not count]
    if empty and not settings.allow_empty_classes:
        where = settings.file if settings.source == "file" else "the verified train rows"
        raise ConfigError(
            f"prepare.trusted: {where}: no row of {_some(empty)} ({len(empty)} of {len(counts)} classes); verify at "
            "least one image of each class, or set prepare.trusted.allow_empty_classes: true"
        )


def _quota(settings: TrustedSettings, number: int, rows: int, classes: int) -> int:
    """How many rows of class `number`, at least one; warns where it has fewer."""
    if settings.share:
        return max(round(settings.share * rows), 1)
    base, rest = divmod(settings.count, classes)
    wanted = max(base + (number < rest), 1)
    if 0 < rows < wanted:
        log.warning("trusted: class number %d has %d verified train rows of %d wanted", number, rows, wanted)
    return wanted


def _place(name: str) -> float:
    """Where an id stands in 0..1: the first 8 bytes of a SHA-256 that no split of a dataset is made by."""
    return int.from_bytes(hashlib.sha256(f"held out: {name}".encode()).digest()[:8], "big") / 2**64


def _warn_of_few(counts: npt.NDArray[np.intp], class_names: tuple[str, ...]) -> None:
    few = [f"{name} {count}" for name, count in zip(class_names, counts.tolist(), strict=True) if count < FEW_HELD_OUT]
    if few:
        log.warning(
            "trusted: %d of %d classes have fewer than %d held-out rows (%s), too few for the promotion gate to "
            "compare them one by one; verify more rows, or raise prepare.trusted.held_out_share",
            len(few),
            len(class_names),
            FEW_HELD_OUT,
            _some(few, quoted=False),
        )


def _check_labels(label: IntArray, raw: list[object], ids: Ids, class_names: tuple[str, ...], where: str) -> None:
    bad = np.flatnonzero((label == UNKNOWN_LABEL) | (label == NO_LABEL))
    if len(bad):
        row = int(bad[0])
        place = where % f"row {row} (id {ids[row]!r})"
        raise ContractError(
            f"{place} = {raw[row]!r} is no class; allowed are {_some(class_names)} or 0 to {len(class_names) - 1}; "
            f"correct it ({len(bad)} such rows)"
        )


def _usable(ids: Ids, index: Index, path: Place, ahead: list[str] | None) -> npt.NDArray[np.bool_]:
    known = np.isin(ids.astype(str), index.ids.astype(str))
    aside = np.isin(ids.astype(str), [row.id or row.path or "" for row in index.quarantined])
    unknown = np.flatnonzero(~known & ~aside)
    if ahead is not None:
        ahead += ids[unknown].tolist()
    elif len(unknown):
        raise ContractError(
            f"{path}: row {unknown[0]}: id {ids[unknown[0]]!r} is no row of the dataset ({len(unknown)} such rows); "
            f"use the dataset's ids (such as {index.ids[0]!r}), or drop these rows"
        )
    if aside.any():
        log.warning("%s: %d rows belong to quarantined images and are not used", path, int(aside.sum()))
    return known


def _check_train(ids: Ids, index: Index, path: Place) -> None:
    other = np.flatnonzero((index.split != "train") & np.isin(index.ids.astype(str), ids.astype(str)))
    if len(other):
        row = int(other[0])
        raise ContractError(
            f"{path}: id {index.ids[row]!r} is in the {index.split[row]} split, and trusted rows are train rows; "
            f"drop it ({len(other)} such rows)"
        )


def _some(names: tuple[str, ...] | list[str], *, quoted: bool = True) -> str:
    shown = ", ".join(repr(name) if quoted else name for name in names[:10])
    return shown + (", ..." if len(names) > 10 else "")
