"""Selection and predicted labels against the truth: cases counted by hand, slow twins, and rows that must not count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lnl_core.contracts import NO_LABEL, Labels, Purified, Truth, string_ids
from lnl_core.evaluate.learned_labels import LearnedLabels, learned_labels, learned_transition
from lnl_core.evaluate.training_trace import score_epoch, score_selection, score_trace
from lnl_core.training.training_trace import TraceEpoch, trace_files, write_trace

IDS = string_ids(["a", "b", "c", "d", "e", "f"])
LABEL = np.array([0, 1, 0, 1, 1, 0], dtype=np.int32)
TRUE = np.array([0, 1, 1, 1, NO_LABEL, 0], dtype=np.int32)
LEARNED = LearnedLabels(
    ids=IDS, label=LABEL, observed=np.array([0, 0, 0, 1, 1, 0], dtype=np.int32), true=TRUE, classes=2
)
SELECTED = np.array([True, False, True, True, True, False])
CLEAN = np.array([0.9, 0.2, 0.6, 0.8, 0.99, 0.4], dtype=np.float32)


def test_selection_counted_by_hand() -> None:
    found = score_epoch(TraceEpoch(epoch=3, ids=IDS, selected=SELECTED, clean=CLEAN), LEARNED)
    assert found.epoch == 3
    assert found.selection is not None
    assert found.selection.selected == pytest.approx(4 / 6)
    assert found.selection.precision == pytest.approx(2 / 3)  # a, c, d have truth; c is wrong
    assert found.selection.recall == pytest.approx(2 / 4)  # of a, b, d, f these: a, d
    assert found.selection.auc == pytest.approx(2 / 4)  # 0.9 and 0.8 lie above c's 0.6, 0.2 and 0.4 below
    assert found.predicted is None
    assert found.losses is None


def test_without_a_probability_the_selection_itself_ranks() -> None:
    found = score_epoch(TraceEpoch(epoch=1, ids=IDS, selected=SELECTED), LEARNED).selection
    assert found is not None
    assert found.auc == pytest.approx((0.5 + 0 + 0.5 + 0) / 4)  # a tie counts half


def test_without_a_selection_the_probability_still_ranks() -> None:
    found = score_epoch(TraceEpoch(epoch=1, ids=IDS, clean=CLEAN), LEARNED).selection
    assert found is not None
    assert (found.selected, found.precision, found.recall) == (None, None, None)
    assert found.auc == pytest.approx(0.5)


def test_predicted_labels_counted_by_hand() -> None:
    predicted = np.array([0, 1, 1, 0, 0, 0], dtype=np.int32)
    found = score_epoch(TraceEpoch(epoch=1, ids=IDS, predicted=predicted), LEARNED).predicted
    assert found is not None
    assert found.accuracy == pytest.approx(4 / 5)  # d is wrong, e has no truth
    assert found.learned == pytest.approx(4 / 5)  # c
    assert found.observed == pytest.approx(3 / 5)  # b, c


def test_added_trusted_rows_do_not_count() -> None:
    """`t1` and `t2` are none of the training rows; all else stays as it was."""
    ids = string_ids([*IDS, "t1", "t2"])
    more = TraceEpoch(
        epoch=1, ids=ids, selected=np.append(SELECTED, [True, True]), clean=np.append(CLEAN, [1, 1]).astype(np.float32)
    )
    assert score_epoch(more, LEARNED) == score_epoch(
        TraceEpoch(epoch=1, ids=IDS, selected=SELECTED, clean=CLEAN), LEARNED
    )


def test_rows_that_sat_the_epoch_out_do_not_count() -> None:
    found = score_epoch(TraceEpoch(epoch=1, ids=IDS[:4], selected=SELECTED[:4]), LEARNED).selection
    assert found is not None
    assert found.selected == 3 / 4
    assert found.recall == pytest.approx(2 / 3)


def test_without_truth_the_share_remains() -> None:
    blind = LearnedLabels(ids=IDS, label=LABEL, observed=LABEL, true=np.full(6, NO_LABEL, np.int32), classes=2)
    found = score_epoch(TraceEpoch(epoch=1, ids=IDS, selected=SELECTED, clean=CLEAN, predicted=LABEL), blind)
    assert found.selection is not None
    assert (found.selection.selected, found.selection.precision) == (pytest.approx(4 / 6), None)
    assert (found.selection.recall, found.selection.auc) == (None, None)
    assert found.predicted is not None
    assert found.predicted.accuracy is None


@pytest.mark.parametrize("seed", range(5))
def test_against_loops(seed: int) -> None:
    draw = np.random.default_rng(seed)
    right, known, selected = (draw.random(60) < share for share in (0.6, 0.8, 0.5))
    clean = draw.integers(0, 10, 60).astype(np.float32) / 10
    found = score_selection(selected, clean, right, known)
    hits = [right[i] for i in range(60) if known[i] and selected[i]]
    kept = [selected[i] for i in range(60) if known[i] and right[i]]
    assert found.precision == pytest.approx(sum(hits) / len(hits))
    assert found.recall == pytest.approx(sum(kept) / len(kept))
    pairs = [
        1.0 if clean[i] > clean[j] else 0.5 if clean[i] == clean[j] else 0.0
        for i in range(60)
        for j in range(60)
        if known[i] and known[j] and right[i] and not right[j]
    ]
    assert found.auc == pytest.approx(sum(pairs) / len(pairs))


def test_nothing_selected_and_nothing_wrong_are_undefined_not_zero() -> None:
    every = np.ones(3, dtype=bool)
    found = score_selection(~every, None, every, every)
    assert (found.selected, found.precision, found.recall, found.auc) == (0.0, None, 0.0, None)


def test_epochs_come_from_their_files_in_order(tmp_path: Path) -> None:
    for epoch in (10, 2):
        write_trace(tmp_path, TraceEpoch(epoch=epoch, ids=IDS, selected=SELECTED))
    assert [found.epoch for found in score_trace(trace_files(tmp_path), LEARNED)] == [2, 10]
    assert score_trace(trace_files(tmp_path / "none"), LEARNED) == []


def test_labels_are_those_that_were_learned_from() -> None:
    """d is trusted and f a test row; c goes to review, so its observed label was learned from."""
    labels = Labels(
        ids=IDS,
        label=LABEL,
        observed_label=LABEL,
        trusted=IDS == "d",
        split=string_ids(["train"] * 5 + ["test"]),
        class_names=("x", "y"),
    )
    purified = Purified(
        ids=string_ids(["a", "b", "c", "e"]),
        label=LABEL[[0, 1, 2, 4]],
        purified_label=np.array([1, 1, 1, 0], dtype=np.int32),
        confidence=np.full(4, 0.5, np.float32),
        soft_label=np.full((4, 2), 0.5, np.float32),
        class_names=("x", "y"),
        review=np.array([False, False, True, False]),
    )
    truth = Truth(ids=IDS[:3], true_label=TRUE[:3])
    observed = learned_labels("observed", labels, purified, truth)
    assert observed.ids.tolist() == ["a", "b", "c", "e"]
    assert observed.label.tolist() == [0, 1, 0, 1]
    assert observed.true.tolist() == [0, 1, 1, NO_LABEL]
    for kind in ("purified_hard", "purified_soft", "confidence_weighted"):
        assert learned_labels(kind, labels, purified, truth).label.tolist() == [1, 1, 0, 0]


def test_transition_of_the_learned_labels() -> None:
    found = learned_transition(LEARNED)
    assert found is not None
    np.testing.assert_allclose(found, [[1, 0], [1 / 3, 2 / 3]])
