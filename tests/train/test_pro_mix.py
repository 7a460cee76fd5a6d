"""ProMix's selection, losses and derived settings: slow twins looped from the paper, hand-computed cases, modes."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from lnl_core.config import ConfigError, ModelSettings, parse
from lnl_core.contracts import string_ids
from lnl_core.models.classifier import build_classifier
from lnl_core.runtime import Runtime
from lnl_core.statistics.noise_estimate import NoiseEstimate
from lnl_core.train.pro_mix import ProMixConfig, TwoHeads, derive, long_memory, train_pro_mix
from lnl_core.train.pro_mix_losses import (
    class_margins,
    debiased_labels,
    debiased_loss,
    partners_within,
    updated_shares,
)
from lnl_core.train.pro_mix_selection import (
    Seen,
    agreed,
    base_sizes,
    even_shares,
    matched,
    right_shares,
    small_losses,
    within_limit,
)
from lnl_core.train.task import HeldOut, TrainTask


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise_of(prior, transition):
    prior, transition = np.array(prior), np.array(transition)
    rate = float(1 - (prior * np.diag(transition)).sum())
    return NoiseEstimate(rate=rate, source="set", prior=prior, transition=transition)


def seen(confidence, guess):
    rows = len(guess)
    return Seen(
        loss=torch.zeros(rows),
        confidence=torch.tensor(confidence),
        guess=torch.tensor(guess),
        pseudo_label=torch.zeros(rows, dtype=torch.long),
    )


@pytest.mark.parametrize("rho", [0.05, 0.5, 1.0])
def test_small_losses_slow_twin(rho):
    classes, rows = 4, 57
    losses = torch.rand(rows, generator=generator())
    label = torch.randint(classes - 1, (rows,), generator=generator(1)) + 1  # class 0 has no row
    found = small_losses(losses, label, base_sizes(rho, rows, even_shares(classes)))
    expected = set()
    for j in range(classes):
        of_class = [row for row in range(rows) if int(label[row]) == j]
        k = min(math.ceil(rows / classes * rho), len(of_class))
        expected |= set(sorted(of_class, key=lambda row: float(losses[row]))[:k])
    assert set(found.nonzero().flatten().tolist()) == expected


def test_base_sizes_by_hand():
    assert base_sizes(0.7, 300, even_shares(10)).tolist() == [21] * 10  # 0.7 * 300 / 10 is 21.000000000000004
    assert base_sizes(0.5, 33, even_shares(10)).tolist() == [2] * 10  # 1.65
    assert base_sizes(0.5, 100, np.array([0.9, 0.09, 0.01])).tolist() == [45, 5, 1]


def test_right_shares_by_hand():
    # 0.6 * 0.9 = 0.54 and 0.4 * 0.6 = 0.24: of 0.78 right labels 9 in 13 are the first class's
    noise = noise_of([0.6, 0.4], [[0.9, 0.1], [0.4, 0.6]])
    assert right_shares(noise).tolist() == pytest.approx([9 / 13, 4 / 13])
    even = noise_of([0.25] * 4, np.full((4, 4), 0.1) + 0.6 * np.eye(4))
    assert right_shares(even).tolist() == pytest.approx(even_shares(4).tolist())


def test_right_shares_of_odd_estimates():
    nothing = noise_of([0.5, 0.5], [[0.0, 1.0], [1.0, 0.0]])
    assert right_shares(nothing).tolist() == [0.5, 0.5]
    absent = right_shares(noise_of([1.0, 0.0], np.eye(2)))
    assert absent.sum() == pytest.approx(1)
    assert 0 < absent[1] < 1e-3


def test_matched_and_agreed_by_hand():
    first = seen([0.995, 0.995, 0.5, 0.99, 0.2], [0, 1, 2, 2, 1])
    second = seen([0.99, 0.98, 0.9, 0.999, 1.0], [0, 1, 2, 0, 1])
    label = torch.tensor([0, 2, 2, 2, 1])
    assert matched(first, label, 0.99).tolist() == [True, False, False, True, False]  # sure, and as the label says
    assert agreed(first, second, 0.99).tolist() == [True, False, False, False, False]  # 1: second is not sure
    assert agreed(first, second, 0.5).tolist() == [True, True, True, False, False]  # 3: they differ


def test_within_limit_slow_twin_and_by_hand():
    candidates = torch.tensor([True, True, False, True, False, False, False, False, False, False])
    selected = torch.tensor([False, False, True, False, True, True, True, True, True, True])
    confidence = torch.tensor([0.5, 0.9, 1.0, 0.7, *[0.0] * 6])
    # 7 of 10 are selected; 90 % leaves room for the two surest
    found = within_limit(candidates, selected, confidence, 0.9)
    assert found.nonzero().flatten().tolist() == [1, 3]
    assert not within_limit(candidates, selected, confidence, 0.7).any()
    assert torch.equal(within_limit(candidates, selected, confidence, 1.0), candidates)
    for seed in range(20):
        pick, taken = torch.rand(2, 16, generator=generator(seed)) < torch.tensor([[0.7], [0.4]])
        pick &= ~taken
        sure = torch.rand(16, generator=generator(100 + seed))
        expected, room = set(), math.floor(0.75 * 16) - int(taken.sum())
        for row in sorted(range(16), key=lambda row: -float(sure[row])):
            if pick[row] and len(expected) < room:
                expected.add(row)
        assert set(within_limit(pick, taken, sure, 0.75).nonzero().flatten().tolist()) == expected


def test_debiased_loss_slow_twin():
    logits = torch.randn(5, 4, generator=generator())
    targets = torch.rand(5, 4, generator=generator(1)).softmax(dim=1)
    pi, alpha = torch.tensor([[0.1, 0.2, 0.3, 0.4]]), 0.8
    found = debiased_loss(logits, targets, class_margins(pi, torch.full((4,), 0.25), alpha).expand(5, -1))
    for i in range(5):
        shifted = [math.exp(float(logits[i, j]) + alpha * math.log(float(pi[0, j]))) for j in range(4)]
        expected = -sum(float(targets[i, j]) * math.log(shifted[j] / sum(shifted)) for j in range(4))
        assert float(found[i]) == pytest.approx(expected, rel=1e-5)


def test_debiased_labels_slow_twin():
    logits, pi, alpha, temperature = torch.randn(3, 4, generator=generator()), [0.1, 0.2, 0.3, 0.4], 0.5, 0.5
    margins = class_margins(torch.tensor([pi]), torch.full((4,), 0.25), alpha)[0]
    found = debiased_labels(logits, margins, temperature)
    for i in range(3):
        score = [math.exp((float(logits[i, j]) - alpha * math.log(pi[j])) / temperature) for j in range(4)]
        assert found[i].tolist() == pytest.approx([value / sum(score) for value in score], rel=1e-5)


def test_debiasing_by_hand():
    # alpha 1, equal logits, pi (3/4, 1/4): odds 1/3 to 1 after Eq. 6; sharpened with T = 1/2: 1/9 to 1
    margins = class_margins(torch.tensor([[0.75, 0.25]]), torch.tensor([0.5, 0.5]), 1.0)
    found = debiased_labels(torch.zeros(1, 2), margins[0], 0.5)
    assert found[0].tolist() == pytest.approx([0.1, 0.9])
    loss = debiased_loss(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]), margins)
    assert float(loss) == pytest.approx(math.log(4))  # the rare class must win by a margin


def test_a_rare_class_that_is_predicted_as_often_as_it_occurs_is_not_debiased():
    prior = torch.tensor([0.9, 0.1])
    assert class_margins(prior[None], prior, 0.8)[0].tolist() == [0.0, 0.0]
    blown_up = class_margins(prior[None], torch.tensor([0.5, 0.5]), 0.8)[0]
    assert float(blown_up[0] - blown_up[1]) == pytest.approx(0.8 * math.log(9))


def test_updated_shares_slow_twin():
    pi = torch.tensor([[0.5, 0.5], [0.2, 0.8], [0.6, 0.4]])
    predicted, group = torch.tensor([[0.1, 0.9], [0.3, 0.7], [1.0, 0.0]]), torch.tensor([1, 1, 0])
    found = updated_shares(pi, predicted, group, 0.9, floor=1e-3)
    assert found[0].tolist() == pytest.approx([0.9 * 0.5 + 0.1, 0.9 * 0.5])
    assert found[1].tolist() == pytest.approx([0.9 * 0.2 + 0.1 * 0.2, 0.9 * 0.8 + 0.1 * 0.8])
    assert found[2].tolist() == pytest.approx([0.6, 0.4])  # nobody there: unchanged
    assert updated_shares(pi, predicted, group, 0.0, floor=1e-3)[0].tolist() == pytest.approx([1.0, 1e-3])


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_partners_are_a_permutation_within_the_groups(share):
    group = torch.rand(50, generator=generator()) < share
    partner = partners_within(group, generator(1))
    assert sorted(partner.tolist()) == list(range(50))
    assert torch.equal(group[partner], group)
    assert not torch.equal(partner, torch.arange(50))
    assert torch.equal(partner, partners_within(group, generator(1)))


def test_two_heads_share_an_encoder_and_draw_nothing_global():
    settings = ModelSettings(arch="small_cnn", width=8)
    state = torch.random.get_rng_state()
    network = TwoHeads(build_classifier(settings, 1, 3, seed=1), seed=7)
    assert torch.equal(state, torch.random.get_rng_state())
    images = torch.rand(4, 1, 8, 8, generator=generator())
    main, auxiliary = network.eval()(images)
    assert torch.equal(main, network.classifier(images))
    assert not torch.allclose(main, auxiliary)
    again = TwoHeads(build_classifier(settings, 1, 3, seed=1), seed=7)
    assert torch.equal(network.auxiliary.weight, again.auxiliary.weight)


def small_task(tmp_path, *, rows=40, classes=4, noise=None):
    label = torch.arange(rows) % classes
    prior = np.full(classes, 1 / classes)
    return TrainTask(
        ids=string_ids([f"r{row:05d}" for row in range(rows)]),
        pixels=torch.randint(256, (rows, 1, 8, 8), generator=generator(), dtype=torch.uint8),
        label=label,
        soft_label=None,
        held_out=HeldOut(
            pixels=torch.zeros(0, 1, 8, 8, dtype=torch.uint8), label=torch.zeros(0, dtype=torch.long), kind="none"
        ),
        classes=classes,
        flip=False,
        make_model=lambda seed: build_classifier(ModelSettings(arch="small_cnn", width=8), 1, classes, seed=seed),
        runtime=Runtime(device=torch.device("cpu"), precision="float32", seed=0, image_memory_mb=64),
        checkpoint=tmp_path / "state.pt",
        fingerprint="x",
        purpose="model",
        noise=noise or NoiseEstimate(rate=0.45, source="set", prior=prior, transition=np.eye(classes)),
    )


def test_derived_settings_meet_the_published_ones(tmp_path):
    assert long_memory(600 * 196) == pytest.approx(0.9999, abs=1e-7)
    assert long_memory(1) == 0
    few = derive(small_task(tmp_path), parse(ProMixConfig, {}, "pro_mix"))
    assert (few.tau, few.alpha, few.warmup_epochs, few.ramp_epochs) == (0.99, 0.8, 10, 50)
    assert few.rho == pytest.approx(0.5, abs=0.01)  # 50 % inclusive symmetric noise: 45 % wrong
    many = derive(small_task(tmp_path, rows=100, classes=100), parse(ProMixConfig, {}, "pro_mix"))
    assert (many.tau, many.alpha, many.warmup_epochs) == (0.95, 0.5, 30)
    short = derive(small_task(tmp_path), parse(ProMixConfig, {"epochs": 12, "tau": 0.5}, "pro_mix"))
    assert (short.warmup_epochs, short.ramp_epochs, short.tau) == (3, 1, 0.5)


@pytest.mark.parametrize(
    "switch",
    [
        {"joined_views": True},
        {"gamma": 0.0},
        {"lambda_u": 0.0},
        {"mixing": "row"},
        {"rho": 0.0, "tau": 2.0},
        {"agree_from": 0.0, "tau": 0.0},
        {"mode": "paper"},
        {"warmup_epochs": 0},
        {"ramp_epochs": 0},
    ],
    ids=str,
)
def test_switches_change_the_run_and_stay_finite(switch, tmp_path):
    noise = noise_of([0.4, 0.3, 0.2, 0.1], np.full((4, 4), 0.1) + 0.6 * np.eye(4))
    curves = []
    for name, settings in (("plain", {}), ("switched", switch)):
        task = dataclasses.replace(small_task(tmp_path, noise=noise), checkpoint=tmp_path / f"{name}.pt")
        config = parse(ProMixConfig, {"epochs": 2, "batch_size": 16, "warmup_epochs": 1, **settings}, "pro_mix")
        curves.append(train_pro_mix(task, config).curve)
    assert all(math.isfinite(value) for curve in curves for record in curve for value in record.values())
    assert curves[0] != curves[1]


def test_what_is_verified_is_selected(tmp_path):
    verified = torch.ones(40, dtype=torch.bool)
    task = dataclasses.replace(small_task(tmp_path), verified=verified)
    config = parse(ProMixConfig, {"epochs": 2, "warmup_epochs": 1, "agree_from": 0.0, "tau": 0.0}, "pro_mix")
    record = train_pro_mix(task, config).curve[-1]
    assert (record["selected_share"], record["agreed_share"]) == (1.0, 0.0)


@pytest.mark.parametrize("bad", [{"mode": "quick"}, {"rho": 1.5}, {"tau": -0.1}, {"alpha": "much"}, {"agree_limit": 2}])
def test_bad_settings(bad):
    with pytest.raises(ConfigError, match=r"train\.pro_mix"):
        parse(ProMixConfig, bad, "train.pro_mix")
