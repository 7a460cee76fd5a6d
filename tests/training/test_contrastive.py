"""The contrastive loss against loops written from both papers, and by hand."""

import math

import pytest
import torch
from torch.nn import functional

from lnl_core.training.contrastive import contrastive_loss


def drawn(views, batch, width=5):
    return torch.randn(views, batch, width, generator=torch.Generator().manual_seed(views * 10 + batch))


def slow(projections, temperature, classes):
    """SupCon, Eq. 2: all views of the batch in one list, each with the class of its row."""
    points = [
        (functional.normalize(view[row], dim=0), classes[row])
        for view in projections
        for row in range(projections.shape[1])
    ]
    total = 0.0
    for i, (z, own) in enumerate(points):
        below = sum(math.exp(float(z @ a) / temperature) for j, (a, _) in enumerate(points) if j != i)
        logs = [
            math.log(math.exp(float(z @ p) / temperature) / below)
            for j, (p, other) in enumerate(points)
            if j != i and other == own
        ]
        total -= sum(logs) / len(logs)
    return total / len(points)


@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_slow_twin(views, temperature):
    projections = drawn(views, 6)
    found = contrastive_loss(projections, temperature)
    assert float(found) == pytest.approx(slow(projections, temperature, range(6)), rel=1e-4)
    classes = [0, 1, 0, 2, 1, 0]
    found = contrastive_loss(projections, temperature, torch.tensor(classes))
    assert float(found) == pytest.approx(slow(projections, temperature, classes), rel=1e-4)


def test_two_views_are_simclr():
    """SimCLR, Eq. 1 and Algorithm 1: the mean of l(i, j) and l(j, i) over the pairs."""
    first, second = drawn(2, 4)
    units = functional.normalize(torch.cat([first, second]), dim=1)
    total = 0.0
    for row in range(4):
        for i, j in ((row, row + 4), (row + 4, row)):
            below = sum(math.exp(float(units[i] @ units[k]) / 0.5) for k in range(8) if k != i)
            total -= math.log(math.exp(float(units[i] @ units[j]) / 0.5) / below)
    assert float(contrastive_loss(torch.stack([first, second]), 0.5)) == pytest.approx(total / 8, rel=1e-5)


def test_by_hand():
    """Two rows at right angles, both views alike, t = 1: each view has e^1 for its twin and twice e^0."""
    projections = torch.tensor([[3.0, 0.0], [0.0, 0.5]]).repeat(2, 1, 1)
    assert float(contrastive_loss(projections, 1.0)) == pytest.approx(math.log((math.e + 2) / math.e))


def test_a_single_row_has_only_itself_and_its_gradient_is_finite():
    projections = drawn(2, 1).requires_grad_()
    loss = contrastive_loss(projections, 0.5)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-6)
    assert torch.isfinite(projections.grad).all()
