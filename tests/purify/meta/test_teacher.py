"""EMLC's teacher against Fig. 3 row by row, and the artificial noise that its gate learns from."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lnl_core.purify.meta.teacher import (
    EMLCCorrector,
    ReadingTeacher,
    Student,
    Teacher,
    corrupt_half,
    feature_backbone,
    gate_loss,
)
from lnl_core.purify.meta.training import NoisyBatch, TrustedBatch


def teacher(classes: int = 3, features: int = 5, hidden: int = 0) -> Teacher:
    torch.manual_seed(0)
    return Teacher(*feature_backbone(features, hidden), classes)


@pytest.mark.parametrize("hidden", [0, 4])
def test_teacher_is_figure_3(hidden: int) -> None:
    network, inputs = teacher(hidden=hidden), torch.randn(6, 5)
    observed = torch.tensor([0, 1, 2, 0, 1, 2])
    found = network(inputs, observed)
    for row in range(6):
        h = inputs[row]
        if hidden:
            h = (network.backbone[0].weight @ h + network.backbone[0].bias).clamp_min(0)
        z = network.embedding.weight[observed[row]]
        inner = (network.gate[0].weight @ torch.cat([h, z]) + network.gate[0].bias).clamp_min(0)
        w = 1 / (1 + math.exp(-float(network.gate[2].weight[0] @ inner + network.gate[2].bias[0])))
        scores = network.classifier.weight @ h + network.classifier.bias
        p = scores.exp() / scores.exp().sum()
        for label in range(3):
            expected = w * float(label == observed[row]) + (1 - w) * float(p[label])
            assert float(found.soft_label[row, label]) == pytest.approx(expected, abs=1e-6)
        assert float(found.gate[row]) == pytest.approx(w, abs=1e-6)
    torch.testing.assert_close(found.soft_label.sum(dim=1), torch.ones(6))


def test_widths_are_the_papers() -> None:
    network = teacher(features=7)
    assert network.embedding.embedding_dim == 128
    assert network.gate[0].in_features == 7 + 128
    assert network.gate[0].out_features == 128
    assert network.gate[2].out_features == 1


def test_gate_loss_by_hand() -> None:
    network = teacher()
    correction = network(torch.randn(2, 5), torch.tensor([0, 1]))
    w = correction.gate.tolist()
    expected = -(math.log(w[0]) + math.log(1 - w[1])) / 2  # the first label is right, the second was corrupted
    assert float(gate_loss(correction, torch.tensor([0.0, 1.0]))) == pytest.approx(expected, abs=1e-6)


def test_adversarial_corruption_is_the_strongest_wrong_prediction() -> None:
    logits = torch.tensor([[5.0, 1.0, 2.0], [0.0, 9.0, 3.0], [4.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    label = torch.tensor([0, 1, 1, 2])
    fed, corrupted = corrupt_half(label, logits, "adversarial", torch.Generator().manual_seed(0))
    assert int(corrupted.sum()) == 2
    strongest_wrong = torch.tensor([2, 2, 0, 1])
    assert torch.equal(fed, torch.where(corrupted.bool(), strongest_wrong, label))


def test_random_corruption_is_uniform_on_half_of_the_rows() -> None:
    label = torch.zeros(4000, dtype=torch.long)
    fed, corrupted = corrupt_half(label, torch.zeros(4000, 4), "random", torch.Generator().manual_seed(0))
    assert torch.equal(corrupted, (fed != label).float())  # a draw of the true class counts as clean
    shares = torch.bincount(fed, minlength=4) / 4000
    torch.testing.assert_close(shares, torch.tensor([0.5 + 0.125, 0.125, 0.125, 0.125]), atol=0.02, rtol=0)


def test_observed_labels_feed_the_gate_where_they_are_known() -> None:
    network = teacher()
    corrector = EMLCCorrector(network, "observed", gate_supervision=True)
    inputs, label = torch.randn(4, 5), torch.tensor([0, 1, 2, 0])
    trusted = TrustedBatch(inputs=inputs, label=label, observed=torch.tensor([0, 2, 2, 1]))
    losses = corrector.supervised_loss(trusted, torch.Generator().manual_seed(0))
    expected = gate_loss(network(inputs, trusted.observed), torch.tensor([0.0, 1.0, 0.0, 1.0]))
    assert float(losses["gate_bce"]) == pytest.approx(float(expected), abs=1e-6)
    classifier = nn.functional.cross_entropy(network.classifier(inputs), label)
    assert float(losses["teacher_ce"]) == pytest.approx(float(classifier), abs=1e-6)


def test_gate_supervision_can_be_left_out() -> None:
    corrector = EMLCCorrector(teacher(), "random", gate_supervision=False)
    trusted = TrustedBatch(inputs=torch.randn(2, 5), label=torch.tensor([0, 1]), observed=torch.tensor([-1, -1]))
    assert list(corrector.supervised_loss(trusted, torch.Generator().manual_seed(0))) == ["teacher_ce"]


def reading_teacher() -> ReadingTeacher:
    torch.manual_seed(0)
    network = ReadingTeacher(*feature_backbone(5, 0), 3)
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.3 * torch.randn_like(value))
    return network


def test_reading_teacher_is_its_formula() -> None:
    network, inputs, says = reading_teacher(), torch.randn(3, 5), torch.randn(3, 3)
    observed = torch.tensor([0, 1, 2])
    found = network(inputs, observed, says)
    for row in range(3):
        log_student = says[row] - says[row].exp().sum().log()
        scores = (
            network.classifier.weight @ inputs[row] + network.classifier.bias + network.student_weight * log_student
        )
        p = (scores.exp() / scores.exp().sum()).tolist()
        z = network.embedding.weight[observed[row]]
        inner = (network.gate[0].weight @ torch.cat([inputs[row], z]) + network.gate[0].bias).clamp_min(0)
        own = float(network.gate[2].weight[0] @ inner + network.gate[2].bias[0])
        p_observed = p[int(observed[row])]
        odds = math.log(p_observed / (1 - p_observed)) - math.log((1 / 3) / (2 / 3))
        w = 1 / (1 + math.exp(-own - float(network.odds_weight) * odds))
        for label in range(3):
            expected = w * float(label == observed[row]) + (1 - w) * p[label]
            assert float(found.soft_label[row, label]) == pytest.approx(expected, abs=1e-6)


def test_reading_teacher_at_first_says_what_its_student_says() -> None:
    network, says = ReadingTeacher(*feature_backbone(5, 0), 3), torch.randn(4, 3)
    torch.testing.assert_close(network.read(torch.randn(4, 5), says), says.log_softmax(dim=1))


def test_the_student_is_read_and_left_alone() -> None:
    network, student = reading_teacher(), Student(*feature_backbone(5, 0), 3)
    corrector = EMLCCorrector(network, "observed", gate_supervision=True)
    inputs, observed = torch.randn(4, 5), torch.tensor([0, 2, 2, 1])
    found = corrector.soft_label(NoisyBatch(rows=torch.arange(4), inputs=inputs, observed=observed), student)
    torch.testing.assert_close(found, network(inputs, observed, student(inputs)).soft_label)
    torch.testing.assert_close(found, corrector.predict(inputs, observed, student))
    trusted = TrustedBatch(inputs=inputs, label=observed, observed=observed, student_says=student(inputs))
    losses = corrector.supervised_loss(trusted, torch.Generator().manual_seed(0))
    expected = nn.functional.cross_entropy(network.read(inputs, student(inputs)), observed)
    assert float(losses["teacher_ce"]) == pytest.approx(float(expected), abs=1e-6)
    (found[:, 0].sum() + sum(losses.values())).backward()
    assert all(value.grad is None for value in student.parameters())
    assert all(value.grad is not None for value in network.parameters())


def test_a_certain_student_leaves_the_gate_finite() -> None:
    network = reading_teacher()
    found = network(torch.randn(2, 5), torch.tensor([0, 1]), torch.tensor([[200.0, 0, 0], [200.0, 0, 0]]))
    assert torch.isfinite(found.gate_logit).all()
