"""What a purifier says of trusted rows that it has not seen the verified labels of.

Everything that is promised about purified labels (their confidence, the routes, the choice between methods) is measured
on trusted rows that were treated as noisy ones: known to the method by their features and their observed label alone.
Most methods hand such answers over themselves. The others are fitted again, once a fold, with the trusted rows of the
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
    """A purifier's out-of-fold answers on the trusted rows that can be judged; all arrays have a row each."""

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
    """Out-of-fold answers: the method's own, or those of `folds` further fits.

    Args:
        found: the method's answer with the whole trusted set.
        folds: further fits of a method that gives no `trusted_posterior`; below 2: none, and no answers.
        transition: [K, K] to draw unknown observed labels from; by default the one that `found` implies.
    Returns:
        None without trusted rows, or where the method has no answer for any.
    """
    if transition is None:
        transition = implied_transition(found.posterior, task.observed)
    simulated = task.trusted_observed == NO_LABEL
    observed = known_or_drawn(task, transition, generator)
    answer = out_of_fold(make, config, task, found, observed, transition, generator, folds=folds)
    judged = np.isfinite(answer).all(axis=1)
    if not judged.any():
        return None
    return TrustedPredictions(
        posterior=answer[judged],
        label=task.trusted_label[judged],
        observed=observed[judged],
        simulated=simulated[judged],
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
    """[m, K] answers with the labels `observed` [m] as evidence; NaN where there is none.

    The method's own answers lack that evidence where the observed label is unknown: Bayes' rule adds it, by
    `transition`.
    """
    if found.trusted_posterior is not None:
        answer = found.trusted_posterior.astype(np.float32)
        unknown = task.trusted_observed == NO_LABEL
        answer[unknown] = posterior(answer[unknown], transition, observed[unknown])
        return answer
    if len(task.trusted_label) == 0 or folds < 2:
        return np.full((len(task.trusted_label), task.classes), np.nan, dtype=np.float32)
    return cross_fit(make, config, task, observed, generator, folds=folds)


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
    """[m, K] answers on the trusted rows, each by a fit that had its fold among the noisy rows.

    The only trusted row of its class is never moved, for the class would be left without one; its answer is NaN.

    Args:
        observed: [m] the labels under which the rows are moved.
    """
    answers = np.full((len(task.trusted_label), task.classes), np.nan, dtype=np.float32)
    movable = np.bincount(task.trusted_label, minlength=task.classes)[task.trusted_label] > 1
    fold = stratified_folds(task.trusted_label, folds, generator.permutation(len(movable)))
    fold[~movable] = -1
    for number in range(folds):
        moved = fold == number
        if moved.any():
            answers[moved] = make(with_moved(task, moved, observed), config, generator).posterior[len(task.observed) :]
    return answers


def implied_transition(answer: FloatArray, observed: IntArray) -> Array:
    """T[y, j] = p(observed = j | true = y) by counting a posterior [n, K]; a class without mass keeps its labels."""
    classes = answer.shape[1]
    counts = np.stack(
        [answer[observed == label].sum(axis=0, dtype=np.float64) for label in range(classes)], axis=1
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
