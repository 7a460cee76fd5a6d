"""Co-teaching's rules and losses: slow twins looped from the papers, hand-computed cases, modes and guards."""

import math

import numpy as np
import pytest
import torch

from lnl_core.config import ConfigError, ModelSettings, parse
from lnl_core.contracts import string_ids
from lnl_core.models.classifier import build_classifier
from lnl_core.runtime import Runtime
from lnl_core.statistics.noise_estimate import NoiseEstimate
from lnl_core.train.co_teaching import MODES, CoTeachingConfig, mean_of_picked, train_co_teaching
from lnl_core.train.small_loss_rules import (
    class_limits,
    cross_entropies,
    disagreeing,
    forgotten_share,
    joint_losses,
    small_loss,
)
from lnl_core.train.task import HeldOut, TrainTask
from lnl_core.training.training_trace import read_trace, trace_files

NONE = torch.zeros(6, dtype=torch.bool)
ALL = ~NONE


def logits(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_small_loss(losses, forgotten, candidates, known):
    free = [row for row in range(len(losses)) if candidates[row] and not known[row]]
    count = max(round((1 - forgotten) * len(free)), 1)
    chosen = set(sorted(free, key=lambda row: losses[row])[:count])
    return [row in chosen or bool(known[row]) for row in range(len(losses))]


@pytest.mark.parametrize("forgotten", [0.0, 0.3, 0.62, 0.95])
@pytest.mark.parametrize("seed", range(3))
def test_small_loss_slow_twin(forgotten, seed):
    draw = torch.Generator().manual_seed(seed)
    losses = torch.rand(23, generator=draw)
    candidates, known = torch.rand(23, generator=draw) < 0.7, torch.rand(23, generator=draw) < 0.2
    found = small_loss(losses, forgotten, candidates, known)
    assert found.tolist() == slow_small_loss(losses.tolist(), forgotten, candidates, known)


def test_small_loss_by_hand():
    losses = torch.tensor([0.5, 0.1, 0.9, 0.3, 0.7, 0.2])
    assert small_loss(losses, 0.5, ALL, NONE).tolist() == [False, True, False, True, False, True]
    known = torch.tensor([False, False, True, False, False, False])  # the largest loss, but verified; 3 of 5 besides
    assert small_loss(losses, 0.4, ALL, known).tolist() == [False, True, True, True, False, True]
    assert small_loss(losses, 0.99, ALL, NONE).tolist() == [False, True, False, False, False, False]  # at least one
    assert not small_loss(losses, 0.5, NONE, NONE).any()
    assert small_loss(losses, 0.5, NONE, known).tolist() == known.tolist()


def test_forgotten_share_of_each_ramp_by_hand():
    def course(ramp, exponent, epochs=6):
        return [forgotten_share(epoch, 0.5, ramp_epochs=4, exponent=exponent, ramp=ramp) for epoch in range(epochs)]

    assert course("epoch", 1.0) == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5, 0.5])
    assert course("epoch", 2.0) == pytest.approx([0.125, 0.5, 0.5, 0.5, 0.5, 0.5])
    assert course("rate", 1.0) == pytest.approx([0, 0.5 / 3, 1 / 3, 0.5, 0.5, 0.5])
    assert course("rate", 2.0) == pytest.approx([0, 0.25 / 3, 0.5 / 3, 0.25, 0.25, 0.25])
    assert course("share", 1.0) == pytest.approx([0, 0.125, 0.25, 0.375, 0.5, 0.5])
    assert course("share", 2.0) == pytest.approx([0, 0.5 / 16, 0.125, 0.5 * 9 / 16, 0.5, 0.5])
    assert forgotten_share(0, 0.3, ramp_epochs=1, exponent=1.0, ramp="rate") == 0  # no division by 0


def test_cross_entropies_slow_twin():
    first, second, label = logits(4, 3), logits(4, 3, seed=1), torch.tensor([0, 2, 1, 1])
    found = cross_entropies([first, second], label)
    for number, part in enumerate((first, second)):
        for row in range(4):
            total = sum(math.exp(value) for value in part[row].tolist())
            assert float(found[number, row]) == pytest.approx(-math.log(math.exp(part[row, label[row]]) / total), 1e-5)


def test_joint_losses_slow_twin():
    first, second, label = logits(5, 4), logits(5, 4, seed=1), torch.tensor([0, 3, 1, 1, 2])
    supervised = cross_entropies([first, second], label).sum(dim=0)
    found = joint_losses(first, second, supervised, 0.85)
    p, q = first.softmax(dim=1).tolist(), second.softmax(dim=1).tolist()
    for row in range(5):
        ce = -math.log(p[row][label[row]]) - math.log(q[row][label[row]])
        kl = sum(p[row][c] * math.log(p[row][c] / q[row][c]) for c in range(4))
        kl += sum(q[row][c] * math.log(q[row][c] / p[row][c]) for c in range(4))
        assert float(found[row]) == pytest.approx(0.15 * ce + 0.85 * kl, rel=1e-4)


def test_joint_losses_by_hand():
    # p = (3/4, 1/4), q = (1/4, 3/4): each divergence is ln 3 / 2; label 0: CE1 + CE2 = ln(4/3) + ln 4
    first, second = torch.tensor([[3.0, 1.0]]).log(), torch.tensor([[1.0, 3.0]]).log()
    supervised = cross_entropies([first, second], torch.tensor([0])).sum(dim=0)
    found = float(joint_losses(first, second, supervised, 0.9))
    assert found == pytest.approx(0.1 * (math.log(4 / 3) + math.log(4)) + 0.9 * math.log(3), rel=1e-5)
    assert float(joint_losses(first, first, supervised, 1.0)) == 0


def test_joint_loss_teaches_both_networks():
    first, second = logits(3, 4).requires_grad_(), logits(3, 4, seed=1).requires_grad_()
    joint_losses(first, second, torch.zeros(3), 1.0).sum().backward()
    assert first.grad.abs().sum() > 0
    assert second.grad.abs().sum() > 0


def predicted(*classes):
    return torch.eye(3)[list(classes)]


@pytest.mark.parametrize(
    ("when_agreed", "none", "one", "two"),
    [
        ("skip", ([], True), ([1], True), ([0, 1], True)),
        ("all", ([0, 1, 2], False), ([1], True), ([0, 1], True)),
        ("small_loss", ([0, 1, 2], True), ([0, 1, 2], True), ([0, 1], True)),
    ],
)
def test_disagreeing_by_hand(when_agreed, none, one, two):
    first = predicted(0, 1, 2)
    for second, (rows, choose) in ((predicted(0, 1, 2), none), (predicted(0, 2, 2), one), (predicted(1, 2, 2), two)):
        candidates, found = disagreeing(first, second, when_agreed)
        assert (candidates.nonzero().flatten().tolist(), bool(found)) == (rows, choose)


@pytest.mark.parametrize("seed", range(3))
def test_class_limits_slow_twin(seed):
    draw = torch.Generator().manual_seed(seed)
    losses, label = torch.rand(40, generator=draw), torch.randint(0, 4, (40,), generator=draw)
    losses[torch.rand(40, generator=draw) < 0.2] = torch.nan
    forgotten = torch.tensor([0.0, 0.3, 0.5, 0.95, 0.2])  # the last class has no row
    expected = []
    for name in range(4):
        mine = sorted(float(losses[row]) for row in range(40) if label[row] == name and not losses[row].isnan())
        expected.append(mine[max(round((1 - float(forgotten[name])) * len(mine)), 1) - 1])
    expected.append(sum(expected) / 4)
    assert class_limits(losses, label, forgotten).tolist() == pytest.approx(expected)


def test_class_limits_without_any_loss():
    assert class_limits(torch.full((3,), torch.nan), torch.tensor([0, 1, 1]), torch.rand(2)).tolist() == [0, 0]


def test_relative_losses_keep_the_share_of_each_class():
    """A class whose losses are all larger loses no more than its share."""
    losses, label = torch.cat([torch.rand(50), 5 + torch.rand(50)]), torch.arange(100) // 50
    everything, none = torch.ones(100, dtype=torch.bool), torch.zeros(100, dtype=torch.bool)
    limits = class_limits(losses, label, torch.tensor([0.2, 0.6]))
    picked = small_loss(losses - limits[label], 0.4, everything, none)
    assert [int(picked[label == name].sum()) for name in (0, 1)] == pytest.approx([40, 20], abs=1)
    assert int(small_loss(losses, 0.4, everything, none)[label == 1].sum()) == 10


def test_mean_of_picked_by_hand():
    losses, picked = torch.tensor([1.0, 2.0, 9.0]), torch.tensor([True, True, False])
    assert float(mean_of_picked(losses, picked, divide_twice=False)) == pytest.approx(1.5)
    assert float(mean_of_picked(losses, picked, divide_twice=True)) == pytest.approx(0.75)
    assert float(mean_of_picked(losses, torch.zeros(3, dtype=torch.bool), divide_twice=False)) == 0


def test_course_of_adam():
    config = parse(CoTeachingConfig, {}, "co_teaching")
    assert config.decay_epoch == 80
    assert [config.rate_at(epoch, 0.7) for epoch in (0, 79, 80, 140, 199)] == pytest.approx(
        [1e-3, 1e-3, 1e-3, 5e-4, 1e-3 / 120]
    )
    late = parse(CoTeachingConfig, {"epochs": 4, "decay_from": 10}, "co_teaching")
    assert [late.rate_at(epoch, 0.0) for epoch in range(4)] == [1e-3] * 4
    sgd = parse(CoTeachingConfig, {"optimizer": "sgd", "lr": 0.1, "schedule": "step", "epochs": 4}, "co_teaching")
    assert [sgd.rate_at(epoch, 0.0) for epoch in range(4)] == pytest.approx([0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("bad", [{"mode": "quick"}, {"forget_rate": 1.0}, {"forget_rate": "much"}, {"agreement": 2}])
def test_bad_settings(bad):
    with pytest.raises(ConfigError, match=r"train\.co_teaching"):
        parse(CoTeachingConfig, bad, "train.co_teaching")


def bright_and_dark(tmp_path):
    """48 images of 8 px, bright or dark, a quarter of the labels wrong, two of the right ones verified."""
    draw = torch.Generator().manual_seed(0)
    true = torch.arange(48) % 2
    pixels = (true[:, None, None, None] * 150 + torch.randint(0, 100, (48, 1, 8, 8), generator=draw)).to(torch.uint8)
    label = torch.where(torch.arange(48) % 8 < 2, 1 - true, true)
    transition = np.array([[0.75, 0.25], [0.25, 0.75]])
    return TrainTask(
        ids=string_ids([f"r{row:02d}" for row in range(48)]),
        pixels=pixels,
        label=label,
        soft_label=None,
        held_out=HeldOut(pixels=pixels[:12], label=true[:12], kind="trusted"),
        classes=2,
        flip=False,
        noise=NoiseEstimate(rate=0.25, source="set", prior=np.full(2, 0.5), transition=transition),
        make_model=lambda seed: build_classifier(ModelSettings(arch="small_cnn", width=4), 1, 2, seed=seed),
        runtime=Runtime(device=torch.device("cpu"), precision="float32", seed=0, image_memory_mb=64),
        checkpoint=tmp_path / "state.pt",
        fingerprint="bright and dark",
        purpose="model",
        verified=torch.arange(48) // 2 == 1,
        trace=tmp_path / "trace",
    )


@pytest.mark.parametrize("mode", sorted(MODES))
@pytest.mark.parametrize("variant", ["co_teaching", "plus", "jocor"])
def test_every_variant_learns_and_picks_verified_rows(variant, mode, tmp_path):
    settings = {"epochs": 12, "batch_size": 12, "lr": 0.01, "ramp_epochs": 3, "disagree_from": 6, "agreement": 0.3}
    task = bright_and_dark(tmp_path)
    trained = train_co_teaching(task, parse(CoTeachingConfig, {**settings, "variant": variant, "mode": mode}, "x"))
    assert trained.curve[-1]["held_out_accuracy"] > 0.9
    assert trained.metrics["derived"]["forget_rate"] == 0.25
    last = read_trace(trace_files(task.trace)[-1])
    assert last.selected[2:4].all()
    if variant != "plus":  # about three quarters of each batch
        assert last.selected.mean() == pytest.approx(0.75, abs=0.05)
