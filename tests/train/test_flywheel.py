"""LNL-flywheel's formulas: slow twins looped from the paper, hand-computed cases, modes, guards, passes an epoch."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from lnl_core.config import ConfigError, parse
from lnl_core.contract_tests.test_trainers import make_task
from lnl_core.models.classifier import Classifier
from lnl_core.statistics.two_em_mixture import refurbished
from lnl_core.train.flywheel import (
    FlywheelConfig,
    bounded_gamma,
    resampled_labels,
    train_flywheel,
    transition_of,
)
from lnl_core.train.flywheel_losses import (
    auxiliary_targets,
    capped_weight,
    confidence_regulariser,
    label_shares,
)
from lnl_core.train.flywheel_network import ProjectedClassifier
from lnl_core.training.training_trace import read_trace, trace_files
from lnl_core.training.weighted_loss import weighted_cross_entropy

QUICK = {"epochs": 4, "warmup_epochs": 1, "batch_size": 32, "lr": 0.1, "mixup_alpha": 0.2}


def probabilities(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).softmax(dim=-1)


def logits_of(values):
    return torch.tensor(values).log()


def flywheel(task, **changes):
    return train_flywheel(task, parse(FlywheelConfig, {**QUICK, **changes}, "flywheel"))


# --- formulas ---------------------------------------------------------------------------------------------------------


def test_confidence_regulariser_slow_twin():
    g, resampled = probabilities(6, 4), [0, 2, 2, 1, 2, 0]
    shares = label_shares(torch.tensor(resampled), 4, torch.ones(6))
    total = 0.0
    for i in range(6):  # Eq. 9: the expectation is over the labels that occur
        for label in resampled:
            total += math.log(float(g[i, label])) / 6
    assert float(confidence_regulariser(g.log(), shares, 1e-12)) == pytest.approx(total / 6, rel=1e-5)


def test_confidence_regulariser_by_hand():
    # shares 3/4, 1/4; g = (1/2, 1/2): log 1/2. g = (1, 0): 3/4 log 1 + 1/4 log floor
    shares = torch.tensor([0.75, 0.25])
    assert float(confidence_regulariser(logits_of([[0.5, 0.5]]), shares, 1e-8)) == pytest.approx(math.log(0.5))
    sure = torch.tensor([[200.0, -200.0]])
    assert float(confidence_regulariser(sure, shares, 1e-8)) == pytest.approx(0.25 * math.log(1e-8), rel=1e-5)


def test_the_floor_lets_a_wrong_confidence_go():
    """lambda = 3, ten even classes, g sure of class 1, label 0: without a floor the step is further to class 1."""
    shares, target = torch.full((10,), 0.1), torch.eye(10)[:1]
    pulls = []
    for floor in (1e-30, 1e-4):
        logits = torch.zeros(1, 10)
        logits[0, 1] = 20.0
        logits.requires_grad_()
        loss = weighted_cross_entropy(logits, target, torch.ones(1)) + 3 * confidence_regulariser(logits, shares, floor)
        (gradient,) = torch.autograd.grad(loss, logits)
        pulls.append(float(gradient[0, 1]))
    assert pulls[0] < 0 < pulls[1]


def test_label_shares_count_rows_by_their_weight():
    labels = torch.tensor([0, 0, 2, 1])
    assert label_shares(labels, 4, torch.ones(4)).tolist() == pytest.approx([0.5, 0.25, 0.25, 0.0])
    weighted = label_shares(labels, 4, torch.tensor([0.5, 0.0, 1.0, 0.5]))
    assert weighted.tolist() == pytest.approx([0.25, 0.25, 0.5, 0.0])
    assert label_shares(labels, 4, torch.zeros(4)).tolist() == [0, 0, 0, 0]


def test_main_loss_slow_twin_and_by_hand():
    g, targets = probabilities(5, 3), torch.eye(3)[[0, 2, 1, 1, 0]]
    q = torch.tensor([0.0, 0.2, 0.5, 1.0, 0.9])
    total = -sum(float(q[i]) * math.log(float(g[i, targets[i].argmax()])) for i in range(5))  # Eq. 7
    assert float(weighted_cross_entropy(g.log(), targets, q)) == pytest.approx(total / 5, rel=1e-5)
    by_hand = weighted_cross_entropy(logits_of([[0.25, 0.75]]), torch.tensor([[1.0, 0.0]]), torch.tensor([0.5]))
    assert float(by_hand) == pytest.approx(0.5 * math.log(4))


def test_auxiliary_targets_slow_twin_and_the_block():
    f, label = probabilities(5, 4), [3, 0, 1, 1, 2]
    q, ones = torch.tensor([0.0, 0.3, 0.5, 0.8, 1.0]), torch.ones(5)
    found = auxiliary_targets(q, torch.eye(4)[label], f, ones)
    for i in range(5):  # Eq. 11
        for y in range(4):
            expected = float(q[i]) * (label[i] == y) + (1 - float(q[i])) * float(f[i, y])
            assert float(found[i, y]) == pytest.approx(expected, abs=1e-6)
    block = refurbished(q.numpy(), f.numpy(), np.array(label, dtype=np.int32))
    np.testing.assert_allclose(found.numpy(), block, atol=1e-6)


def test_auxiliary_targets_by_hand_with_a_soft_label_and_a_weight():
    # q = 1/2, weight 2, label (.8, .2), f = (.4, .6): (.8, .2) + (.2, .3)
    found = auxiliary_targets(
        torch.tensor([0.5]), torch.tensor([[0.8, 0.2]]), torch.tensor([[0.4, 0.6]]), torch.tensor([2.0])
    )
    assert found[0].tolist() == pytest.approx([1.0, 0.5])


def test_the_cap_keeps_a_class_of_half_the_labels():
    assert capped_weight(3.0, torch.full((10,), 0.1)) == 3.0  # ten even classes: the paper's
    assert capped_weight(3.0, torch.full((6,), 1 / 6)) == pytest.approx(3.0)
    assert capped_weight(3.0, torch.tensor([0.5, 0.5])) == pytest.approx(1.0)
    assert capped_weight(3.0, torch.tensor([1.0, 0.0])) == pytest.approx(0.5)
    assert capped_weight(0.0, torch.tensor([1.0, 0.0])) == 0.0


def test_the_regularised_optimum_is_that_of_lemma_1():
    """Of every x, g is proportional to (p(y | x) - lambda / 3)_+ in the minimum, shares being even."""
    label_given_x = torch.tensor([[0.3, 0.35, 0.35], [0.5, 0.25, 0.25], [0.8, 0.1, 0.1]])
    strength, shares = 0.6, torch.full((3,), 1 / 3)
    logits = label_given_x.log().requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=0.1)
    for _ in range(400):
        loss = weighted_cross_entropy(logits, label_given_x, torch.ones(3))
        loss = loss + strength * confidence_regulariser(logits, shares, 1e-6)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    expected = (label_given_x - strength / 3).clamp_min(0)
    expected = expected / expected.sum(dim=1, keepdim=True)
    assert torch.allclose(logits.detach().softmax(dim=1), expected, atol=0.01)


def test_verified_rows_are_resampled_as_their_label():
    f = torch.tensor([[0.1, 0.9], [0.7, 0.3], [0.2, 0.8]])
    labels, known = torch.tensor([0, 1, 0]), torch.tensor([False, False, True])
    assert resampled_labels(f, labels, known).tolist() == [1, 0, 0]


def test_gamma_stays_where_rows_can_change_sides():
    assert [bounded_gamma(value) for value in (0.0, 0.4, 1.0)] == [0.01, 0.4, 0.99]


# --- the method -------------------------------------------------------------------------------------------------------


def test_a_cycle_is_four_training_and_three_evaluation_passes(tmp_path):
    """f: mixed weak and two strong views; g: one weak view; f on two weak views, g on the plain image."""
    counts = {"train": 0, "eval": 0}
    task = make_task(tmp_path, rows=100, held_out=False)
    build = task.make_model

    def counted(seed):
        network = build(seed)
        network.encoder.register_forward_hook(count)
        return network

    def count(encoder, inputs, _):
        counts["train" if encoder.training else "eval"] += len(inputs[0])

    flywheel(dataclasses.replace(task, make_model=counted), epochs=3, warmup_epochs=1)
    # warm-up: one pass each; the first cycle has no main M-step
    assert counts == {"train": (2 + 3 + 4) * 100, "eval": 2 * 3 * 100}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All of the method on 100 digits, a warm-up epoch and two cycles."""
    return flywheel(make_task(tmp_path_factory.mktemp("whole"), rows=100), epochs=3)


@pytest.mark.parametrize(
    "switch",
    [
        {"auxiliary": False},
        {"confidence_regulariser": 0},
        {"epsilon": "fixed"},
        {"contrastive": 0},
        {"mode": "paper"},
        {"joined_views": False},
        {"positives": "predicted"},
    ],
    ids=str,
)
def test_every_switch_is_read(switch, whole, tmp_path):
    """The rows of Table 6, and three more."""
    trained = flywheel(make_task(tmp_path, rows=100), epochs=3, **switch)
    assert trained.curve[-1] != whole.curve[-1]
    assert all(np.isfinite(value) for record in trained.curve for value in record.values())
    assert ("auxiliary_loss" in trained.curve[-1]) == switch.get("auxiliary", True)
    assert ("contrastive_loss" in trained.curve[-1]) == (switch.keys() not in ({"auxiliary"}, {"contrastive"}))
    assert 0.01 <= trained.metrics["gamma"] <= 0.99


@pytest.mark.parametrize(
    "odd",
    [
        {"rows": 2},
        {"classes": 2, "rows": 65},
        {"rows": 100, "absent": 3},
        {"rows": 100, "noise": 0.9},
        {"rows": 100, "soft": True},
        {"rows": 100, "verified": 100},
    ],
    ids=str,
)
def test_without_the_auxiliary_network_odd_tasks_train(odd, tmp_path):
    trained = flywheel(make_task(tmp_path, **odd), auxiliary=False, epochs=3)
    assert all(np.isfinite(value) for record in trained.curve for value in record.values())


def test_gamma_and_the_matrix_are_reported(tmp_path):
    metrics = flywheel(make_task(tmp_path), epochs=8, warmup_epochs=6).metrics
    for name in ("transition", "corruption"):
        rows = np.array(metrics[name])
        assert rows.shape == (10, 10)
        np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-3)
    own = [np.diag(metrics[name]).mean() for name in ("transition", "corruption")]
    assert own[0] > 0.5 > own[1]  # T has the clean rows on its diagonal, T_c has not
    assert 0.5 < metrics["gamma"] < 0.95  # 80 % of the labels are right


def test_transition_by_hand():
    targets = torch.tensor([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]])
    found = transition_of(targets, np.array([0, 1, 1], dtype=np.int32))
    np.testing.assert_allclose(found.numpy(), [[0.5, 0.5], [0.25 / 1.5, 1.25 / 1.5]], rtol=1e-6)


def test_verified_rows_are_clean_and_believed(tmp_path):
    task = make_task(tmp_path, rows=100, verified=40, noise=0.5)
    flywheel(task, epochs=3)
    last = read_trace(trace_files(task.trace)[-1])
    assert last.ids.tolist() == task.ids.tolist()
    assert (last.clean[:40] == 1).all()
    assert last.selected[:40].all()
    assert last.predicted[:40].tolist() == task.label[:40].tolist()


def test_all_rows_verified_is_plain_learning(tmp_path):
    trained = flywheel(make_task(tmp_path, verified=300), epochs=5, warmup_epochs=3)
    assert trained.metrics["gamma"] == 0.99
    assert trained.curve[-1]["held_out_accuracy"] > 0.5


def test_saved_weights_are_a_plain_classifier(tmp_path):
    task = make_task(tmp_path, rows=100)
    trained = flywheel(task, epochs=2)
    network = task.make_model(0)
    assert isinstance(network, Classifier)
    network.load_state_dict(trained.last[0])
    assert len(trained.last) == 1  # inference is the auxiliary network's alone


def test_the_projection_is_drawn_from_its_seed(tmp_path):
    build = make_task(tmp_path).make_model
    torch.manual_seed(1)
    first = ProjectedClassifier(build(0), 3)
    torch.manual_seed(2)
    second, third = ProjectedClassifier(build(0), 3), ProjectedClassifier(build(0), 4)
    assert torch.equal(first.projection[0].weight, second.projection[0].weight)
    assert not torch.equal(first.projection[0].weight, third.projection[0].weight)


# --- settings ---------------------------------------------------------------------------------------------------------


def test_defaults_are_the_papers():
    config = parse(FlywheelConfig, {}, "flywheel")
    found = (config.epochs, config.warmup_epochs, config.batch_size, config.lr, config.momentum, config.weight_decay)
    assert found == (300, 10, 128, 0.02, 0.9, 5e-4)
    assert (config.confidence_regulariser, config.contrastive, config.schedule) == (3.0, 0.025, "cosine")


@pytest.mark.parametrize(
    "bad", [{"mode": "released"}, {"contrastive": -1}, {"epsilon": "auto"}, {"warmup_epochs": 0}, {"views": 0}]
)
def test_bad_settings(bad):
    with pytest.raises(ConfigError, match=r"train\.flywheel"):
        parse(FlywheelConfig, bad, "train.flywheel")
