"""Presets and their overlays: what merges into what, that all of them parse, and that methods without one are named."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import yaml

from lnl_core.config import ConfigError, load_overlays, load_preset, preset_names
from lnl_core.stages.stage import check_params
from lnl_core.train import TRAINERS

OVERLAYS = load_overlays()
METHODS = [overlay for overlay in OVERLAYS.values() if overlay.kind == "methods"]


def presets_of(overlay: Any) -> list[str]:
    """The presets that an overlay, or the one that it extends, names; where it is for any: digits."""
    inherited = presets_of(OVERLAYS[overlay.extends]) if overlay.extends else []
    return sorted({"digits" if name == "any" else name for name in overlay.presets} | set(inherited))


def combinations() -> list[str]:
    """Every noise on its presets, every method and start on its presets, every pair that has settings of its own."""
    alone = [f"{preset}+{one.name}" for one in OVERLAYS.values() for preset in presets_of(one)]
    pairs = [f"{key}+{one.name}" for one in METHODS for key in one.settings if "+" in key]
    return [*alone, *pairs]


@pytest.mark.parametrize("name", combinations())
def test_every_overlay_parses_on_every_preset_that_it_names(name: str) -> None:
    params = load_preset(name)
    check_params(params)


@pytest.mark.parametrize("preset", ["cifar10", "cifar100"])
def test_the_published_noises_are_there(preset: str) -> None:
    human = "human-worse" if preset == "cifar10" else "human-fine"
    for noise in ("sym20", "sym50", "sym80", "sym90", "asym40", "instance20", "instance40", "instance60", human):
        params = load_preset(f"{preset}+{noise}")
        check_params(params)
        if noise.startswith("sym"):
            assert params["inject"]["symmetric"] == {"rate": int(noise[3:]) / 100, "protocol": "inclusive"}


def test_every_registered_method_has_an_overlay() -> None:
    assert set(TRAINERS.names()) <= {name for name in OVERLAYS if OVERLAYS[name].kind == "methods"}


def test_a_method_overlay_says_where_it_starts_and_what_it_learns_from() -> None:
    for overlay in METHODS:
        train = load_preset(f"digits+{overlay.name}")["train"]
        assert {"method", "labels", "init"} <= set(train), overlay.name


def test_parts_are_merged_in_order_and_the_particular_wins() -> None:
    plain = load_preset("cifar10")
    merged = load_preset("cifar10+sym90+divide_mix", ["train.divide_mix.epochs=3"])
    assert merged["inject"]["symmetric"]["rate"] == 0.9
    assert merged["train"]["divide_mix"] == {
        "epochs": 3,
        "warmup_epochs": 10,
        "batch_size": 64,
        "lr": 0.02,
        "schedule": "step",
        "milestones": [150],
        "lambda_u": 50,
        "p_threshold": 0.6,
        "loss_window": 5,
    }
    assert merged["train"]["labels"] == "observed"
    assert merged["prepare"] == plain["prepare"]
    assert load_preset("cifar10") == plain  # nothing was changed in place
    assert load_preset("cifar100+divide_mix+sym90")["train"]["divide_mix"]["warmup_epochs"] == 30
    assert load_preset("cifar100+c2d+sym90")["train"]["divide_mix"]["warmup_epochs"] == 5
    assert load_preset("cifar100+c2d+sym90")["train"]["divide_mix"]["lambda_u"] == 150
    assert load_preset("digits+dmlp_naive")["train"]["labels"] == "purified_hard"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar+sym80", "unknown preset 'cifar'; did you mean 'cifar"),
        ("cifar10+sym81", "unknown overlay 'sym81'; did you mean 'sym80'"),
        ("cifar10+", "unknown overlay ''"),
        ("cifar10+sym80+sym20", "'sym80' and 'sym20' are both noise; name one"),
        ("cifar10+sym80+c2d+divide_mix", "'c2d' and 'divide_mix' are both methods"),
        ("digits+asym40", "overlay 'asym40' says nothing about digits; it is for cifar10, cifar100"),
        ("noise", "unknown preset 'noise'"),
    ],
)
def test_what_cannot_be_merged(name: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_preset(name)
    assert message in str(caught.value)


def test_names_are_kept_apart() -> None:
    for overlay in OVERLAYS.values():
        assert "+" not in overlay.name
        assert overlay.name not in preset_names()
        assert set(overlay.presets) <= {"any", *preset_names()}, overlay.name
        known = {"any", *preset_names(), *OVERLAYS}
        assert set(itertools.chain(*(key.split("+") for key in overlay.settings))) <= known, overlay.name
        if overlay.extends:
            assert not OVERLAYS[overlay.extends].extends, "one step"


def test_a_merged_preset_survives_yaml() -> None:
    merged = load_preset("cifar10+sym80+divide_mix")
    assert yaml.safe_load(yaml.safe_dump(merged, sort_keys=False)) == merged
