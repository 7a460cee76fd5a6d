"""The label table of stage `prepare`: which rows have a label to go by; which are trusted, held out, val or test."""

from __future__ import annotations

import collections
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from lnl_core.config import Settings
from lnl_core.contracts import NO_LABEL, SPLITS, ContractError, Ids, IntArray, Labels, QuarantineRow, Truth
from lnl_core.labels.index import Index
from lnl_core.labels.trusted_rows import (
    TrustedSettings,
    drawn_labels,
    held_out_rows,
    held_out_val_labels,
    labels_from_file,
    refuse_empty_classes,
)
from lnl_core.runtime import Runtime

log = logging.getLogger("lnl")


class PrepareRules(Settings):
    """How rows become a label table and image shards, whatever the dataset; fields of section `prepare`."""

    rows_per_shard: int = Field(default=10_000, ge=1)  # 1 GB of photographs at 100 kB each; thousands of CIFAR's
    max_quarantined_share: float = Field(default=0.5, ge=0.0, le=1.0)  # above it the source is misread, not damaged
    val_share: float = Field(default=0.0, ge=0.0, lt=1.0)  # of each class's train rows, where the source has no val
    trusted: TrustedSettings = Field(default_factory=TrustedSettings)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """All that stage `prepare` makes of a dataset but the image shards, which lie in its work folder."""

    labels: Labels
    truth: Truth
    quarantined: list[QuarantineRow]
    provenance: pa.Table  # `PROVENANCE`, of crawls alone
    flags: pa.Table  # `FLAGS`, of crawls alone
    test_images_elsewhere: int  # test images that stand, byte for byte, in the train or val split too
    metrics: Mapping[str, Any]  # of crawls alone

    def as_metrics(self) -> dict[str, Any]:
        """Counts for metrics.json."""
        labels, elsewhere = self.labels, self.test_images_elsewhere
        if elsewhere:
            log.warning("prepare: %d test images stand in the train or val split too", elsewhere)
        learned = labels.trusted & (labels.split == "train")
        trusted = np.bincount(labels.label[learned], minlength=len(labels.class_names))
        return {
            "rows": {split: int((labels.split == split).sum()) for split in SPLITS},
            "classes": len(labels.class_names),
            "trusted": int(learned.sum()),
            "trusted_held_out": len(labels.where(split="val", trusted=True)),
            "trusted_per_class": dict(zip(labels.class_names, trusted.tolist(), strict=True)),
            "quarantined": len(self.quarantined),
            "quarantined_by_reason": _by_reason(self.quarantined),
            "test_images_also_in_train_or_val": elsewhere,
            **self.metrics,
        }


@dataclasses.dataclass(frozen=True)
class UsableRows:
    """The index and, row for row, the verified label of each trusted row (`NO_LABEL` for all others)."""

    index: Index
    trusted: IntArray

    def take(self, rows: npt.NDArray[Any]) -> UsableRows:
        """The given rows (numbers or a mask)."""
        return UsableRows(self.index.take(rows), self.trusted[rows])


def usable_rows(
    index: Index, settings: TrustedSettings, ahead: list[str] | None = None
) -> tuple[UsableRows, list[QuarantineRow]]:
    """The rows that have a label to go by, and the others. Only test and verified rows may go by their true label.

    Args:
        ahead: gets the trusted ids that are no row; None: they are an error.
    """
    trusted = np.full(len(index), NO_LABEL, dtype=np.int32)
    if settings.source == "file":
        trusted = labels_from_file(index, settings, ahead)
    has = (index.observed_label != NO_LABEL) | (trusted != NO_LABEL)
    has |= (index.true_label != NO_LABEL) & (index.verified | (index.split == "test"))
    detail = "the source gives no label for this row; label it or drop it"
    missing = [
        QuarantineRow(stage="prepare", reason="missing-label", detail=detail, id=name) for name in index.ids[~has]
    ]
    return UsableRows(index, trusted).take(has), missing


def prepared_labels(rows: UsableRows, rules: PrepareRules, runtime: Runtime) -> Labels:
    """Draw or take the trusted rows, hold a share of them out, and draw the val split.

    Raises:
        ConfigError: a class has no trusted row, and that is not allowed.
    """
    index, verified, settings = rows.index, rows.trusted, rules.trusted
    if settings.source == "draw":
        verified = drawn_labels(index, settings, runtime.numpy_generator("prepare", "trusted"))
    held_out = held_out_rows(index.ids, verified, settings, index.class_names)
    if settings.source != "none":
        counts = np.bincount(verified[(verified != NO_LABEL) & ~held_out], minlength=len(index.class_names))
        refuse_empty_classes(counts.tolist(), index.class_names, settings)
    own_val = held_out_val_labels(index, settings)
    verified = np.where(own_val != NO_LABEL, own_val, verified)
    trusted = verified != NO_LABEL
    observed = np.where(index.observed_label != NO_LABEL, index.observed_label, index.true_label).astype(np.int32)
    split = _with_val(index, observed, trusted, rules.val_share, runtime)
    return Labels(
        ids=index.ids,
        label=np.where(trusted, verified, observed).astype(np.int32),
        observed_label=np.where(trusted, index.observed_label, observed).astype(np.int32),
        trusted=trusted,
        split=np.where(held_out, "val", split).astype(object),
        class_names=index.class_names,
    )


def refuse_misread(quarantined: Sequence[QuarantineRow], rows: int, dataset: str, rules: PrepareRules) -> None:
    """Raise ContractError where there are no rows, or where more of them are quarantined than damage explains."""
    if not rows:
        raise ContractError(f"dataset {dataset}: no rows at all; check its path and columns")
    share = len(quarantined) / rows
    if share > rules.max_quarantined_share or len(quarantined) == rows:
        reasons = ", ".join(f"{reason} {count}" for reason, count in _by_reason(quarantined).items())
        first = quarantined[0]
        raise ContractError(
            f"dataset {dataset}: {len(quarantined)} of {rows} rows cannot be used ({reasons}), more than "
            f"prepare.max_quarantined_share = {rules.max_quarantined_share}. First: {first.id or first.path}: "
            f"{first.detail}"
        )


def _by_reason(quarantined: Sequence[QuarantineRow]) -> dict[str, int]:
    """Rows for each reason, sorted by it."""
    return dict(sorted(collections.Counter(row.reason for row in quarantined).items()))


def truth_of(index: Index) -> Truth:
    """The rows whose truth is known."""
    known = index.true_label != NO_LABEL
    return Truth(ids=index.ids[known], true_label=index.true_label[known])


def _with_val(index: Index, label: IntArray, trusted: npt.NDArray[np.bool_], share: float, runtime: Runtime) -> Ids:
    """The splits, with a share of each class's train rows as val."""
    split, generator = index.split.copy(), runtime.numpy_generator("prepare", "val")
    if not share:
        return split
    if (split == "val").any():
        log.info("prepare.val_share is not used: the source has a val split of its own")
        return split
    for number in range(len(index.class_names)):
        rows = np.flatnonzero((split == "train") & (label == number))
        free = generator.permutation(rows[~trusted[rows]])
        split[free[: round(share * len(rows))]] = "val"
    return split
