"""Out-of-fold predictions on trusted rows: what a fit may see of them, and what replaces an unknown observed label."""

from __future__ import annotations

import numpy as np
import pytest

from lnl_core.config import Settings
from lnl_core.contracts import NO_LABEL
from lnl_core.features.user_table import MappedRows
from lnl_core.purify.decide.cross_fit import (
    JoinedRows,
    cross_fit,
    draw_observed,
    implied_transition,
    trusted_predictions,
)
from lnl_core.purify.none import NoneConfig, none
from lnl_core.purify.task import Purification, PurifyTask
from lnl_core.statistics.transition import posterior


class Quiet(Settings):
    """Nothing to set."""


def small_task(trusted_label: list[int], trusted_observed: list[int], classes: int = 3, rows: int = 30) -> PurifyTask:
    rng = np.random.default_rng(0)
    trusted = len(trusted_label)
    features = rng.normal(size=(rows + trusted, 2)).astype(np.float32)
    features[rows:, 0] = np.arange(trusted) + 100  # so that a fit can see which trusted rows it was given
    return PurifyTask(
        noisy=MappedRows(values=features, rows=np.arange(rows)),
        observed=rng.integers(0, classes, rows).astype(np.int32),
        trusted=features[rows:],
        trusted_label=np.array(trusted_label, dtype=np.int32),
        trusted_observed=np.array(trusted_observed, dtype=np.int32),
        classes=classes,
    )


class Recorder:
    """A purifier that predicts the observed label and remembers what it was shown."""

    def __init__(self) -> None:
        self.tasks: list[PurifyTask] = []

    def __call__(self, task: PurifyTask, config: Settings, generator: np.random.Generator) -> Purification:  # noqa: ARG002
        self.tasks.append(task)
        return Purification(posterior=np.eye(task.classes, dtype=np.float32)[task.observed], metrics={})


def test_joined_rows_stream_both_in_order() -> None:
    values = np.arange(40_000, dtype=np.float32).reshape(20_000, 2)
    joined = JoinedRows(first=MappedRows(values=values, rows=np.arange(19_000)), then=values[19_000:])
    assert joined.shape == (20_000, 2)
    seen = np.full_like(values, np.nan)
    last = 0
    for rows, features in joined.batches():
        assert rows.start == last
        last = rows.stop
        seen[rows] = features
    np.testing.assert_array_equal(seen, values)


def test_a_fold_is_shown_with_its_observed_labels_alone() -> None:
    label, observed = [0, 0, 0, 1, 1, 1, 2, 2, 2], [1, 0, 2, 1, 0, 1, 2, 2, 0]
    task, recorder = small_task(label, observed), Recorder()
    predicted = cross_fit(recorder, Quiet(), task, task.trusted_observed, np.random.default_rng(1), folds=3)
    np.testing.assert_array_equal(predicted.argmax(axis=1), observed)
    held_out = []
    for shown in recorder.tasks:
        kept = set((shown.trusted[:, 0] - 100).astype(int))
        *_, (_, tail) = shown.noisy.batches()
        moved = (tail[:, 0] - 100).astype(int).tolist()
        assert not kept & set(moved)
        assert len(kept) + len(moved) == len(label)
        np.testing.assert_array_equal(shown.observed[len(task.observed) :], np.array(observed)[moved])
        np.testing.assert_array_equal(shown.observed[: len(task.observed)], task.observed)
        held_out += moved
    assert sorted(held_out) == list(range(len(label)))


def test_the_only_trusted_row_of_a_class_is_never_moved() -> None:
    task, recorder = small_task([0, 0, 1, 2, 2], [0, 1, 1, 2, 0]), Recorder()
    predicted = cross_fit(recorder, Quiet(), task, task.trusted_observed, np.random.default_rng(1), folds=3)
    assert np.isnan(predicted[2]).all()
    assert np.isfinite(predicted[[0, 1, 3, 4]]).all()
    assert all(1 in shown.trusted_label for shown in recorder.tasks)
    found = Recorder()(task, Quiet(), np.random.default_rng(0))
    predicted = trusted_predictions(recorder, Quiet(), task, found, np.random.default_rng(1), folds=3)
    assert predicted is not None
    assert len(predicted) == 4


def test_implied_transition_is_the_count_of_each_pair() -> None:
    rng = np.random.default_rng(2)
    soft = rng.dirichlet(np.ones(3), 200).astype(np.float32)
    observed = rng.integers(0, 3, 200).astype(np.int32)
    slow = np.zeros((3, 3))
    for row in range(200):
        for label in range(3):
            slow[label, observed[row]] += soft[row, label]
    np.testing.assert_allclose(implied_transition(soft, observed), slow / slow.sum(axis=1, keepdims=True), atol=1e-5)


def test_a_class_without_mass_keeps_its_labels() -> None:
    soft = np.array([[1, 0, 0], [1, 0, 0]], dtype=np.float32)
    np.testing.assert_allclose(implied_transition(soft, np.array([0, 1], dtype=np.int32))[1:], np.eye(3)[1:])


def test_drawn_labels_follow_the_matrix() -> None:
    transition = np.array([[0.7, 0.3, 0.0], [0.0, 1.0, 0.0], [0.2, 0.2, 0.6]])
    label = np.repeat(np.arange(3), 20_000).astype(np.int32)
    drawn = draw_observed(label, transition, np.random.default_rng(3))
    for true in range(3):
        shares = np.bincount(drawn[label == true], minlength=3) / 20_000
        np.testing.assert_allclose(shares, transition[true], atol=0.015)


def test_an_unknown_observed_label_becomes_drawn_evidence() -> None:
    task = small_task([0, 1, 2, 0, 1, 2], [0, 1, NO_LABEL, NO_LABEL, 0, NO_LABEL])
    alone = np.random.default_rng(4).dirichlet(np.ones(3), 6).astype(np.float32)
    noisy = np.full((30, 3), 1 / 3, dtype=np.float32)
    found = Purification(posterior=noisy, metrics={}, trusted_posterior=alone.copy())
    transition = np.array([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5]])
    predicted = trusted_predictions(
        Recorder(), Quiet(), task, found, np.random.default_rng(5), folds=3, transition=transition
    )
    assert predicted is not None
    np.testing.assert_array_equal(predicted.simulated, [False, False, True, True, False, True])
    np.testing.assert_array_equal(predicted.posterior[~predicted.simulated], alone[~predicted.simulated])
    by_hand = posterior(alone[predicted.simulated], transition, predicted.observed[predicted.simulated])
    np.testing.assert_array_equal(predicted.posterior[predicted.simulated], by_hand)
    assert (transition[predicted.label, predicted.observed][predicted.simulated] > 0).all()
    np.testing.assert_array_equal(found.trusted_posterior, alone)  # the caller's posterior is left as it was


@pytest.mark.parametrize("observed", [[0, 2, NO_LABEL], [NO_LABEL] * 3])
def test_keeping_labels_is_scored_only_where_they_are_known(observed: list[int]) -> None:
    task = small_task([0, 1, 2], observed)
    found = none(task, NoneConfig(), np.random.default_rng(0))
    predicted = trusted_predictions(none, NoneConfig(), task, found, np.random.default_rng(0), folds=3)
    if observed[0] == NO_LABEL:
        assert predicted is None
    else:
        assert predicted is not None
        np.testing.assert_array_equal(predicted.right, [True, False])


def test_no_trusted_rows_no_predictions() -> None:
    task = small_task([], [])
    found = Recorder()(task, Quiet(), np.random.default_rng(0))
    assert trusted_predictions(Recorder(), Quiet(), task, found, np.random.default_rng(0), folds=3) is None
