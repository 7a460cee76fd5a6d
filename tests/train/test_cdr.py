"""CDR's rule: slow twins looped from the paper, hand-computed steps, modes and guards."""

import pytest
import torch

from lnl_core.config import ConfigError, parse
from lnl_core.runtime import Runtime
from lnl_core.train import cdr
from lnl_core.train.cdr import MODES, CDRConfig, critical_weights, divide_weights, sample_stride

RUNTIME = Runtime(device=torch.device("cpu"), precision="float32", seed=0, image_memory_mb=64)


def tensors(*shapes, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return [(torch.randn(shape, generator=draw), torch.randn(shape, generator=draw)) for shape in shapes]


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 1.0])
def test_critical_weights_slow_twin(share):
    weights = tensors((3, 4), (5,), (2, 1, 3, 3))
    values = sorted((abs(float(w) * float(g)) for weight, gradient in weights for w, g in pairs(weight, gradient)))
    count = max(round(share * len(values)), 1)
    limit = values[len(values) - count]
    for (weight, gradient), mask in zip(weights, critical_weights(weights, share), strict=True):
        assert mask.shape == weight.shape
        expected = [abs(float(w) * float(g)) >= limit - 1e-7 for w, g in pairs(weight, gradient)]
        assert mask.flatten().tolist() == expected


def pairs(weight, gradient):
    return zip(weight.flatten(), gradient.flatten(), strict=True)


def test_critical_weights_by_hand():
    # |g w|: 2, 3 and 1, 0, 8; half of five is two (rounded to even): 3 and 8
    weights = [
        (torch.tensor([1.0, -3.0]), torch.tensor([2.0, 1.0])),
        (torch.tensor([0.5, 0.0, 4.0]), torch.tensor([-2.0, 9.0, -2.0])),
    ]
    assert [mask.tolist() for mask in critical_weights(weights, 0.5)] == [[False, True], [False, False, True]]
    assert sum(int(mask.sum()) for mask in critical_weights(weights, 0.001)) == 1


def test_threshold_of_a_sample_keeps_the_share(monkeypatch):
    monkeypatch.setattr(cdr, "RANKED_WEIGHTS", 5000)
    weights = tensors((64, 32, 3, 3), (100, 200))
    kept = sum(int(mask.sum()) for mask in critical_weights(weights, 0.4))
    assert kept / (64 * 32 * 9 + 20_000) == pytest.approx(0.4, abs=0.03)


def test_sample_stride_by_hand():
    assert [sample_stride(weights, 10) for weights in (10, 11, 101, 110, 120)] == [1, 11, 11, 11, 13]


class Weights(torch.nn.Module):
    """A kernel [1, 4] and a bias [1]."""

    def __init__(self):
        super().__init__()
        self.kernel = torch.nn.Parameter(torch.tensor([[1.0, -2.0, 3.0, -4.0]]))
        self.bias = torch.nn.Parameter(torch.tensor([0.5]))

    def loss(self, gradient, bias):
        """Its gradient is `gradient` and `bias`."""
        return (self.kernel * torch.tensor([gradient])).sum() + bias * self.bias.sum()


def train(mode, steps, forgotten=0.5, **changes):
    """Kernel and bias after steps of (gradient, gradient of the bias) at lr 0.1, momentum 0.9, decay 0.01."""
    config = parse(CDRConfig, {"mode": mode, "weight_decay": 0.01, **changes}, "cdr")
    weights = Weights()
    updates = cdr.updates_of(weights, RUNTIME, config)
    for gradient, bias in steps:
        loss = weights.loss(gradient, bias)
        updates.step(loss, 0.1, before_update=lambda: divide_weights(updates, config, forgotten))
    return weights.kernel[0].tolist(), weights.bias.tolist()


def slow_train(steps, forgotten, *, decay, ranked, velocity, momentum=0.9, rate=0.01, lr=0.1):
    """The rule weight by weight, the bias last."""
    w, v = [1.0, -2.0, 3.0, -4.0, 0.5], [0.0] * 5
    for gradient, bias in steps:
        g = [*gradient, bias]
        among = range(5 if ranked == "all" else 4)
        count = max(round((1 - forgotten) * len(among)), 1)
        critical = sorted(among, key=lambda i: -abs(g[i] * w[i]))[:count]
        for i in range(5):
            if i in among and i not in critical:
                g[i] = 0.0
                v[i] = 0.0 if velocity == "critical" else v[i]
            elif i in among:
                g[i] *= 1 - forgotten
        for i in range(5):
            pull = rate * (w[i] if decay == "l2" else (w[i] > 0) - (w[i] < 0))
            v[i] = momentum * v[i] + g[i] + pull
            w[i] -= lr * v[i]
    return w[:4], w[4:]


STEPS = [([1.0, 0.2, 0.1, -1.0], 0.7), ([-0.5, 0.8, 0.3, 0.1], -0.2), ([0.1, 0.1, -2.0, 0.3], 0.4)]


@pytest.mark.parametrize("mode", sorted(MODES))
@pytest.mark.parametrize("forgotten", [0.0, 0.5, 0.75])
def test_steps_slow_twin(mode, forgotten):
    quirks = {name: MODES[mode][name] for name in ("decay", "ranked", "velocity")}
    kernel, bias = train(mode, STEPS, forgotten)
    expected = slow_train(STEPS, forgotten, **quirks)
    assert kernel == pytest.approx(expected[0], rel=1e-5)
    assert bias == pytest.approx(expected[1], rel=1e-5)


def test_one_step_of_the_paper_by_hand():
    # |g w| = 1, .4, .3, 4 and .35: the share 1/2 of five (rounded to even) is two: the first and the fourth;
    # they move by .1 (.5 g + .01 sgn w), the others by .1 * .01 sgn w
    kernel, bias = train("paper", STEPS[:1])
    assert kernel == pytest.approx([1 - 0.1 * 0.51, -2 + 0.001, 3 - 0.001, -4 + 0.1 * 0.51])
    assert bias == pytest.approx([0.499])


def test_a_coasting_weight_stops_where_velocity_is_critical():
    steps = [([1.0, 0.0, 0.0, 0.0], 0.0), ([0.0, 0.0, 0.0, 1.0], 0.0)]
    moved = {
        velocity: train("released", steps, 0.75, velocity=velocity, weight_decay=0.0)[0][0]
        for velocity in ("all", "critical")
    }
    assert moved == pytest.approx({"all": 1 - 0.025 * 1.9, "critical": 1 - 0.025})


def test_without_noise_it_is_sgd():
    weights = Weights()
    sgd = torch.optim.SGD(weights.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for gradient, bias in STEPS:
        sgd.zero_grad()
        weights.loss(gradient, bias).backward()
        sgd.step()
    kernel, bias = train("fixed", STEPS, forgotten=0.0)
    assert kernel == pytest.approx(weights.kernel[0].tolist())
    assert bias == pytest.approx(weights.bias.tolist())


@pytest.mark.parametrize("bad", [{"mode": "quick"}, {"forget_rate": 1.0}, {"forget_rate": -0.1}, {"decay": "l3"}])
def test_bad_settings(bad):
    with pytest.raises(ConfigError, match=r"train\.cdr"):
        parse(CDRConfig, bad, "train.cdr")
