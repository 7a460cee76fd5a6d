"""DMLP as published against a slow twin (an inverse in every step, autograd, torch's Adam) and hand-computed cases."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from lnl_core.config import ConfigError, parse
from lnl_core.contracts import NO_LABEL, ContractError
from lnl_core.features.user_table import MappedRows
from lnl_core.purify.decide.cross_fit import trusted_predictions
from lnl_core.purify.dmlp import DMLPConfig, dmlp
from lnl_core.purify.published.ipc import onto_simplex
from lnl_core.purify.published.losses import TargetLoss
from lnl_core.purify.published.procedure import class_prior, epochs
from lnl_core.purify.task import PurifyTask

CLASSES = 10
SMALL = {"batch_rows": 250, "eac_batch": 60, "eac_precision": "float64"}


def load_twin() -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / "published_dmlp_twin.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


TWIN = load_twin()


def digits(trusted: int = 100, width: int = 24, noise: float = 0.5) -> tuple[PurifyTask, np.ndarray]:
    """1,000 noisy digits; features are random projections of the pixels, which have an inverse Gram matrix."""
    data = load_digits()
    rng = np.random.default_rng(3)
    rows = rng.permutation(len(data.target))[: 1000 + trusted]
    true = data.target[rows].astype(np.int32)
    observed = np.where(rng.random(len(rows)) < noise, rng.integers(0, CLASSES, len(rows)), true).astype(np.int32)
    pixels = data.data[rows]
    first, second = (np.tanh(pixels @ rng.normal(size=(64, width)) / 60 + 0.1).astype(np.float32) for _ in range(2))
    task = PurifyTask(
        noisy=MappedRows(values=first, rows=np.arange(1000)),
        observed=observed[:1000],
        trusted=first[1000:],
        trusted_label=true[1000:],
        trusted_observed=observed[1000:],
        classes=CLASSES,
        second_view=MappedRows(values=second, rows=np.arange(1000)),
        trusted_second_view=second[1000:],
    )
    return task, true[:1000]


def dense(task: PurifyTask, settings: DMLPConfig) -> Any:
    """The twin's task, in float64."""
    second = None if settings.same_view or task.second_view is None else task.second_view.values[:1000]
    return TWIN.TwinTask(
        noisy=torch.from_numpy(task.noisy.values[:1000]).double(),
        observed=torch.from_numpy(task.observed).long(),
        trusted=torch.from_numpy(task.trusted).double(),
        trusted_label=torch.from_numpy(task.trusted_label).long(),
        prior=torch.from_numpy(class_prior(task, settings.prior)),
        second=None if second is None else torch.from_numpy(second),
    )


def assert_equals_twin(task: PurifyTask, settings: DMLPConfig, tolerance: float = 1e-4) -> None:
    ours = epochs(task, settings, np.random.default_rng(5))
    slow = TWIN.twin_labels(dense(task, settings), settings, np.random.default_rng(5))
    for run, labels in zip(ours, slow, strict=True):
        np.testing.assert_allclose(run.labels(), labels.numpy(), atol=tolerance)


@pytest.mark.parametrize("width", [24, 150])  # fewer and more features than trusted rows: both forms of the map
def test_reference_equals_the_twin_over_20_epochs(width: int) -> None:
    task, _ = digits(width=width)
    settings = DMLPConfig.of("released", epochs=20, **SMALL)
    assert_equals_twin(task, settings)
    last = list(epochs(task, settings, np.random.default_rng(5)))[-1]
    assert np.abs(last.labels() - np.eye(CLASSES)[task.observed]).max() > 0.05  # labels did move


@pytest.mark.parametrize("width", [24, 150])
def test_paper_equals_the_twin_through_swaps_and_second_view(width: int) -> None:
    task, _ = digits(width=width)
    assert_equals_twin(task, DMLPConfig.of("paper", epochs=12, period=5, **SMALL))


QUIRKS: list[dict[str, Any]] = [
    {"minibatches": "shuffled"},
    {"optimizer": "gradient", "label_lr": None},
    {"label_lr": 0.02},
    {"label_betas": (0.9, 0.99)},
    {"label_weight_decay": 0.1},
    {"squared_error": "mean"},
    {"ipc_softmaxes": 1},
    {"prior": "trusted"},
    {"prior": "observed"},
    {"ridge": 0.01},
    {"swap_fires": True, "period": 2},
    {"swap_fires": True, "period": 2, "eta": 0.1},
]
SWAPPED: list[dict[str, Any]] = [
    {"same_view": False},
    {"eac_prior_weight": 0.0},
    {"eac_entropy": 1.0},
    {"eac_softmaxes": 1},
    {"eac_lr": 0.06},
    {"eac_later_lr": 0.01},
    {"eac_high_epochs": 1},
    {"eac_weight_decay": 0.1},
    {"eac_batch": 100},
]


@pytest.mark.parametrize(
    ("base", "quirk"),
    [
        *(({}, quirk) for quirk in QUIRKS),
        *(({"swap_fires": True, "period": 3}, quirk) for quirk in SWAPPED),
        ({"squared_error": "mean"}, {"ipc_prior_weight": 0.0}),
        ({"epochs": 2}, {"keep_simplex": True}),
    ],
)
def test_each_quirk_changes_the_labels_and_equals_the_twin(base: dict[str, Any], quirk: dict[str, Any]) -> None:
    task, _ = digits()
    settings = {"epochs": 6, **SMALL, **base}
    if "eac_high_epochs" in quirk:
        settings["eac_later_lr"] = 0.05
    plain = list(epochs(task, DMLPConfig.of("released", **settings), np.random.default_rng(5)))[-1].labels()
    changed = DMLPConfig.of("released", **{**settings, **quirk})
    other = list(epochs(task, changed, np.random.default_rng(5)))[-1].labels()
    assert np.abs(plain - other).max() > 1e-5
    assert_equals_twin(task, changed)


def test_losses_by_hand() -> None:
    """Two classes, one row: scores (log 3, 0), so p = (3/4, 1/4); target the first class."""
    scores, target = np.array([[np.log(3.0)], [0.0]]), np.array([[1.0], [0.0]])
    prior = np.array([0.5, 0.5])
    value, gradient = TargetLoss(prior=prior, softmaxes=1)(scores, target)
    assert value == pytest.approx(np.log(4 / 3))
    np.testing.assert_allclose(gradient[:, 0], [-0.25, 0.25])  # p - y
    value, gradient = TargetLoss(prior=prior, softmaxes=1, squared_error=1.0)(scores, target)
    assert value == pytest.approx(np.log(4 / 3) + (np.log(3) - 1) ** 2)
    np.testing.assert_allclose(gradient[:, 0], [-0.25 + 2 * (np.log(3) - 1), 0.25])
    value, _ = TargetLoss(prior=prior, softmaxes=1, prior_weight=2.0)(scores, target)
    assert value == pytest.approx(np.log(4 / 3) + 2 * (0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25)))
    value, _ = TargetLoss(prior=prior, softmaxes=1, entropy=-0.4)(scores, target)
    assert value == pytest.approx(np.log(4 / 3) + 0.4 * (0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    value, _ = TargetLoss(prior=prior, softmaxes=2)(scores, target)  # softmax of (3/4, 1/4)
    assert value == pytest.approx(np.log(1 + np.exp(-0.5)))


def one_feature_task() -> PurifyTask:
    """Two rows with feature 1 and 2, observed as 0 and 1; one trusted row with feature 5 that is of class 0."""
    return PurifyTask(
        noisy=MappedRows(values=np.array([[1.0], [2.0]], dtype=np.float32), rows=np.arange(2)),
        observed=np.array([0, 1], dtype=np.int32),
        trusted=np.array([[5.0]], dtype=np.float32),
        trusted_label=np.array([0], dtype=np.int32),
        trusted_observed=np.array([NO_LABEL], dtype=np.int32),
        classes=2,
    )


def test_a_step_of_mode_paper_by_hand() -> None:
    """F'F = 5, F'Y = (1, 2), w = (0.2, 0.4), y'_v = (1, 2), M = F_v F' / 5 = (1, 2)."""
    settings = DMLPConfig.of("paper", epochs=1, label_lr=0.1, minibatches="in_order")
    (run,) = epochs(one_feature_task(), settings, np.random.default_rng(0))
    share = 1 / (1 + np.exp(-1.0))  # p of class 1
    gradient = np.array([-share + 2 * (1 - 1), share + 2 * (2 - 0)])  # of L_val by y'_v
    expected = np.eye(2) - 0.1 * np.outer([1, 2], gradient)
    np.testing.assert_allclose(run.labels(), expected, atol=1e-12)
    assert run.curve[0]["loss"] == pytest.approx(-np.log(1 - share) + 4, abs=1e-6)


def test_first_step_of_mode_reference_is_adams_rate_for_every_label() -> None:
    settings = DMLPConfig.of("released", epochs=1)
    (run,) = epochs(one_feature_task(), settings, np.random.default_rng(0))
    moved = run.labels() - np.eye(2)
    np.testing.assert_allclose(np.abs(moved), 0.01, atol=1e-4)  # Adam's first step is lr times the sign
    assert (moved[:, 1] < 0).all()  # y'_v = (1, 2) must fall in class 1


def test_eq_11_mixes_the_classifier_in() -> None:
    """With eta_E = 1 the labels are the classifier's probabilities; before the period they are IPC's."""
    task, _ = digits()
    settings = DMLPConfig.of("paper", epochs=3, period=3, eta=1.0, **SMALL)
    for run in epochs(task, settings, np.random.default_rng(0)):
        probabilities = run.classifier(task.second_view.values[:1000]).T
        off = np.abs(run.labels() - probabilities).max()
        assert off < 1e-9 if run.curve[-1]["epoch"] == 3 else off > 0.05


def test_projection_onto_the_simplex() -> None:
    columns = np.array([[0.5, 0.2, 2.0, -1.0, 0.6], [0.5, 0.2, 0.0, -1.0, 0.8], [0.0, 0.2, 0.0, -3.0, -0.2]])
    third = 0.2 + 0.4 / 3
    expected = np.array([[0.5, third, 1.0, 0.5, 0.4], [0.5, third, 0.0, 0.5, 0.6], [0.0, third, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(onto_simplex(columns), expected, atol=1e-12)


@pytest.mark.parametrize("mode", ["paper", "released"])
def test_the_purifier_runs_both_modes(mode: str) -> None:
    task, true = digits(width=24)
    config = DMLPConfig(mode=mode, **{**SMALL, "eac_precision": "float32"})
    found = dmlp(task, config, np.random.default_rng(0))
    np.testing.assert_allclose(found.posterior.sum(axis=1), 1, atol=1e-5)
    assert (found.posterior >= 0).all()
    before, after = (task.observed == true).mean(), (found.posterior.argmax(axis=1) == true).mean()
    assert after > before + (0.05 if mode == "paper" else -0.01)  # `released` hardly moves a label: no swap fires
    assert found.curve[-1]["eac_trusted_accuracy"] > before + 0.1
    assert found.curve[-1]["changed_share"] > 0
    assert len(found.curve) == 100
    assert found.curve[-1]["loss"] < found.curve[0]["loss"]
    assert found.metrics["views"] == (2 if mode == "paper" else 1)
    again = dmlp(task, config, np.random.default_rng(0))
    assert np.array_equal(again.posterior, found.posterior)


def test_modes_fill_what_is_left_out_and_configs_go_round() -> None:
    paper = parse(DMLPConfig, {"mode": "paper", "eac_softmaxes": 2}, "purify.dmlp")
    assert paper == DMLPConfig.of("paper", eac_softmaxes=2)
    assert DMLPConfig(mode="released") == DMLPConfig.of("released")
    assert DMLPConfig(**paper.model_dump(mode="json")) == paper
    with pytest.raises(ConfigError, match=r"dmlp\.epocs: unknown setting; did you mean 'epochs'"):
        parse(DMLPConfig, {"epocs": 3}, "purify.dmlp")
    with pytest.raises(ConfigError, match="needs label_lr"):
        parse(DMLPConfig, {"optimizer": "adam", "label_lr": None}, "purify.dmlp")
    with pytest.raises(ConfigError, match="needs eac"):
        parse(DMLPConfig, {"mode": "paper", "eac": False}, "purify.dmlp")


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("broken", ["constant", "repeated", "short"])
def test_no_inverse_names_the_ridge(broken: str, precision: str) -> None:
    """Raw digits have pixels that are always zero: F'F is singular, in the twin too."""
    task, _ = digits(width=12)
    values = task.noisy.values.copy()
    if broken == "constant":
        values[:, 3] = 0.0
    elif broken == "repeated":
        values[:, 3] = values[:, 4]
    published = {"epochs": 1, "batch_rows": 10 if broken == "short" else 500, "precision": precision}
    singular = PurifyTask(**{**task.__dict__, "noisy": MappedRows(values=values, rows=np.arange(1000))})
    with pytest.raises(ConfigError, match=r"has no inverse.*set purify\.dmlp\.ridge"):
        dmlp(singular, DMLPConfig(mode="released", **published), np.random.default_rng(0))
    mended = DMLPConfig(mode="released", **published, ridge=1e-2)
    assert np.isfinite(dmlp(singular, mended, np.random.default_rng(0)).posterior).all()


@pytest.mark.parametrize("width", [24, 150])
def test_scratch_files_change_nothing(width: int) -> None:
    task, _ = digits(width=width)
    found = [
        list(epochs(task, DMLPConfig.of("paper", epochs=4, memory_mb=megabytes, **SMALL), np.random.default_rng(1)))
        for megabytes in (0, 2048)
    ]
    assert np.array_equal(found[0][-1].labels(), found[1][-1].labels())


def test_what_does_not_fit_says_so() -> None:
    task, _ = digits()
    config = DMLPConfig(mode="paper", epochs=1)
    short = MappedRows(values=task.noisy.values, rows=np.arange(999))
    with pytest.raises(ConfigError, match="must hold the same rows"):
        dmlp(PurifyTask(**{**task.__dict__, "second_view": short}), config, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="give both"):
        dmlp(PurifyTask(**{**task.__dict__, "trusted_second_view": None}), config, np.random.default_rng(0))
    values = task.noisy.values.copy()
    values[17, 2] = np.nan
    broken = PurifyTask(**{**task.__dict__, "noisy": MappedRows(values=values, rows=np.arange(1000))})
    with pytest.raises(ContractError, match="row 17 "):
        dmlp(broken, config, np.random.default_rng(0))


def test_trusted_rows_are_predicted_out_of_fold_with_both_views() -> None:
    task, _ = digits(trusted=60)
    config = DMLPConfig(mode="paper", epochs=2, period=1, **SMALL)
    found = dmlp(task, config, np.random.default_rng(0))
    predicted = trusted_predictions(dmlp, config, task, found, np.random.default_rng(0), folds=2)
    assert predicted is not None
    assert len(predicted) == 60
