"""Each rule speaks when its number says so, and is silent otherwise."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from lnl_core.report.advice import Advice, advise

CALM: dict[str, Any] = {
    "labels": {
        "rows": 1000,
        "rows_with_truth": 1000,
        "below_half_confidence": 0,
        "accuracy_before": 0.6,
        "accuracy_after": 0.95,
        "balanced_accuracy_after": 0.95,
    },
    "noise": {"rate_estimated": 0.4},
    "trusted": {"rows": 100, "with_observed": 100, "noise_rate": 0.41, "noise_low": 0.32, "noise_high": 0.51},
    "calibration": {"ece": 0.01, "overconfidence": 0.0},
    "test": {
        "rows": 500,
        "label_source": "truth",
        "model_best": {"accuracy": 0.9, "accuracy_low": 0.87},
        "model_last": {"accuracy": 0.9},
        "gain": {"difference": 0.1, "low": 0.05, "high": 0.15},
    },
}
PREPARE = {"trusted_per_class": {"cat": 50, "dog": 50}, "quarantined": 0, "test_images_also_in_train_or_val": 0}


def advice(changes: dict[str, Any], prepare: dict[str, Any] | None = None, **rest: Any) -> list[Advice]:
    scores = copy.deepcopy(CALM)
    for keys, value in changes.items():
        *path, last = keys.split(".")
        inner = scores
        for key in path:
            inner = inner[key]
        inner[last] = value
    metrics = {"evaluate": scores, "prepare": PREPARE | (prepare or {})}
    return advise(metrics, rest.get("per_class", []), rest.get("diagonal", {}))


def titles(found: list[Advice], *kinds: str) -> list[str]:
    return [item.title for item in found if item.kind in kinds]


def test_a_calm_run_only_has_good_news() -> None:
    assert titles(advice({}), "do", "caution") == []
    assert titles(advice({}), "good") == ["No very unsure labels", "Purification made the model better"]


@pytest.mark.parametrize(
    ("changes", "kind", "title"),
    [
        ({"labels.below_half_confidence": 12}, "do", "Look at 12 unsure labels"),
        ({"labels.below_half_confidence": 1}, "do", "Look at 1 unsure label"),
        ({"labels.rows_with_truth": 0}, "do", "Check a random sample"),
        ({"trusted": {"rows": 0}}, "do", "Verify some rows"),
        ({"labels.accuracy_after": 0.55}, "caution", "Purification did not help the labels"),
        ({"noise.rate_estimated": 0.7}, "caution", "Two noise rates that disagree"),
        ({"calibration": {"ece": 0.2, "overconfidence": 0.2}}, "caution", "Rank by confidence, do not trust its value"),
        ({"test.label_source": "observed"}, "caution", "Test labels are not verified"),
        ({"test.model_last": {"accuracy": 0.8}}, "caution", "The model forgets towards the end"),
        (
            {"test.gain": {"difference": -0.1, "low": -0.2, "high": -0.01}},
            "caution",
            "Purification made the model worse",
        ),
        ({"test.gain": {"difference": 0.01, "low": -0.01, "high": 0.03}}, "caution", "No clear difference on test"),
    ],
)
def test_each_rule(changes: dict[str, Any], kind: str, title: str) -> None:
    assert titles(advice(changes), "do", "caution") == [title]
    assert titles(advice(changes), kind) == [title]


def test_over_and_underconfidence_have_opposite_harm() -> None:
    [over] = [item for item in advice({"calibration": {"ece": 0.2, "overconfidence": 0.2}}) if item.kind == "caution"]
    [under] = [item for item in advice({"calibration": {"ece": 0.2, "overconfidence": -0.2}}) if item.kind == "caution"]
    assert "too high" in over.text
    assert "lets more wrong labels through" in over.text
    assert "too low" in under.text
    assert "drops more labels" in under.text


def test_of_the_data() -> None:
    few = advice({}, {"trusted_per_class": {"cat": 3, "dog": 50}})
    assert "1 of 2 classes have fewer than 10 trusted rows: cat (3)." in few[0].text
    assert titles(advice({}, {"quarantined": 2, "quarantined_by_reason": {"empty-file": 2}}), "do") == [
        "Mend 2 quarantined rows"
    ]
    assert titles(advice({}, {"test_images_also_in_train_or_val": 4}), "caution") == [
        "Test images in the training data"
    ]


def test_of_the_classes() -> None:
    rows = [
        {"class": "cat", "after": "0.5", "observed_rows": "9", "purified_rows": "9"},
        {"class": "dog", "after": "0.99", "observed_rows": "9", "purified_rows": "0"},
    ]
    found = advice({}, per_class=rows)
    assert titles(found, "do") == ["Strengthen the weakest classes"]
    assert "cat" in found[0].text
    assert titles(found, "caution") == ["Purification emptied a class"]
    assert titles(advice({}, diagonal={"cat": 0.3, "dog": 0.9}), "caution") == [
        "Classes with more wrong labels than right ones"
    ]
    assert titles(advice({}, diagonal={"cat": 0.3, "dog": 0.3}), "caution") == []


def of_training(rate: float, *, source: str = "trusted", **training: Any) -> list[Advice]:
    metrics = {"evaluate": CALM | {"training": training}, "train": {"noise": {"rate": rate, "source": source}}}
    return [item for item in advise(metrics, [], {}) if item.kind != "good"]


def test_a_leaky_selection_names_its_precision_and_the_estimate_behind_it() -> None:
    leaky = {"precision": 0.8, "recall": 0.9, "selected": 0.7}
    [found] = of_training(0.2, selection=leaky, noise_rate=0.5)
    assert found.title == "Wrong labels are learned as right ones"
    text = found.text.replace("\u00a0", " ")
    assert "precision 80.0 %" in text
    assert "an estimate of 20.0 % wrong labels, 50.0 % are wrong: the estimate is too low" in text
    [found] = of_training(0.48, selection=leaky, noise_rate=0.5)
    assert "estimate" not in found.text  # a fair estimate is not to blame
    assert of_training(0.2, selection={**leaky, "precision": 0.95}, noise_rate=0.5) == []


def test_a_timid_selection_names_its_recall() -> None:
    timid = {"precision": 0.99, "recall": 0.3, "selected": 0.2}
    [found] = of_training(0.7, selection=timid, noise_rate=0.4)
    assert found.title == "Right labels are left unused"
    text = found.text.replace("\u00a0", " ")
    assert "selected 30.0 % of the rows whose label is right" in text
    assert "an estimate of 70.0 % wrong labels, 40.0 % are wrong: the estimate is too high" in text


def test_without_truth_nothing_is_said_of_the_selection() -> None:
    blind = {"precision": None, "recall": None, "selected": 0.2}
    assert of_training(0.7, selection=blind, predicted={"accuracy": None, "learned": None}) == []


def test_predictions_worse_than_the_labels() -> None:
    [found] = of_training(0.4, predicted={"accuracy": 0.55, "learned": 0.6})
    assert found.title == "The method knows less than its labels"
    assert of_training(0.4, predicted={"accuracy": 0.65, "learned": 0.6}) == []


def test_an_assumed_noise_rate_is_something_to_do() -> None:
    [found] = of_training(0.2, source="assumed")
    assert found.kind == "do"
    assert "assumed 20.0 % wrong" in found.text.replace("\u00a0", " ")


def test_before_evaluation() -> None:
    [only] = advise({}, [], {})
    assert only.title == "Evaluate the run"
