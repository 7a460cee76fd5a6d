"""Predictions of a purifier on trusted rows whose verified labels it has not seen.

Everything that is promised about purified labels (their confidence, the routes, the choice between methods) is measured
on trusted rows that were treated as noisy ones: known to the method by their features and their observed label alone.
Most methods give such predictions themselves. The others are fitted again, once a fold, with the trusted rows of the
fold moved among the noisy rows under their observed label. The features stream as before; a fold adds its own rows.

A trusted row whose observed label nobody knows is given one, drawn from the estimated p(observed | true). The draw
stands for what the source would have said; such rows are marked, for no promise about the source can rest on them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lnl_core.config import Settings
from lnl_core.contracts import NO_LABEL, BoolArray, FloatArray, IntArray
from lnl_core.purify.task import FeatureRows, Place, Purification, Purifier, PurifyTask, parts_of
from lnl_core.statistics.folds import stratified_folds
from lnl_core.statistics.moments import Moments, accumulate
from lnl_core.statistics.transition import posterior

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class TrustedPredictions:
    """Out-of-fold predictions on those trusted rows that have one; all arrays have a row each."""

    posterior: FloatArray  # [s, K] p(true | features, observed)
    label: IntArray  # [s] verified
    observed: IntArray  # [s] what the source had said
    simulated: BoolArray  # [s] the observed label is a draw from the estimated transition matrix

    def __len__(self) -> int:
        return len(self.label)

    @property
    def purified(self) -> IntArray:
        """[s] the label that the purifier would have written."""
        return np.asarray(self.posterior.argmax(axis=1), dtype=np.int32)

    @property
    def right(self) -> BoolArray:
        """[s] is it the verified one?"""
        return np.asarray(self.purified == self.label)


@dataclass(frozen=True, kw_only=True)
class JoinedRows:
    """Streamed rows followed by a few held ones; the `FeatureRows` of a fold."""

    first: FeatureRows  # [n, d]
    then: FloatArray  # [h, d]

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, width)."""
        rows, width = self.first.shape
        return (rows + len(self.then), width)

    def batches(self) -> Iterator[tuple[slice, FloatArray]]:
        """Contiguous ranges with their features [b, d]."""
        yield from self.first.batches()
        if len(self.then):
            yield slice(self.first.shape[0], self.shape[0]), self.then

    def parts(self) -> list[Place]:
        """Those of the streamed rows, and the held ones."""
        held = slice(self.first.shape[0], self.shape[0])
        return [*parts_of(self.first), *([(held, HeldRows(self.then))] if len(self.then) else [])]


@dataclass(frozen=True)
class HeldRows:
    """Rows in memory, one batch."""

    features: FloatArray  # [h, d]

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, width)."""
        rows, width = self.features.shape
        return (rows, width)

    def batches(self) -> Iterator[tuple[slice, FloatArray]]:
        """All of them at once."""
        yield slice(0, len(self.features)), self.features


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What a method makes of a task: of the noisy rows, and of trusted rows treated as noisy ones."""

    found: Purification  # of the noisy rows [n, K]
    trusted: TrustedPredictions | None  # out of fold; they calibrate the confidence
    tested: TrustedPredictions | None  # they test the promise about wrong changes: the hidden ones, or `trusted`


def fit(
    make: Purifier,
    config: Settings,
    task: PurifyTask,
    generator: np.random.Generator,
    *,
    folds: int,
    for_folds: np.random.Generator,
    hidden_share: float,
    for_hidden: np.random.Generator,
) -> Fitted:
    """Fit the method, and predict trusted rows out of fold.

    Args:
        folds: further fits of a method that gives no `trusted_posterior`; below 2: none.
        hidden_share: of the trusted rows with a known observed label, hidden among the noisy rows of the one fit.
    """
    held = hold_out(task, hidden_share, for_hidden) if hidden_share else None
    seen = task if held is None else held.task
    found = make(seen, config, generator)
    trusted = trusted_predictions(make, config, seen, found, for_folds, folds=folds)
    if held is None:
        return Fitted(found=found, trusted=trusted, tested=trusted)
    found, hidden = held.split(found)
    return Fitted(found=found, trusted=trusted, tested=hidden)


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """A task with some trusted rows hidden at the end of its noisy ones, and what was hidden."""

    task: PurifyTask
    label: IntArray  # [h] verified
    observed: IntArray  # [h] under which the rows were hidden

    def split(self, found: Purification) -> tuple[Purification, TrustedPredictions]:
        """What was found for the noisy rows proper, and the predictions on the hidden rows."""
        rows = len(found.posterior) - len(self.label)
        hidden = TrustedPredictions(
            posterior=found.posterior[rows:],
            label=self.label,
            observed=self.observed,
            simulated=np.zeros(len(self.label), dtype=bool),
        )
        return dataclasses.replace(found, posterior=found.posterior[:rows]), hidden


def hold_out(task: PurifyTask, share: float, generator: np.random.Generator) -> HeldOut:
    """Hide a random share of the trusted rows whose observed label is known; each class keeps one trusted row.

    Raises:
        Nothing: with no such row nothing is hidden, and no promise can be kept.
    """
    known = np.flatnonzero(task.trusted_observed != NO_LABEL)
    wanted = generator.permutation(known)[: round(share * len(known))]
    left = np.bincount(task.trusted_label, minlength=task.classes)
    moved = np.zeros(len(task.trusted_label), dtype=bool)
    for row in wanted:
        if left[task.trusted_label[row]] > 1:
            moved[row] = True
            left[task.trusted_label[row]] -= 1
    return HeldOut(
        task=with_moved(task, moved, task.trusted_observed),
        label=task.trusted_label[moved],
        observed=task.trusted_observed[moved],
    )


def trusted_predictions(
    make: Purifier,
    config: Settings,
    task: PurifyTask,
    found: Purification,
    generator: np.random.Generator,
    *,
    folds: int,
    transition: Array | None = None,
) -> TrustedPredictions | None:
    """Out-of-fold predictions: the method's own, or those of `folds` further fits.

    Args:
        found: what the method gives with the whole trusted set.
        folds: further fits of a method that gives no `trusted_posterior`; below 2: none, and no predictions.
        transition: [K, K] to draw unknown observed labels from; by default the one that `found` implies.
    Returns:
        None without trusted rows, or where the method predicts none of them.
    """
    if transition is None:
        transition = implied_transition(found.posterior, task.observed)
    simulated = task.trusted_observed == NO_LABEL
    observed = known_or_drawn(task, transition, generator)
    predicted = out_of_fold(make, config, task, found, observed, transition, generator, folds=folds)
    has = np.isfinite(predicted).all(axis=1)
    if not has.any():
        return None
    return TrustedPredictions(
        posterior=predicted[has],
        label=task.trusted_label[has],
        observed=observed[has],
        simulated=simulated[has],
    )


def out_of_fold(
    make: Purifier,
    config: Settings,
    task: PurifyTask,
    found: Purification,
    observed: IntArray,
    transition: Array,
    generator: np.random.Generator,
    *,
    folds: int,
) -> FloatArray:
    """[m, K] predictions with the labels `observed` [m] as evidence; NaN where there is none.

    The method's own predictions lack that evidence where the observed label is unknown: Bayes' rule adds it, by
    `transition`.
    """
    if found.trusted_posterior is None and len(task.trusted_label) and folds >= 2:
        return cross_fit(make, config, task, observed, generator, folds=folds)
    if found.trusted_posterior is None:
        return np.full((len(task.trusted_label), task.classes), np.nan, dtype=np.float32)
    predicted = found.trusted_posterior.astype(np.float32)
    unknown = task.trusted_observed == NO_LABEL
    predicted[unknown] = posterior(predicted[unknown], transition, observed[unknown])
    return predicted


def known_or_drawn(task: PurifyTask, transition: Array, generator: np.random.Generator) -> IntArray:
    """[m] the observed labels of the trusted rows, unknown ones drawn from row T[verified]."""
    drawn = draw_observed(task.trusted_label, transition, generator)
    return np.where(task.trusted_observed == NO_LABEL, drawn, task.trusted_observed).astype(np.int32)


def cross_fit(
    make: Purifier,
    config: Settings,
    task: PurifyTask,
    observed: IntArray,
    generator: np.random.Generator,
    *,
    folds: int,
) -> FloatArray:
    """[m, K] predictions on the trusted rows, each by a fit that had its fold among the noisy rows.

    The only trusted row of its class is never moved, for the class would be left without one; its prediction is NaN.

    Args:
        observed: [m] the labels under which the rows are moved.
    """
    predicted = np.full((len(task.trusted_label), task.classes), np.nan, dtype=np.float32)
    movable = np.bincount(task.trusted_label, minlength=task.classes)[task.trusted_label] > 1
    fold = stratified_folds(task.trusted_label, folds, generator.permutation(len(movable)))
    fold[~movable] = -1
    for number in range(folds):
        moved = fold == number
        if moved.any():
            predicted[moved] = make(with_moved(task, moved, observed), config, generator).posterior[
                len(task.observed) :
            ]
    return predicted


def implied_transition(soft_label: FloatArray, observed: IntArray) -> Array:
    """T[y, j] = p(observed = j | true = y) by counting a posterior [n, K]; a class without mass keeps its labels."""
    classes = soft_label.shape[1]
    counts = np.stack(
        [soft_label[observed == label].sum(axis=0, dtype=np.float64) for label in range(classes)], axis=1
    ) + 1e-6 * np.eye(classes)
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def draw_observed(label: IntArray, transition: Array, generator: np.random.Generator) -> IntArray:
    """An observed label for each verified one, by inversion of the cumulative rows of T."""
    cumulative = np.cumsum(transition, axis=1)[label]
    drawn = (generator.random(len(label))[:, None] >= cumulative).sum(axis=1)
    return np.asarray(np.minimum(drawn, transition.shape[1] - 1), dtype=np.int32)


def with_moved(task: PurifyTask, moved: BoolArray, observed: IntArray) -> PurifyTask:
    """The task with some trusted rows at the end of the noisy ones, under their observed label."""
    if task.second_view is not None and task.trusted_second_view is not None:
        second = JoinedRows(first=task.second_view, then=task.trusted_second_view[moved])
        task = dataclasses.replace(task, second_view=second, trusted_second_view=task.trusted_second_view[~moved])
    if task.sums is not None:
        task = dataclasses.replace(task, sums=functools.partial(_sums_with, task, moved, observed))
    return dataclasses.replace(
        task,
        noisy=JoinedRows(first=task.noisy, then=task.trusted[moved]),
        observed=np.concatenate([task.observed, observed[moved]]).astype(np.int32),
        trusted=task.trusted[~moved],
        trusted_label=task.trusted_label[~moved],
        trusted_observed=task.trusted_observed[~moved],
    )


def _sums_with(task: PurifyTask, moved: BoolArray, observed: IntArray) -> Moments:
    """The kept sums with the moved rows added, instead of a pass over all features."""
    features = task.trusted[moved]
    batch = [(slice(0, len(features)), features)]
    return task.moments().plus(accumulate(batch, observed[moved], task.noisy.shape[1], task.classes, np.float64))
