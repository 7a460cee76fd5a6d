"""Cells of a grid: what sets two apart, what they share, and in which order the least is done twice."""

from __future__ import annotations

import pytest

from lnl_core.bench.grid import Cell, grid_cells
from lnl_core.config import ConfigError


def cell(**changes: object) -> Cell:
    settings: dict[str, object] = {"preset": "digits", "noise": "sym20", "method": "cross_entropy", "seed": 0}
    return Cell(**{**settings, **changes})


def test_a_cell_is_its_settings() -> None:
    assert cell().spec == "digits+sym20+cross_entropy"
    assert cell().params["inject"]["symmetric"]["rate"] == 0.2
    assert cell(seed=3).params["run"]["seed"] == 3
    for override in ("run.device=cpu", "run.threads=3", "report.title=other"):
        assert cell(overrides=(override,)).settings == cell().settings
    for change in ({"seed": 1}, {"noise": "sym50"}, {"method": "divide_mix"}, {"overrides": ("model.width=8",)}):
        assert cell(**change).settings != cell().settings
    assert cell(seed=1).group == cell().group
    assert cell(noise="").spec == "digits+cross_entropy"


def test_who_shares_a_folder() -> None:
    assert cell(noise="sym50").folder == cell().folder
    assert cell(method="dmlp_naive").folder == cell().folder
    assert cell(seed=1).folder != cell().folder
    assert cell(overrides=("model.width=8",)).folder != cell().folder
    assert cell(overrides=("pretrain.simclr.epochs=2",)).folder != cell().folder


def test_what_shares_labels_stands_together() -> None:
    """cross_entropy and divide_mix learn from observed labels, the other two from purified ones."""
    methods = ["cross_entropy", "dmlp_naive", "divide_mix", "dmlp_divide_mix"]
    cells = grid_cells("digits", ["sym20", "sym50"], methods, [0, 1])
    found = [(one.seed, one.noise, one.method) for one in cells]
    order = ["cross_entropy", "divide_mix", "dmlp_naive", "dmlp_divide_mix"]
    assert found == [(seed, noise, method) for seed in (0, 1) for noise in ("sym20", "sym50") for method in order]


def test_what_is_wrong_is_found_before_the_first_cell() -> None:
    with pytest.raises(ConfigError, match="did you mean 'sym20'"):
        grid_cells("digits", ["sym20", "sym2O"], ["cross_entropy"], [0])
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        grid_cells("digits", ["sym20"], ["cross_entropy"], [0], ["train.cross_entropy.epoch=1"])
    with pytest.raises(ConfigError, match="--seeds"):
        grid_cells("digits", ["sym20"], ["cross_entropy"], [0], ["run.seed=1"])
