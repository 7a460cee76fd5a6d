"""Strict settings: unknown keys, bad ranges and overrides name the key, the value and the nearest valid one."""

from __future__ import annotations

from pathlib import Path

import pytest

from lnl_core.config import ConfigError, RunSettings, apply_overrides, load_params, load_preset, parse, preset_names
from lnl_core.stages.stage import check_params


def test_overrides_are_yaml_and_leave_the_original_alone() -> None:
    params = {"run": {"seed": 0}}
    changed = apply_overrides(params, ["run.seed=3", "purify.ipc_ensemble.ridge=[0.1, 1.0]", "pretrain.method=none"])
    assert changed == {
        "run": {"seed": 3},
        "purify": {"ipc_ensemble": {"ridge": [0.1, 1.0]}},
        "pretrain": {"method": "none"},
    }
    assert params == {"run": {"seed": 0}}


@pytest.mark.parametrize("override", ["seed=1", "run.seed", "run..seed=1", "run.seed.deep=1", "run.seed=[1"])
def test_overrides_that_cannot_be_read(override: str) -> None:
    with pytest.raises(ConfigError, match="override"):
        apply_overrides({"run": {"seed": 0}}, [override])


def test_unknown_key_gets_its_nearest() -> None:
    with pytest.raises(ConfigError, match=r"run\.sed: unknown setting; did you mean 'seed'\?"):
        parse(RunSettings, {"sed": 1}, "run")


def test_bad_value_is_named() -> None:
    with pytest.raises(ConfigError, match=r"run\.seed = -1: .*greater than or equal to 0"):
        parse(RunSettings, {"seed": -1}, "run")


def test_scientific_notation_that_yaml_takes_for_text_is_a_number(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("pretrain: {method: simclr, simclr: {weight_decay: 1e-3}}\n")
    check_params(load_params(file))


@pytest.mark.parametrize("text", ["- a list", "run: 3", "run: {seed: [", ""])
def test_files_that_are_no_params(tmp_path: Path, text: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"params\.yaml"):
        load_params(file)


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        check_params({"run": {"sed": 1}, "purfy": {}, "train": {"divide_mix": {"epochs": 0}}})
    message = str(caught.value)
    assert "run.sed" in message
    assert "did you mean 'purify'" in message
    assert "train.divide_mix.epochs = 0" in message


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_parses(name: str) -> None:
    check_params(load_preset(name))


def test_unknown_preset_gets_its_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'digits'"):
        load_preset("digit")
