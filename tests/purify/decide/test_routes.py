"""Routes end to end: purifiers on clustered features, the promise about wrong changes over many draws of all rows."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest
from scipy.stats import binom

from lnl_core.config import ConfigError, parse
from lnl_core.contracts import NO_LABEL, Purified, string_ids
from lnl_core.features.user_table import MappedRows
from lnl_core.purify import PURIFIERS
from lnl_core.purify.decide.calibrate import Calibrated
from lnl_core.purify.decide.cross_fit import hold_out
from lnl_core.purify.decide.decide import purify
from lnl_core.purify.decide.routes import RouteSettings
from lnl_core.purify.task import PurifyTask

CLASSES, WIDTH = 3, 4
NOISY = 4000  # the realised share of wrong changes is then near the expected one that is promised
DRAWS = 200
PROMISE = RouteSettings(max_wrong_changes=0.1, confidence=0.9)
FAST = {"trusted_only": {"transforms": ["centre"], "ridge": [0.1]}}  # nothing to choose, milliseconds a fit


def clusters(
    seed: int, trusted: int = 400, prior: tuple[float, ...] = (0.4, 0.3, 0.3), trusted_prior: tuple[float, ...] = ()
) -> tuple[PurifyTask, np.ndarray]:
    """Overlapping Gaussian clusters, 40 % of the labels drawn anew; the task and the true labels of its noisy rows."""
    rng = np.random.default_rng(seed)
    centres = 2.6 * np.eye(CLASSES, WIDTH)
    true = np.concatenate(
        [rng.choice(CLASSES, NOISY, p=prior), rng.choice(CLASSES, trusted, p=trusted_prior or prior)]
    ).astype(np.int32)
    features = (centres[true] + rng.normal(size=(len(true), WIDTH))).astype(np.float32)
    drawn = rng.integers(0, CLASSES, len(true)).astype(np.int32)
    observed = np.where(rng.random(len(true)) < 0.4, drawn, true).astype(np.int32)
    task = PurifyTask(
        noisy=MappedRows(values=features, rows=np.arange(NOISY)),
        observed=observed[:NOISY],
        trusted=features[NOISY:],
        trusted_label=true[NOISY:],
        trusted_observed=observed[NOISY:],
        classes=CLASSES,
    )
    return task, true[:NOISY]


def run(task: PurifyTask, routes: RouteSettings, seed: int = 0, method: str = "trusted_only"):
    ids = string_ids([f"{row:05d}" for row in range(NOISY)])
    config = parse(PURIFIERS.get(method).config, FAST.get(method), method)
    return purify(method, config, task, ids, ("x", "y", "z"), seed, routes=routes)


@pytest.fixture
def uncalibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the calibration of the confidence, half the time of a run, on which no route depends."""
    monkeypatch.setattr(Calibrated, "on", lambda *_: None)


def wrong_share(found: Purified, true: np.ndarray) -> float:
    """Of the applied changes; 0 where none is."""
    return float((found.applied_label != true)[found.changed].mean()) if found.changed.any() else 0.0


@pytest.mark.slow
@pytest.mark.parametrize("calibration", ["cross_fit", "split"])
@pytest.mark.usefixtures("uncalibrated")
def test_the_promise_holds_at_the_stated_rate(calibration: str) -> None:
    routes = PROMISE.model_copy(update={"calibration": calibration})
    shares, applied, unrouted = [], [], []
    for draw in range(DRAWS):
        task, true = clusters(draw, 400 if calibration == "cross_fit" else 800)
        found, _ = run(task, routes, draw)
        shares.append(wrong_share(found, true))
        applied.append(found.changed.any())
        unrouted.append((found.purified_label != true)[found.purified_label != found.label].mean())
    assert np.mean(unrouted) > 0.11  # all proposals together would break the promise
    assert np.mean(applied) > 0.5  # and it is not kept by doing nothing
    assert sum(share > 0.1 for share in shares) <= binom.ppf(0.999, DRAWS, 0.1)


def test_same_seed_same_routes() -> None:
    task, _ = clusters(1)
    for calibration in ("cross_fit", "split"):
        routes = PROMISE.model_copy(update={"calibration": calibration})
        assert np.array_equal(run(task, routes)[0].route, run(task, routes)[0].route)


def test_without_a_promise_nothing_is_held_back() -> None:
    task, _ = clusters(0)
    found, metrics = run(task, RouteSettings())
    assert found.review is None
    assert set(found.route) == {"keep", "relabel"}
    assert np.array_equal(found.applied_label, found.purified_label)
    assert "routes" not in metrics


def test_routes_and_labels_say_the_same() -> None:
    task, _ = clusters(3, trusted=1000)
    found, metrics = run(task, PROMISE)
    assert metrics["promise_refused"] is None
    proposed = found.purified_label != found.label
    sure = found.soft_label.max(axis=1) >= metrics["promise_kept_from"] - 1e-6
    assert np.array_equal(found.route == "relabel", proposed & sure)
    assert np.array_equal(found.route == "review", proposed & ~sure)
    assert np.array_equal(found.applied_label != found.label, found.route == "relabel")
    assert metrics["routes"] == {name: int((found.route == name).sum()) for name in ("keep", "relabel", "review")}
    assert min(metrics["routes"].values()) > 0
    assert metrics["promise_tests"][0]["bound"] <= 0.1


def test_too_few_trusted_rows_relabel_nothing_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    task, _ = clusters(0, trusted=30)
    logging.getLogger("lnl").propagate = True
    with caplog.at_level(logging.WARNING, logger="lnl"):
        found, metrics = run(task, PROMISE)
    assert not found.changed.any()
    assert (found.route == "review").sum() == (found.purified_label != found.label).sum() > 0
    assert "there must be at least 22" in metrics["promise_refused"]
    assert "no label is changed" in caplog.text
    assert metrics["routes"]["relabel"] == 0


def test_trusted_rows_whose_observed_label_is_unknown_promise_nothing() -> None:
    task, _ = clusters(0, trusted=600)
    unknown = dataclasses.replace(task, trusted_observed=np.full(600, NO_LABEL, dtype=np.int32))
    for calibration in ("cross_fit", "split"):
        found, metrics = run(unknown, PROMISE.model_copy(update={"calibration": calibration}))
        assert not found.changed.any()
        assert "proposed for 0 of the trusted rows" in metrics["promise_refused"]


def test_a_purifier_that_proposes_nothing_is_no_refusal_to_warn_of() -> None:
    found, metrics = run(clusters(0)[0], PROMISE, method="none")
    assert set(found.route) == {"keep"}
    assert metrics["promise_refused"] == "no change is proposed"


@pytest.mark.usefixtures("uncalibrated")
def test_trusted_rows_of_other_class_shares_are_thinned_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The promise over draws where the trusted set is balanced and the noisy rows are not."""
    logging.getLogger("lnl").propagate = True
    shares = []
    with caplog.at_level(logging.WARNING, logger="lnl"):
        for draw in range(40):
            task, true = clusters(draw, 900, prior=(0.8, 0.15, 0.05), trusted_prior=(1 / 3, 1 / 3, 1 / 3))
            found, metrics = run(task, PROMISE, draw)
            assert metrics["same_classes_p_value"] < 0.001
            assert metrics["calibration_rows_thinned"] < 900
            shares.append(wrong_share(found, true))
    assert "drawn to the estimated class prior" in caplog.text
    assert sum(share > 0.1 for share in shares) <= binom.ppf(0.999, 40, 0.1)


def test_held_out_rows_are_hidden_among_the_noisy_ones() -> None:
    task, _ = clusters(0, trusted=100)
    some = task.trusted_observed.copy()
    some[:30] = NO_LABEL
    task = dataclasses.replace(task, trusted_observed=some)
    held = hold_out(task, 0.5, np.random.default_rng(0))
    assert len(held.label) == 35  # half of those whose observed label is known
    assert len(held.task.trusted_label) == 65
    assert held.task.noisy.shape == (NOISY + 35, WIDTH)
    assert np.array_equal(held.task.observed[NOISY:], held.observed)
    rows = np.concatenate([features for _, features in held.task.noisy.batches()])
    together = np.concatenate([held.task.trusted, rows[NOISY:]])
    assert np.array_equal(np.sort(together, axis=0), np.sort(task.trusted, axis=0))
    sole = dataclasses.replace(task, trusted_label=np.array([2] + [0, 1] * 49 + [0], dtype=np.int32))
    sole = dataclasses.replace(sole, trusted_observed=sole.trusted_label)
    assert 2 in hold_out(sole, 1.0 - 1e-9, np.random.default_rng(0)).task.trusted_label


@pytest.mark.parametrize("value", [0, 1, -0.1, 1.5])
def test_impossible_promises_are_refused(value: float) -> None:
    for name in ("max_wrong_changes", "confidence"):
        with pytest.raises(ConfigError, match=f"purify.{name}"):
            parse(RouteSettings, {name: value}, "purify")
