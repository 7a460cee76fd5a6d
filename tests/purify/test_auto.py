"""Which candidate is chosen, by rules held against loops, and what happens where little is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sklearn.datasets import load_digits

from lnl_core.config import ConfigError
from lnl_core.contracts import NO_LABEL, string_ids
from lnl_core.features.user_table import MappedRows
from lnl_core.purify.auto import AutoConfig, Score, auto, choose, geometric_mean
from lnl_core.purify.decide.decide import purify
from lnl_core.purify.task import PurifyTask

CHEAP = AutoConfig(candidates=("trusted_only", "knn", "confident_learning", "none"))


def digits_task(noise: float, trusted: int = 80, classes: int = 5, seed: int = 0) -> tuple[PurifyTask, np.ndarray]:
    data = load_digits(n_class=classes)
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(data.target))[: 400 + trusted]
    true, features = data.target[rows].astype(np.int32), data.data[rows].astype(np.float32)
    wrong = rng.random(len(rows)) < noise
    observed = np.where(wrong, (true + rng.integers(1, classes, len(rows))) % classes, true).astype(np.int32)
    task = PurifyTask(
        noisy=MappedRows(values=features, rows=np.arange(400)),
        observed=observed[:400],
        trusted=features[400:],
        trusted_label=true[400:],
        trusted_observed=observed[400:],
        classes=classes,
    )
    return task, true[:400]


def score(right: list[int], loss: float) -> Score:
    rows = len(right)
    return Score(right=np.array(right, dtype=float), loss=np.full(rows, loss), weight=np.full(rows, 1 / rows))


def test_standard_error_is_that_of_paired_rows() -> None:
    rng = np.random.default_rng(0)
    first, second, weight = rng.integers(0, 2, 50), rng.integers(0, 2, 50), rng.dirichlet(np.ones(50))
    one = Score(right=first.astype(float), loss=np.zeros(50), weight=weight)
    two = Score(right=second.astype(float), loss=np.zeros(50), weight=weight)
    gap, error = one.behind(two)
    assert gap == pytest.approx(sum(w * (b - a) for w, a, b in zip(weight, first, second, strict=True)))
    slow = sum(w**2 * (b - a) ** 2 for w, a, b in zip(weight, first, second, strict=True)) ** 0.5
    assert error == pytest.approx(slow)


def test_one_row_decides_nothing_and_many_do() -> None:
    surer = score([1] * 19 + [0], 0.1)
    assert choose({"right": score([1] * 20, 0.5), "sure": surer}) == "sure"
    assert choose({"right": score([1] * 20, 0.5), "sure": score([1] * 12 + [0] * 8, 0.1)}) == "right"


@pytest.mark.parametrize("noise", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("known", [True, False])
def test_choice_is_not_below_a_candidate_by_more_than_its_error(noise: float, known: bool) -> None:
    task, true = digits_task(noise)
    if not known:
        task = dataclasses.replace(task, trusted_observed=np.full(80, NO_LABEL, dtype=np.int32))
    found = auto(task, CHEAP, np.random.default_rng(1))
    table = {record["method"]: record for record in found.metrics["candidates"]}
    assert set(CHEAP.candidates) <= set(table)
    chosen = table[found.metrics["chosen"]["method"]]
    assert all(chosen["right"] >= other["right"] - other["standard_error"] - chosen["standard_error"] - 1e-9
               for other in table.values())  # fmt: skip
    assert chosen["behind_best"] <= chosen["standard_error"] + 1e-9
    assert found.metrics["observed_labels_drawn"] == (0 if known else 80)
    assert (found.posterior.argmax(axis=1) == true).mean() >= (task.observed == true).mean() - 0.03


def test_right_labels_are_kept_where_nothing_is_wrong() -> None:
    task, true = digits_task(0.0)
    found = auto(task, CHEAP, np.random.default_rng(1))
    kept = {record["method"]: record["right"] for record in found.metrics["candidates"]}
    assert kept["none"] == 1
    np.testing.assert_array_equal(found.posterior.argmax(axis=1), true)


def test_predictions_on_trusted_rows_reach_the_calibration() -> None:
    task, _ = digits_task(0.4)
    ids = string_ids([str(row) for row in range(400)])
    purified, metrics = purify("auto", CHEAP, task, ids, tuple("abcde"), 0)
    assert metrics["calibrated_on"] == 80
    assert abs(metrics["held_out_confidence"] - metrics["held_out_right"]) < 0.1
    assert ((purified.confidence >= 0) & (purified.confidence <= 1)).all()


def test_without_trusted_rows_it_says_what_purifies() -> None:
    task, true = digits_task(0.4)
    nobody = np.empty(0, dtype=np.int32)
    task = dataclasses.replace(task, trusted=task.trusted[:0], trusted_label=nobody, trusted_observed=nobody)
    found = auto(task, CHEAP, np.random.default_rng(1))
    assert found.metrics["chosen"] == {"method": "confident_learning"}
    assert (found.posterior.argmax(axis=1) == true).mean() > 0.75
    with pytest.raises(ConfigError, match="every candidate needs trusted rows"):
        auto(task, AutoConfig(candidates=("trusted_only",)), np.random.default_rng(1))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (AutoConfig(candidates=("knm",)), "did you mean 'knn'"),
        (AutoConfig(candidates=("auto", "none")), "its own candidate"),
        (AutoConfig(candidates=("none",), options={"knn": {"rounds": 0}}), "auto.options.knn: no candidate"),
        (AutoConfig(candidates=("knn",), options={"knn": {"round": 0}}), "auto.options.knn.round: unknown setting"),
    ],
)
def test_bad_settings(config: AutoConfig, message: str) -> None:
    task, _ = digits_task(0.4)
    with pytest.raises(ConfigError, match=message):
        auto(task, config, np.random.default_rng(0))


def test_geometric_mean_by_hand() -> None:
    found = geometric_mean(np.array([[0.9, 0.1]], dtype=np.float32), np.array([[0.4, 0.6]], dtype=np.float32))
    first, second = (0.9 * 0.4) ** 0.5, (0.1 * 0.6) ** 0.5
    np.testing.assert_allclose(found, [[first / (first + second), second / (first + second)]], rtol=1e-5)
