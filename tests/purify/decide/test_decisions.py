"""Decisions that hold against small evidence: by hand, by a loop, through the routes, and with the wrong file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from lnl_core.config import ConfigError
from lnl_core.contracts import NO_LABEL, Purified, string_ids, write_purified
from lnl_core.files import file_md5
from lnl_core.purify.decide.cross_fit import TrustedPredictions
from lnl_core.purify.decide.decide import purify
from lnl_core.purify.decide.decisions import Past, UpdateSettings, decided_before, previous_version, with_margin
from lnl_core.purify.decide.routes import RouteSettings, rows_for_review
from lnl_core.purify.knn import KNNConfig
from lnl_core.purify.task import PurifyTask

MD5 = "0" * 32


def past_of(label: list[int], margin: float) -> Past:
    settings = UpdateSettings(previous_md5=MD5, flip_margin=margin)
    return Past(label=np.array(label, dtype=np.int32), settings=settings)


def test_margins_by_hand() -> None:
    """ln 2 = 0.693: with 0.7, 0.6 against 0.31 holds (0.660) and against 0.29 flips (0.727)."""
    posterior = np.array([[0.6, 0.31, 0.09], [0.6, 0.29, 0.11], [0.6, 0.31, 0.09], [0.0, 1.0, 0.0]], dtype=np.float32)
    past = past_of([1, 1, NO_LABEL, 0], 0.7)
    assert with_margin(posterior, past).tolist() == [1, 0, 0, 1]
    assert with_margin(posterior, None).tolist() == [0, 0, 0, 1]
    assert with_margin(posterior, past_of([1, 1, 1, 0], 0.0)).tolist() == [0, 0, 0, 1]


def test_without_a_margin_a_tie_is_decided_as_without_a_past() -> None:
    posterior = np.array([[0.5, 0.5]], dtype=np.float32)
    assert with_margin(posterior, past_of([1], 0.0)).tolist() == with_margin(posterior, None).tolist() == [0]
    assert with_margin(posterior, past_of([1], 0.1)).tolist() == [1]


@pytest.mark.parametrize("margin", [0.1, 0.7, 2.0])
def test_decisions_are_those_of_a_loop(margin: float) -> None:
    generator = np.random.default_rng(3)
    posterior = generator.dirichlet(np.ones(4), size=500).astype(np.float32)
    before = generator.integers(-1, 4, size=500)
    expected = []
    for row, old in zip(posterior, before, strict=True):
        new = int(row.argmax())
        flips = old == NO_LABEL or math.log(row[new]) - math.log(row[old]) > margin
        expected.append(new if flips else int(old))
    found = with_margin(posterior, past_of(before.tolist(), margin))
    assert found.tolist() == expected
    assert 0 < (found != posterior.argmax(axis=1)).sum() < 500


def purified(ids: list[str], label: list[int], decided: list[int], names: tuple[str, ...]) -> Purified:
    return Purified(
        ids=string_ids(ids),
        label=np.array(label, dtype=np.int32),
        purified_label=np.array(decided, dtype=np.int32),
        confidence=np.full(len(ids), 0.5, dtype=np.float32),
        soft_label=np.full((len(ids), len(names)), 1 / len(names), dtype=np.float32),
        class_names=names,
    )


def test_the_past_of_rows_joins_on_id_and_class_name() -> None:
    before = purified(["a", "b", "c", "d"], [0, 1, 0, 1], [1, 1, 2, 0], ("cat", "dog", "emu"))
    ids = string_ids(["d", "new", "a", "b", "c"])
    observed = np.array([0, 0, 1, 1, 1], dtype=np.int32)  # by the names below: d dog, a cat, b cat (was dog), c cat
    found = decided_before(before, ids, observed, ("dog", "cat"))
    assert found.tolist() == [1, NO_LABEL, 0, NO_LABEL, NO_LABEL]  # c was decided as emu, which is no class now


def held_routes(settings: RouteSettings, right: bool) -> list[str]:
    """Routes of four rows of observed label 0: kept against the mode, held as a change, changed by the mode, kept."""
    posterior = np.array([[0.4, 0.6], [0.65, 0.35], [0.4, 0.6], [0.9, 0.1]], dtype=np.float32)
    observed, label = np.zeros(4, dtype=np.int32), np.array([0, 1, 1, 0], dtype=np.int32)
    predicted = TrustedPredictions(
        posterior=np.tile(np.array([[0.38, 0.62]], dtype=np.float32), (200, 1)),
        label=np.full(200, int(right), dtype=np.int32),
        observed=np.zeros(200, dtype=np.int32),
        simulated=np.zeros(200, dtype=bool),
    )
    review, metrics = rows_for_review(posterior, label, observed, predicted, settings, np.random.default_rng(0))
    if review is None:
        assert metrics == {}
        review = np.zeros(4, dtype=bool)
    else:
        assert metrics["routes"] == {
            "keep": 2, "relabel": int((~review & (label != observed)).sum()), "review": int(review.sum())
        }  # fmt: skip
    return ["review" if row else "relabel" if new else "keep" for row, new in zip(review, label, strict=True)]


def test_a_held_change_is_reviewed_where_a_promise_is_made() -> None:
    """Every change of the trusted rows is right, down to 0.62; none of them tested the held row, 0.35 against 0.65."""
    promise = RouteSettings(max_wrong_changes=0.05)
    assert held_routes(promise, right=True) == ["keep", "review", "relabel", "keep"]
    assert held_routes(promise, right=False) == ["keep", "review", "review", "keep"]
    assert held_routes(RouteSettings(), right=True) == ["keep", "relabel", "relabel", "keep"]


def task_of(rows: int) -> tuple[PurifyTask, np.ndarray]:
    generator = np.random.default_rng(0)
    label = generator.integers(2, size=rows).astype(np.int32)
    features = (label[:, None] + generator.normal(scale=0.6, size=(rows, 3))).astype(np.float32)
    observed = np.where(generator.random(rows) < 0.3, 1 - label, label).astype(np.int32)
    trusted = slice(0, 60)
    return PurifyTask(
        noisy=Rows(features[60:]),
        observed=observed[60:],
        trusted=features[trusted],
        trusted_label=label[trusted],
        trusted_observed=observed[trusted],
        classes=2,
    ), features


class Rows:
    """An array, streamed."""

    def __init__(self, features: np.ndarray) -> None:
        self.features = features

    @property
    def shape(self) -> tuple[int, int]:
        return self.features.shape[0], self.features.shape[1]

    def batches(self):  # type: ignore[no-untyped-def]
        for start in range(0, len(self.features), 50):
            yield slice(start, start + 50), self.features[start : start + 50]


def test_a_held_row_has_its_posterior_as_confidence_and_says_whose_decision_it_is() -> None:
    task, _ = task_of(360)
    ids = string_ids([f"{row:03d}" for row in range(300)])
    anew, _ = purify("knn", KNNConfig(), task, ids, ("a", "b"), 0)
    flipped = 1 - anew.purified_label
    found, _ = purify("knn", KNNConfig(), task, ids, ("a", "b"), 0, past=past_of(flipped.tolist(), 0.7))
    held = found.purified_label == flipped
    assert 0 < held.sum() < len(held)
    rows = np.flatnonzero(held)
    assert np.array_equal(found.confidence[rows], found.soft_label[rows, flipped[rows]])
    assert np.array_equal(found.soft_label, anew.soft_label)
    assert found.about["update"] == {"previous_md5": MD5, "flip_margin": 0.7}
    without, _ = purify("knn", KNNConfig(), task, ids, ("a", "b"), 0, past=past_of(flipped.tolist(), 0.0))
    assert "update" not in without.about
    assert np.array_equal(without.purified_label, anew.purified_label)


def test_the_version_before_is_the_one_that_the_settings_name(tmp_path: Path) -> None:
    path = tmp_path / "purified.parquet"
    assert previous_version(path, UpdateSettings()) is None
    with pytest.raises(ConfigError, match=r"no such file, and purify.update.previous_md5 is 0000.*lnl reclean"):
        previous_version(path, UpdateSettings(previous_md5=MD5))
    write_purified(path, purified(["a"], [0], [1], ("cat", "dog")))
    found = previous_version(path, UpdateSettings(previous_md5=file_md5(path)))
    assert found is not None
    assert found.ids.tolist() == ["a"]
    with pytest.raises(ConfigError, match=rf"its md5 is {file_md5(path)}, but purify.update.previous_md5 is 0000"):
        previous_version(path, UpdateSettings(previous_md5=MD5))
    assert previous_version(path, UpdateSettings()) is None


@pytest.mark.parametrize("value", ["abc", "0" * 31, "G" * 32])
def test_an_md5_has_32_hex_digits(value: str) -> None:
    with pytest.raises(ValueError, match="previous_md5"):
        UpdateSettings(previous_md5=value)
