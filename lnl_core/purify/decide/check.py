"""What no purifier can work with, found before any of them starts: one place, so that every method says it alike.

Labels, ids and trusted features are checked at once. The noisy features are not read for it: they are checked while the
method streams them for the first time, so a million rows are not read once more, and a method that never reads them
(`none`) does not mind them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from lnl_core.config import ConfigError
from lnl_core.contracts import NO_LABEL, ContractError, FloatArray, Ids, check_range, check_unique
from lnl_core.purify.task import FeatureRows, Place, PurifyTask, parts_of


class CheckedFeatures:
    """Features that raise on the first pass over them where a row is not finite, or where all rows are the same."""

    def __init__(self, rows: FeatureRows, ids: Ids) -> None:
        self._rows, self._ids = rows, ids
        self._checked = False

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, width)."""
        return self._rows.shape

    def parts(self) -> list[Place]:
        """Those of the features beneath, unchecked: a cache refuses what is not finite itself."""
        return parts_of(self._rows)

    def batches(self) -> Iterator[tuple[slice, FloatArray]]:
        """As the features beneath.

        Raises:
            ContractError: NaN or infinity, with the id of the row; or every feature is constant.
        """
        if self._checked:
            yield from self._rows.batches()
            return
        first: FloatArray | None = None
        varies = self.shape[0] < 2
        for rows, features in self._rows.batches():
            _check_finite(features, self._ids[rows], "noisy")
            first = features[:1].copy() if first is None else first
            varies = varies or bool((features != first).any())
            yield rows, features
        if not varies:
            raise ContractError(
                f"features: all {self.shape[0]} noisy rows have the same feature; the encoder sees nothing in them: "
                "use another one, or look whether the features were written as they should"
            )
        self._checked = True


def checked(method: str, task: PurifyTask, ids: Ids, *, needs_trusted: bool) -> PurifyTask:
    """The task, its noisy features checked as they stream.

    Args:
        ids: [n] of the noisy rows, for messages.
        needs_trusted: whether `method` can do without trusted rows.

    Raises:
        ContractError: lengths or widths that do not fit, an id that stands twice, a label out of range, a trusted
            feature that is not finite.
        ConfigError: one class, no noisy rows, or no trusted rows where the method needs them.
    """
    _check_shapes(task, ids)
    if task.classes < 2:
        raise ConfigError(f"{method}: there is {task.classes} class; name all classes, two at least, or purify nothing")
    if len(ids) == 0:
        raise ConfigError(f"{method}: there are no noisy rows, so nothing to purify; trust fewer rows or leave it out")
    if needs_trusted and not len(task.trusted_label):
        raise ConfigError(
            f"{method}: needs trusted rows and there are none; have a few rows of each class verified "
            "and give them as the trusted set, or use a method that needs none (`lnl methods`)"
        )
    trusted = np.array([f"trusted row {row}" for row in range(len(task.trusted_label))], dtype=object)
    _check_finite(task.trusted, trusted, "trusted")
    noisy = CheckedFeatures(task.noisy, ids)
    check_unique(ids, "labels")
    check_range(task.observed, ids, task.classes, "observed label", "labels")
    check_range(task.trusted_label, trusted, task.classes, "verified label", "trusted set")
    known = task.trusted_observed != NO_LABEL
    check_range(task.trusted_observed[known], trusted[known], task.classes, "observed label", "trusted set")
    return dataclasses.replace(task, noisy=noisy)


def _check_shapes(task: PurifyTask, ids: Ids) -> None:
    rows, width = task.noisy.shape
    if not rows == len(task.observed) == len(ids):
        raise ContractError(
            f"features and labels are of different rows: {rows} features, {len(task.observed)} observed labels, "
            f"{len(ids)} ids; make them from the same rows"
        )
    if width == 0:
        raise ContractError("features: have no columns; encode the rows again")
    trusted = len(task.trusted_label)
    if not len(task.trusted) == len(task.trusted_observed) == trusted:
        raise ContractError(
            f"trusted set: {len(task.trusted)} features, {trusted} verified labels, {len(task.trusted_observed)} "
            "observed labels; give one of each for every trusted row"
        )
    if trusted and task.trusted.shape[1] != width:
        raise ContractError(
            f"trusted set: features are {task.trusted.shape[1]} wide, those of the noisy rows {width}; "
            "encode both with the same encoder"
        )


def _check_finite(features: npt.NDArray[np.float32], ids: Ids, which: str) -> None:
    """Raise for the first row with NaN or infinity. One sum shows that all is well, at a fraction of the cost."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(features.sum()):
            return
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise ContractError(
            f"features: {which} row with id {ids[bad[0]]!r} holds NaN or infinity ({len(bad)} such rows in its batch); "
            "drop the rows or encode them again"
        )
