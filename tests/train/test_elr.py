"""ELR's and ELR+'s settings: what "auto" means, milestones, ranges."""

import numpy as np
import pytest
import torch

from lnl_core.config import ConfigError, parse
from lnl_core.statistics.noise_estimate import NoiseEstimate
from lnl_core.train.elr import ELRConfig
from lnl_core.train.elr_plus import ELRPlusConfig, derive
from lnl_core.training.ema import update_average

BOTH = pytest.mark.parametrize("config", [ELRConfig, ELRPlusConfig])


def noise_of(classes, kind="symmetric"):
    wrong = np.ones((classes, classes)) / classes if kind == "symmetric" else np.roll(np.eye(classes), 1, axis=1)
    transition = 0.6 * np.eye(classes) + 0.4 * wrong
    return NoiseEstimate(rate=0.4, source="set", prior=np.full(classes, 1 / classes), transition=transition)


@pytest.mark.parametrize(
    ("classes", "kind", "expected"),
    [(10, "symmetric", (0.7, 3.0, 0.0)), (10, "asymmetric", (0.9, 1.0, 0.0)), (100, "symmetric", (0.9, 7.0, 0.4))],
)
def test_auto_is_the_papers(classes, kind, expected):
    derived = derive(noise_of(classes, kind), parse(ELRPlusConfig, {}, "elr_plus"))
    assert (derived.beta, derived.lambda_, derived.lambda_ramp) == expected


def test_what_is_set_is_not_replaced():
    config = parse(ELRPlusConfig, {"beta": 0.0, "lambda_": 0, "lambda_ramp": 0.2}, "elr_plus")
    derived = derive(noise_of(100), config)
    assert (derived.beta, derived.lambda_, derived.lambda_ramp) == (0.0, 0, 0.2)
    assert parse(ELRConfig, {"lambda_": 2}, "elr").constants((0.7, 3.0)) == (0.7, 2)


def test_published_milestones_and_their_shares():
    assert parse(ELRConfig, {}, "elr").milestones == (40, 80)
    assert parse(ELRConfig, {"epochs": 10}, "elr").milestones == (4, 7)
    assert parse(ELRConfig, {"epochs": 150, "milestones": [80, 120]}, "elr").milestones == (80, 120)
    assert parse(ELRPlusConfig, {}, "elr_plus").milestones == (150,)
    assert parse(ELRPlusConfig, {"epochs": 20}, "elr_plus").milestones == (15,)


@BOTH
@pytest.mark.parametrize("bad", [{"beta": 1.0}, {"beta": -0.1}, {"lambda_": -1}, {"beta": "much"}, {"epochs": "some"}])
def test_bad_settings(config, bad):
    with pytest.raises(ConfigError, match=r"train\.elr"):
        parse(config, bad, "train.elr")


def test_bad_ramp():
    with pytest.raises(ConfigError, match="lambda_ramp"):
        parse(ELRPlusConfig, {"lambda_ramp": 1.5}, "train.elr_plus")


def test_weight_average_slow_twin():
    """Mean teacher: weights and running statistics, whole numbers copied."""
    network, average = (torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)) for _ in range(2))
    network(torch.randn(4, 2, generator=torch.Generator().manual_seed(0)))
    before = {name: value.clone() for name, value in average.state_dict().items()}
    update_average(average, network, 0.75)
    for name, value in average.state_dict().items():
        current = network.state_dict()[name]
        expected = 0.75 * before[name] + 0.25 * current if value.is_floating_point() else current
        assert torch.allclose(value, expected)
