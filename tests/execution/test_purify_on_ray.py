"""Purification on two Ray nodes writes the bytes of one process: sums and predictions go part by part, in order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lnl_core.config import ModelSettings
from lnl_core.contracts import ContractError, read_labels
from lnl_core.features.cache import FeatureCache
from lnl_core.layout import Layout
from lnl_core.models.encoder import build_encoder
from lnl_core.models.saved import save_encoder
from lnl_core.purify.decide.cross_fit import JoinedRows
from lnl_core.stages.stage import run_stage

LOCAL: dict[str, Any] = {
    "run": {"device": "cpu", "threads": 1},
    "images": {"size": 8, "channels": 1, "flip": False},
    "prepare": {"dataset": "digits", "rows_per_shard": 300, "trusted": {"source": "draw", "count": 100}},  # 6 shards
    "inject": {"type": "symmetric", "symmetric": {"rate": 0.3}},
    "purify": {"ipc_ensemble": {"eac_steps": 50, "eac_rows": 500, "eac_network_steps": 20}},
}


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Digits with 64 features."""
    paths = Layout(tmp_path_factory.mktemp("digits"))
    save_encoder(paths.encoder, build_encoder(ModelSettings(arch="small_cnn", width=4), 1, seed=0), {})
    for stage in ("prepare", "inject", "features"):
        run_stage(stage, LOCAL, paths)
    return paths


def results(paths: Layout) -> tuple[bytes, bytes]:
    return paths.purified.read_bytes(), paths.kept_sums.read_bytes()


@pytest.mark.parametrize("rows", [500, 2000], ids=["a sample of rows", "every row is in the sample"])
def test_the_same_bytes(paths: Layout, on_cluster: dict[str, Any], rows: int) -> None:
    purify = {"purify": {"ipc_ensemble": LOCAL["purify"]["ipc_ensemble"] | {"eac_rows": rows}}}
    run_stage("purify", LOCAL | purify, paths)
    local = results(paths)
    metrics = run_stage("purify", LOCAL | purify | {"run": on_cluster}, paths)
    assert metrics["sums"]["parts"] == 6
    assert results(paths) == local


def test_parts_together_are_the_selection(paths: Layout) -> None:
    labels = read_labels(paths.labels)
    noisy = labels.take(labels.where(split="train", trusted=False))
    whole = FeatureCache(paths.features).select(noisy.ids)
    features = np.concatenate([batch for _, batch in whole.batches()])
    parts = whole.parts()
    assert len(parts) == 6
    assert [place.stop for place, _ in parts[:-1]] == [place.start for place, _ in parts[1:]]
    for place, part in parts:
        assert part.shape == (place.stop - place.start, whole.shape[1])
        assert np.array_equal(np.concatenate([batch for _, batch in part.batches()]), features[place])


def test_held_rows_are_the_last_part(paths: Layout) -> None:
    """Trusted rows that are treated as noisy ones, to calibrate a promise."""
    cache = FeatureCache(paths.features)
    held = cache.tensor().numpy()[:7]
    joined = JoinedRows(first=cache.select(cache.ids), then=held)
    places = [place for place, _ in joined.parts()]
    assert (len(places), places[-1]) == (7, slice(1797, 1804))
    together = np.concatenate([batch for _, part in joined.parts() for _, batch in part.batches()])
    assert np.array_equal(together, np.concatenate([batch for _, batch in joined.batches()]))


def test_a_part_that_is_not_finite_is_named(paths: Layout, on_cluster: dict[str, Any]) -> None:
    shard = sorted(paths.features.iterdir())[2]
    content = shard.read_bytes()
    features = FeatureCache(shard).tensor().numpy().astype(np.float16).tobytes()
    start = content.index(features[:64])
    shard.write_bytes(content[:start] + b"\xff" * 64 + content[start + 64 :])  # NaN
    try:
        with pytest.raises(ContractError, match=rf"{shard.name}: row 0 .*feature is not finite"):
            run_stage("purify", LOCAL | {"run": on_cluster}, paths)
    finally:
        shard.write_bytes(content)
