"""MLC's and MSLC's soft labels against their formulas; both purify digits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from lnl_core.features.user_table import MappedRows
from lnl_core.purify import PURIFIERS
from lnl_core.purify.meta.teacher import Student, feature_backbone
from lnl_core.purify.meta.training import NoisyBatch
from lnl_core.purify.mlc import LabelCorrectionNetwork
from lnl_core.purify.mslc import SoftLabelCorrector
from lnl_core.purify.task import PurifyTask


def test_mlc_reads_the_students_representation_and_leaves_it_alone() -> None:
    torch.manual_seed(0)
    student = Student(*feature_backbone(5, 4), 3)
    network = LabelCorrectionNetwork(4, 3, 6)
    inputs, observed = torch.randn(2, 5), torch.tensor([0, 2])
    found = network.soft_label(NoisyBatch(rows=torch.arange(2), inputs=inputs, observed=observed), student)
    for row in range(2):
        h = (student.backbone[0].weight @ inputs[row] + student.backbone[0].bias).clamp_min(0)
        value = torch.cat([h, network.embedding.weight[observed[row]]])
        for layer in (0, 2):
            value = torch.tanh(network.layers[layer].weight @ value + network.layers[layer].bias)
        expected = (network.layers[4].weight @ value + network.layers[4].bias).softmax(0)
        torch.testing.assert_close(found[row], expected)
    found[:, 0].sum().backward()
    assert all(value.grad is None for value in student.parameters())
    assert all(value.grad is not None for value in network.parameters())


def coefficient(network: torch.nn.Module, loss: float) -> float:
    hidden = (network[0].weight[:, 0] * loss + network[0].bias).clamp_min(0)
    return 1 / (1 + math.exp(-(network[2].weight[0] @ hidden + network[2].bias[0]).item()))


def test_mslc_is_the_convex_combination() -> None:
    torch.manual_seed(0)
    corrector = SoftLabelCorrector(4, 3, hidden=5, memory=0.5)
    now, before = torch.randn(4, 3).softmax(1), torch.randn(4, 3).softmax(1)
    observed = torch.tensor([0, 1, 2, 1])
    found = corrector.combine(observed, now, before)
    for row in range(4):
        share = coefficient(corrector.observed_share, -math.log(now[row, observed[row]]))
        change = -sum(float(before[row, c]) * math.log(now[row, c]) for c in range(3))
        current = coefficient(corrector.current_share, change)
        for label in range(3):
            mixed = current * float(now[row, label]) + (1 - current) * float(before[row, label])
            expected = share * float(label == observed[row]) + (1 - share) * mixed
            assert found[row, label].item() == pytest.approx(expected, abs=1e-5)


def test_mslc_remembers_a_row_by_its_number() -> None:
    torch.manual_seed(0)
    student, corrector = Student(*feature_backbone(5, 0), 3), SoftLabelCorrector(10, 3, hidden=5, memory=0.25)
    batch = NoisyBatch(rows=torch.tensor([7, 2]), inputs=torch.randn(2, 5), observed=torch.tensor([0, 1]))
    first = student(batch.inputs).softmax(1).detach()
    corrector.soft_label(batch, student)
    torch.testing.assert_close(corrector.before[[7, 2]], first)
    with torch.no_grad():
        student.classifier.weight.add_(1.0 * torch.randn(3, 5))
    second = student(batch.inputs).softmax(1).detach()
    torch.testing.assert_close(
        corrector.soft_label(batch, student), corrector.combine(batch.observed, second, first), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(corrector.before[[7, 2]], 0.25 * first + 0.75 * second)
    assert corrector.before[[0, 1, 3, 4, 5, 6, 8, 9]].isnan().all()


@pytest.mark.parametrize("name", ["mlc", "mslc"])
@pytest.mark.parametrize("kind", ["student", "teacher"])
def test_purifies_digits(name: str, kind: str) -> None:
    data, rng = load_digits(), np.random.default_rng(1)
    rows = rng.permutation(len(data.target))[:900]
    true, features = data.target[rows].astype(np.int32), data.data[rows].astype(np.float32)
    observed = np.where(rng.random(900) < 0.5, rng.integers(0, 10, 900), true).astype(np.int32)
    task = PurifyTask(
        noisy=MappedRows(values=features, rows=np.arange(800)),
        observed=observed[:800],
        trusted=features[800:],
        trusted_label=true[800:],
        trusted_observed=observed[800:],
        classes=10,
    )
    entry = PURIFIERS.get(name)
    found = entry.make(task, entry.config(posterior=kind, folds=2), np.random.default_rng(0))
    right = (found.posterior.argmax(axis=1) == true[:800]).mean()
    assert right > (task.observed == true[:800]).mean()
    assert found.metrics["chosen"]["posterior"] == kind
