"""Where stages are placed: by dvc.yaml, by settings that need a GPU, by the user."""

from __future__ import annotations

from pathlib import Path

import pytest

from lnl_core.config import ConfigError, load_preset
from tasks.graph import read_graph
from tasks.placement import INLINE, place

NODES = read_graph(Path(__file__).parents[2] / "dvc.yaml")
GPU = {"pretrain", "features", "train"}


def test_inline_places_nothing() -> None:
    assert set(place("inline", NODES, load_preset("digits")).values()) == {INLINE}


def test_pools_follow_the_graph() -> None:
    placed = place("pools", NODES, load_preset("digits"))
    assert {stage for stage, pool in placed.items() if pool == "gpu"} == GPU
    assert {pool for stage, pool in placed.items() if stage not in GPU} == {"cpu"}


def test_a_purifier_that_trains_networks_goes_to_the_gpu() -> None:
    images = load_preset("digits", ["purify.method=emlc", "purify.emlc.input=images"])
    features = load_preset("digits", ["purify.method=emlc"])
    assert place("pools", NODES, images)["purify"] == "gpu"
    assert place("pools", NODES, features)["purify"] == "cpu"


def test_a_mapping_places_what_it_names() -> None:
    placed = place({"train": "big-gpu"}, NODES, load_preset("digits"))
    assert placed.pop("train") == "big-gpu"
    assert set(placed.values()) == {INLINE}


@pytest.mark.parametrize(("placement", "message"), [("pool", "'pools'"), ({"trian": "gpu"}, "did you mean 'train'")])
def test_what_does_not_exist_is_named(placement: str | dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        place(placement, NODES, load_preset("digits"))
