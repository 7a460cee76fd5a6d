"""The formulas and the target store of early-learning regularisation: slow twins and hand-computed cases."""

import math

import pytest
import torch

from lnl_core.training import elr
from lnl_core.training.elr import (
    TargetStore,
    clamped_softmax,
    elr_penalty,
    moved_targets,
)
from lnl_core.training.ramp import sigmoid_ramp
from lnl_core.training.weighted_loss import weighted_cross_entropy


def probabilities(*shape, seed=0):
    return (3 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed))).softmax(dim=-1)


def test_penalty_slow_twin():
    p, t = probabilities(5, 4), probabilities(5, 4, seed=1)
    total = 0.0
    for i in range(5):
        total += math.log(1 - sum(float(p[i, k]) * float(t[i, k]) for k in range(4)))
    assert float(elr_penalty(p, t)) == pytest.approx(total / 5, rel=1e-5)


def test_penalty_by_hand_and_finite_at_its_end():
    # <p, t> = 0.8 * 0.5 + 0.2 * 0.5 = 0.5
    assert float(elr_penalty(torch.tensor([[0.8, 0.2]]), torch.tensor([[0.5, 0.5]]))) == pytest.approx(math.log(0.5))
    assert float(elr_penalty(torch.tensor([[0.8, 0.2]]), torch.zeros(1, 2))) == 0  # nothing remembered yet
    sure = clamped_softmax(torch.tensor([[90.0, -90.0]]))
    assert float(elr_penalty(sure, torch.tensor([[1.0, 0.0]]))) == pytest.approx(math.log(1e-4), rel=1e-3)


def test_penalty_draws_towards_the_target():
    """Lemma 2: where the target is sure of a class, the gradient raises that class's logit."""
    logits = torch.zeros(1, 3, requires_grad=True)
    elr_penalty(clamped_softmax(logits), torch.tensor([[0.0, 0.9, 0.0]])).backward()
    # d/dz_k log(1 - t p_1) = -t p_1 ([k = 1] - p_k) / (1 - t p_1) with t = 0.9, p = 1/3
    scale = -0.9 / 3 / (1 - 0.3)
    assert logits.grad[0].tolist() == pytest.approx([-scale / 3, scale * 2 / 3, -scale / 3], rel=1e-4)


def test_targets_slow_twin_and_by_hand():
    t, p = probabilities(3, 4), probabilities(3, 4, seed=2) * 1.5  # clamped probabilities need not sum to 1
    found = moved_targets(t, p, 0.7)
    for i in range(3):
        whole = sum(float(p[i, k]) for k in range(4))
        expected = [0.7 * float(t[i, k]) + 0.3 * float(p[i, k]) / whole for k in range(4)]
        assert found[i].tolist() == pytest.approx(expected, rel=1e-5)
    assert moved_targets(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]]), 0.9)[0].tolist() == pytest.approx(
        [0.95, 0.05]
    )


def test_weighted_cross_entropy_slow_twin():
    logits, targets, weights = probabilities(4, 3), probabilities(4, 3, seed=3), torch.tensor([1.0, 0.0, 2.0, 0.5])
    total = 0.0
    for i in range(4):
        log_sum = math.log(sum(math.exp(float(value)) for value in logits[i]))
        total += float(weights[i]) * sum(float(targets[i, k]) * (log_sum - float(logits[i, k])) for k in range(3))
    assert float(weighted_cross_entropy(logits, targets, weights)) == pytest.approx(total / 4, rel=1e-5)


def new_store(verified=None, precision="float32"):
    label = torch.tensor([0, 2, 1, 1])
    return TargetStore(label, 3, verified=verified, precision=precision, device=torch.device("cpu"))


def test_store_moves_the_named_rows_alone_and_carries_no_gradient():
    store, rows = new_store(), torch.tensor([2, 0])
    first = probabilities(2, 3).requires_grad_()
    moved = store.move(rows, first, 0.5)
    assert not moved.requires_grad
    assert torch.allclose(moved, first / 2)
    second = probabilities(2, 3, seed=4)
    assert torch.allclose(store.move(rows, second, 0.5), first / 4 + second / 2)
    expected = (first / 4 + second / 2).detach()
    predicted, share = store.predicted(torch.arange(4), torch.tensor([0, 2, 1, 1]))
    assert predicted[0] == expected[1].argmax()
    assert float(share[2]) == pytest.approx(float(expected[0, 1] / 0.75), rel=1e-5)
    assert float(share[1]) == 0.0  # not seen


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_verified_row_keeps_its_label_as_target(precision):
    store = new_store(torch.tensor([False, True, False, False]), precision)
    moved = store.move(torch.tensor([1, 3]), probabilities(2, 3), 0.5)
    assert moved[0].tolist() == [0.0, 0.0, 1.0]
    assert torch.allclose(moved[1], probabilities(2, 3)[1] / 2)


def test_saved_targets_go_on_and_where_they_live_changes_nothing(monkeypatch):
    store = new_store()
    store.move(torch.arange(4), probabilities(4, 3), 0.5)
    saved = {name: value.clone() for name, value in store.state_dict().items()}
    monkeypatch.setattr(elr, "ON_DEVICE", 0)
    other = new_store()
    other.load_state_dict(saved)
    again = probabilities(4, 3, seed=5)
    assert torch.equal(store.move(torch.arange(4), again, 0.5), other.move(torch.arange(4), again, 0.5))


def test_sigmoid_ramp():
    assert [sigmoid_ramp(now, 10) for now in (0, 5, 10, 20)] == pytest.approx([math.exp(-5), math.exp(-1.25), 1.0, 1.0])
    assert sigmoid_ramp(0, 0) == 1.0
