"""Joining with the truth on id, and what can be said without any."""

from __future__ import annotations

import numpy as np
import pytest

from lnl_core.contracts import NO_LABEL, Labels, Purified, Truth, string_ids
from lnl_core.evaluate.labels import purified_rows, score_labels, score_trusted, true_transition


def purified() -> Purified:
    soft = np.array([[0.9, 0.1], [0.3, 0.7], [0.6, 0.4]], dtype=np.float32)
    return Purified(
        ids=string_ids(["b", "c", "e"]),
        label=np.array([0, 0, 1], dtype=np.int32),
        purified_label=np.array([0, 1, 0], dtype=np.int32),
        confidence=soft.max(axis=1),
        soft_label=soft,
        class_names=("cat", "dog"),
    )


def truth(**labels: int) -> Truth:
    return Truth(ids=string_ids(list(labels)), true_label=np.array(list(labels.values()), dtype=np.int32))


def test_truth_joins_on_id_in_any_order_and_may_be_partial() -> None:
    rows = purified_rows(purified(), truth(e=1, a=0, b=0, z=1))
    assert rows.true.tolist() == [0, NO_LABEL, 1]
    assert rows.with_truth.ids.tolist() == ["b", "e"]
    scores = score_labels(rows, 10)
    assert scores["labels"]["rows"] == 3
    assert scores["labels"]["rows_with_truth"] == 2
    assert scores["labels"]["accuracy_before"] == 1.0
    assert scores["labels"]["accuracy_after"] == 0.5
    assert scores["labels"]["right_to_wrong"] == 1


def test_without_truth_nothing_is_measured() -> None:
    rows = purified_rows(purified(), truth())
    scores = score_labels(rows, 10)
    assert set(scores) == {"labels", "noise"}
    assert "accuracy_after" not in scores["labels"]
    assert scores["labels"]["changed"] == 2
    assert scores["noise"] == {"rate_by_suspicion": pytest.approx((0.1 + 0.7 + 0.6) / 3, abs=1e-6)}
    assert true_transition(rows) is None


def test_a_true_label_outside_the_classes_is_an_error() -> None:
    with pytest.raises(ValueError, match="true_label 2 is outside 0 to 1"):
        purified_rows(purified(), truth(b=2))


def test_trusted_rows_estimate_the_noise() -> None:
    labels = Labels(
        ids=string_ids([f"r{row}" for row in range(6)]),
        label=np.array([0, 1, 1, 0, 1, 0], dtype=np.int32),
        observed_label=np.array([0, 0, NO_LABEL, 1, 1, 1], dtype=np.int32),
        trusted=np.array([True, True, True, True, False, True]),
        split=np.array(["train"] * 5 + ["test"], dtype=object),
        class_names=("cat", "dog"),
    )
    found = score_trusted(labels)
    assert (found["rows"], found["with_observed"]) == (4, 3)
    assert found["noise_rate"] == pytest.approx(2 / 3)
    assert found["noise_low"] < 2 / 3 < found["noise_high"]
