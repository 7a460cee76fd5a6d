"""EMLC on real digits: better than its own student on observed labels; modes; what it does without observed labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from lnl_core.config import ConfigError, parse
from lnl_core.contracts import NO_LABEL
from lnl_core.features.user_table import MappedRows
from lnl_core.purify.emlc import EMLCConfig, emlc, feature_heads, feature_settings
from lnl_core.purify.meta.features import purify_on_features
from lnl_core.purify.meta.folds import Heads, meta_rows, standardised_sample
from lnl_core.purify.meta.teacher import Student, feature_backbone
from lnl_core.purify.meta.training import NoisyBatch, TrustedBatch
from lnl_core.purify.task import Purification, PurifyTask

SHORT = {"epochs": 1, "min_steps": 200, "folds": 2}  # a quarter of the steps: some points less accurate


def digits(noise: float, *, seed: int = 1, noisy: int = 1500, trusted: int = 100) -> tuple[PurifyTask, np.ndarray]:
    """Symmetric noise (inclusive) on raw pixels, and the true labels of the noisy rows."""
    data, rng = load_digits(), np.random.default_rng(seed)
    rows = rng.permutation(len(data.target))[: noisy + trusted]
    true, features = data.target[rows].astype(np.int32), data.data[rows].astype(np.float32)
    drawn = rng.integers(0, 10, len(rows))
    observed = np.where(rng.random(len(rows)) < noise, drawn, true).astype(np.int32)
    task = PurifyTask(
        noisy=MappedRows(values=features, rows=np.arange(noisy)),
        observed=observed[:noisy],
        trusted=features[noisy:],
        trusted_label=true[noisy:],
        trusted_observed=observed[noisy:],
        classes=10,
    )
    return task, true[:noisy]


class ObservedLabels(nn.Module):
    """No correction at all: the student learns the observed labels by cross-entropy."""

    def soft_label(self, batch: NoisyBatch, student: nn.Module) -> torch.Tensor:  # noqa: ARG002
        return nn.functional.one_hot(batch.observed, 10).float()

    def supervised_loss(self, trusted: TrustedBatch, generator: torch.Generator) -> dict[str, torch.Tensor]:  # noqa: ARG002
        return {}

    def predict(self, inputs: torch.Tensor, observed: torch.Tensor, student: nn.Module) -> torch.Tensor:  # noqa: ARG002
        return nn.functional.one_hot(observed, 10).float()


def own_student_on_observed(task: PurifyTask, config: EMLCConfig) -> Purification:
    """The same head, rows, folds, schedule, calibration and evidence; only the teacher is missing."""

    def build(rows: int, features: int, classes: int) -> Heads:  # noqa: ARG001
        student = Student(*feature_backbone(features, config.hidden), classes)
        return Heads(student=student, corrector=ObservedLabels(), optimizer=None)

    settings = replace(feature_settings(config), posterior="student")
    return purify_on_features(task, settings, build, np.random.default_rng(0))


def right(found: Purification, true: np.ndarray) -> float:
    return float((found.posterior.argmax(axis=1) == true).mean())


@pytest.mark.slow
# In full: 0.5 is the closest, and 0.9 alone finds out a teacher that learns nothing.
@pytest.mark.parametrize(("noise", "settings"), [(0.5, {}), (0.8, SHORT), (0.9, {})])
def test_beats_its_own_student_on_observed_labels(noise: float, settings: dict[str, int]) -> None:
    task, true = digits(noise)
    config = EMLCConfig(**settings)
    found, plain = emlc(task, config, np.random.default_rng(0)), own_student_on_observed(task, config)
    assert right(found, true) > right(plain, true)
    assert found.metrics["held_out_accuracy"] > plain.metrics["held_out_accuracy"]  # the students, without evidence


def test_predictions_for_trusted_rows_are_out_of_fold_and_about_as_good() -> None:
    task, true = digits(0.5)
    found = emlc(task, EMLCConfig(**SHORT), np.random.default_rng(0))
    assert found.trusted_posterior is not None
    np.testing.assert_allclose(found.trusted_posterior.sum(axis=1), 1, atol=1e-5)
    measured = (found.trusted_posterior.argmax(axis=1) == task.trusted_label).mean()
    assert abs(measured - right(found, true)) < 0.12  # 100 rows: three standard errors
    assert abs(found.metrics["noise_rate"] - 0.45) < 0.08
    assert {"epoch", "student_loss", "meta_loss", "gate_bce", "gate_right", "gate_wrong", "student_accuracy"} <= set(
        found.curve[-1]
    )
    assert found.curve[-1]["gate_right"] > found.curve[-1]["gate_wrong"]


def test_a_fold_is_blind_to_the_labels_of_its_own_rows() -> None:
    """Changing the verified label of held-out rows changes no network of their fold."""
    task, _ = digits(0.5, noisy=200, trusted=40)
    data = standardised_sample(task, 1000, np.random.default_rng(0))
    held, learnt, seen = np.arange(10), np.arange(10, 40), np.arange(50, 200)
    label, observed = task.trusted_label.copy(), task.observed.copy()
    label[held], observed[:50] = (label[held] + 1) % 10, (observed[:50] + 1) % 10
    first = meta_rows(task, data, learnt, seen)
    second = meta_rows(replace(task, trusted_label=label, observed=observed), data, learnt, seen)
    assert torch.equal(first.observed, second.observed)
    assert torch.equal(first.trusted_label[first.learnt], second.trusted_label[second.learnt])
    assert torch.equal(first.learnt, torch.from_numpy(learnt))


def test_works_where_nobody_knows_the_observed_labels_of_trusted_rows() -> None:
    task, true = digits(0.5)
    task = replace(task, trusted_observed=np.full_like(task.trusted_observed, NO_LABEL))
    found = emlc(task, EMLCConfig(**SHORT), np.random.default_rng(0))
    assert found.metrics["chosen"]["posterior"] == "student"  # the teacher's could not be scored
    assert found.trusted_posterior is not None
    assert np.isfinite(found.trusted_posterior).all()
    assert right(found, true) > 0.8


@pytest.mark.parametrize("known", [0, 5])
def test_the_teachers_posterior_can_be_set_where_few_observed_labels_are_known(known: int) -> None:
    task, _ = digits(0.5, noisy=200, trusted=40)
    task.trusted_observed[known:] = NO_LABEL
    found = emlc(task, EMLCConfig(posterior="teacher", min_steps=30), np.random.default_rng(0))
    assert found.metrics["chosen"]["posterior"] == "teacher"
    assert found.trusted_posterior is not None
    assert np.isfinite(found.posterior).all()
    assert np.isfinite(found.trusted_posterior).all()


@pytest.mark.parametrize("mode", ["paper", "released"])
def test_published_modes_take_the_teacher_and_hold_nothing_out(mode: str) -> None:
    task, true = digits(0.5, noisy=600)
    found = emlc(task, EMLCConfig(mode=mode, epochs=3), np.random.default_rng(0))
    assert found.metrics["chosen"]["posterior"] == "teacher"
    assert found.trusted_posterior is None
    assert right(found, true) >= (task.observed == true).mean() - 0.03
    assert ("gate_bce" in found.curve[-1]) == (mode == "paper")


def test_reference_learns_trusted_rows_with_their_observed_labels_too() -> None:
    task, _ = digits(0.5, noisy=50, trusted=20)
    task.trusted_observed[:5] = NO_LABEL
    data = standardised_sample(task, 1000, np.random.default_rng(0))
    rows = meta_rows(task, data, np.arange(20), np.arange(50), trusted_in_noisy=True)
    assert len(rows.noisy) == 50 + 15
    np.testing.assert_array_equal(rows.observed[50:], task.trusted_observed[5:])


def test_quirks_have_names() -> None:
    released = EMLCConfig(mode="released")
    assert (released.jvp_joined, released.gate_supervision, released.trusted_in_noisy) == ("reversed", False, True)
    assert feature_settings(released).schedule.joined == "reversed"
    assert EMLCConfig(mode="released", gate_supervision=True).gate_supervision
    assert EMLCConfig(k=5).jvp_joined == "matched"
    assert [EMLCConfig(mode=mode).reads_student for mode in ("fixed", "paper", "released")] == [True, False, False]
    assert EMLCConfig(hidden=8).classifier_decay < EMLCConfig().classifier_decay


def test_classifier_and_gate_decay_apart() -> None:
    heads = feature_heads(EMLCConfig(classifier_decay=0.5, gate_decay=0.25), 4, 3)
    assert heads.optimizer is not None
    decay = {id(p): group["weight_decay"] for group in heads.optimizer.param_groups for p in group["params"]}
    teacher = heads.corrector.teacher
    assert {decay[id(p)] for p in teacher.classifier.parameters()} == {0.5}
    assert {decay[id(p)] for p in (*teacher.gate.parameters(), *teacher.embedding.parameters())} == {0.25}


def test_same_seed_same_posterior_with_k_and_hidden_layer() -> None:
    task, _ = digits(0.5, noisy=200, trusted=40)
    config = EMLCConfig(k=3, hidden=16, mix=True, corruption="adversarial", min_steps=30)
    first, second = (emlc(task, config, np.random.default_rng(4)).posterior for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("trusted", [1, 3])
def test_a_handful_of_trusted_rows_is_enough_to_run(trusted: int) -> None:
    task, _ = digits(0.5, noisy=100, trusted=trusted)
    found = emlc(task, EMLCConfig(min_steps=20), np.random.default_rng(0))
    assert np.isfinite(found.posterior).all()
    assert found.trusted_posterior is None


def test_one_fold_and_images_are_refused() -> None:
    with pytest.raises(ConfigError, match="folds must be 0"):
        parse(EMLCConfig, {"folds": 1}, "purify.emlc")
    task, _ = digits(0.5, noisy=20, trusted=10)
    with pytest.raises(ConfigError, match="images"):
        emlc(task, EMLCConfig(input="images"), np.random.default_rng(0))
