"""Stage features on real digits: written once, reused while nothing changed, resumed after a kill."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lnl_core.config import ConfigError, ModelSettings
from lnl_core.contracts import ContractError, read_labels
from lnl_core.features import encode_shard
from lnl_core.features.cache import FeatureCache
from lnl_core.files import write_json
from lnl_core.images.store import load_images
from lnl_core.layout import Layout
from lnl_core.models.encoder import build_encoder
from lnl_core.models.saved import load_encoder, save_encoder
from lnl_core.stages.stage import Shared, run_stage, stage_named

SHARDS = 4
PARAMS: dict[str, Any] = {
    "run": {"device": "cpu", "threads": 1},
    "images": {"size": 8, "channels": 1, "flip": False},
    "prepare": {"dataset": "digits", "rows_per_shard": 500},
    "features": {"batch_size": 200},
}


def with_features(**changes: Any) -> dict[str, Any]:
    return {**PARAMS, "features": {**PARAMS["features"], **changes}}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    paths = Layout(tmp_path_factory.mktemp("digits"))
    run_stage("prepare", PARAMS, paths)
    pretrained(paths, seed=0)
    return paths.root


@pytest.fixture
def paths(prepared: Path, tmp_path: Path) -> Layout:
    shutil.copytree(prepared, tmp_path / "data")
    return Layout(tmp_path / "data")


def pretrained(paths: Layout, seed: int) -> None:
    save_encoder(paths.encoder, build_encoder(ModelSettings(arch="small_cnn", width=8), 1, seed=seed), {})


def times(folder: Path) -> dict[str, int]:
    return {shard.name: shard.stat().st_mtime_ns for shard in sorted(folder.iterdir())}


def test_every_image_has_the_encoders_features(paths: Layout) -> None:
    metrics = run_stage("features", PARAMS, paths)
    cache = FeatureCache(paths.features)
    labels = read_labels(paths.source_labels)
    assert (cache.ids == labels.ids).all()
    assert "test" in labels.split
    assert (metrics["rows"], metrics["width"], metrics["dtype"]) == (1797, 128, "float16")
    assert (metrics["shards_written"], metrics["shards_reused"]) == (SHARDS, 0)
    assert metrics["images_per_second"] > 0
    assert cache.fingerprint.startswith(metrics["fingerprint"])
    store = load_images(
        paths.images, Shared(images=PARAMS["images"]).images, ids=labels.ids, scratch=paths.root, memory_mb=9
    )
    with torch.no_grad():
        expected = load_encoder(paths.encoder)(store.pixels.float() / 255)
    assert torch.allclose(cache.tensor(labels.ids), expected, rtol=1e-3, atol=1e-3)
    assert sorted(path.name for path in paths.features.iterdir()) == sorted(p.name for p in paths.images.iterdir())


def test_an_unchanged_encoder_rewrites_nothing_and_a_changed_one_all(paths: Layout) -> None:
    first = run_stage("features", PARAMS, paths)
    before = times(paths.features)
    again = run_stage("features", PARAMS, paths)
    assert times(paths.features) == before
    assert (again["shards_written"], again["shards_reused"]) == (0, SHARDS)
    assert again["fingerprint"] == first["fingerprint"]
    pretrained(paths, seed=1)
    changed = run_stage("features", PARAMS, paths)
    assert (changed["shards_written"], changed["shards_reused"]) == (SHARDS, 0)
    assert changed["fingerprint"] != first["fingerprint"]
    assert all(times(paths.features)[name] != when for name, when in before.items())
    wider = run_stage("features", with_features(dtype="float32"), paths)
    assert (wider["shards_written"], wider["dtype"]) == (SHARDS, "float32")


def test_only_changed_shards_are_written_and_stale_ones_go(paths: Layout) -> None:
    run_stage("features", PARAMS, paths)
    before = times(paths.features)
    parts = sorted(paths.images.iterdir())
    shutil.copy(parts[-1], paths.images / "part-00009.parquet")
    parts[-1].unlink()  # the same rows under another number
    metrics = run_stage("features", PARAMS, paths)
    assert (metrics["rows"], metrics["shards_written"], metrics["shards_reused"]) == (1797, 1, SHARDS - 1)
    after = times(paths.features)
    assert "part-00009.parquet" in after
    assert parts[-1].name not in after
    assert {name: after[name] for name in list(before)[:-1]} == dict(list(before.items())[:-1])


class KilledError(Exception):
    pass


def test_parts_of_the_last_version_are_taken_from_it_where_nothing_they_depend_on_has_changed(paths: Layout) -> None:
    run_stage("features", PARAMS, paths)
    whole = {shard.name: shard.read_bytes() for shard in paths.features.iterdir()}
    paths.previous.features.parent.mkdir(parents=True)
    paths.features.rename(paths.previous.features)
    (paths.previous.features / "part-00002.parquet").unlink()  # as if it had come after that version
    metrics = run_stage("features", PARAMS, paths)
    assert (metrics["shards_reused"], metrics["shards_written"], metrics["images_encoded"]) == (3, 1, 500)
    assert {shard.name: shard.read_bytes() for shard in paths.features.iterdir()} == whole
    assert len(list(paths.previous.features.iterdir())) == 3  # read, not emptied
    shutil.rmtree(paths.features)
    pretrained(paths, seed=1)
    assert run_stage("features", PARAMS, paths)["images_encoded"] == 1797


def test_a_saved_encoder_of_an_earlier_run_gives_the_features_that_it_gave_then(paths: Layout, tmp_path: Path) -> None:
    first = run_stage("features", PARAMS, paths)
    shutil.move(paths.encoder, tmp_path / "frozen")
    write_json(paths.encoder / "config.json", {"kind": "none"})
    metrics = run_stage("features", with_features(encoder=f"saved:{tmp_path / 'frozen'}"), paths)
    assert (metrics["fingerprint"], metrics["images_encoded"]) == (first["fingerprint"], 0)
    with pytest.raises(ContractError, match="elsewhere: not a model folder"):
        run_stage("features", with_features(encoder=f"saved:{tmp_path / 'elsewhere'}"), paths)


def test_a_killed_stage_started_again_writes_the_same_bytes(paths: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    run_stage("features", PARAMS, paths)
    whole = {shard.name: shard.read_bytes() for shard in paths.features.iterdir()}
    shutil.rmtree(paths.features.parent)  # as DVC does before it runs a stage again
    iterate = encode_shard.iterate_images
    batches = 0

    def killing(*arguments: Any) -> Any:
        nonlocal batches
        for batch in iterate(*arguments):
            batches += 1
            if batches == 8:  # three batches a shard: amid the third shard
                raise KilledError
            yield batch

    monkeypatch.setattr(encode_shard, "iterate_images", killing)
    with pytest.raises(KilledError):
        run_stage("features", PARAMS, paths)
    assert not paths.features.exists()
    assert len(list(paths.resume("features").iterdir())) == 2
    monkeypatch.setattr(encode_shard, "iterate_images", iterate)
    metrics = run_stage("features", PARAMS, paths)
    assert (metrics["shards_written"], metrics["shards_reused"]) == (SHARDS - 2, 2)
    assert {shard.name: shard.read_bytes() for shard in paths.features.iterdir()} == whole
    assert not paths.resume("features").exists()


def test_streamed_and_whole_features_agree_on_a_split(paths: Layout) -> None:
    run_stage("features", PARAMS, paths)
    labels = read_labels(paths.source_labels)
    train = labels.ids[labels.where(split="train")]
    selection = FeatureCache(paths.features).select(train)
    streamed = np.concatenate([features for _, features in selection.batches()])
    assert np.array_equal(streamed, FeatureCache(paths.features).tensor(train).numpy())


def test_features_that_are_not_finite_are_refused_with_the_images_id(paths: Layout) -> None:
    encoder = build_encoder(ModelSettings(arch="small_cnn", width=8), 1, seed=0)
    encoder.normalise.mean.fill_(float("nan"))
    save_encoder(paths.encoder, encoder, {})
    with pytest.raises(ContractError, match="image 'digit-0000' is not finite"):
        run_stage("features", PARAMS, paths)


def test_no_encoder_and_no_images_are_clear_errors(paths: Layout) -> None:
    run_stage("pretrain", {**PARAMS, "pretrain": {"method": "none"}}, paths)
    with pytest.raises(ConfigError, match=r"pretrain\.method is 'none'"):
        run_stage("features", PARAMS, paths)
    shutil.rmtree(paths.images)
    pretrained(paths, seed=0)
    with pytest.raises(ContractError, match=r"has no part-\*\.parquet"):
        run_stage("features", PARAMS, paths)


def test_a_published_backbone_on_enlarged_digits(paths: Layout) -> None:
    images = {"size": 32, "channels": 3, "flip": False}
    params = {**with_features(encoder="timm:resnet10t", random_weights=True), "images": images}
    metrics = run_stage("features", params, paths)
    assert (metrics["rows"], metrics["width"], metrics["encoder"]) == (1797, 512, "timm:resnet10t")


def test_what_the_stage_declares() -> None:
    stage = stage_named("features")
    assert stage.pool == "gpu"
    assert stage.reads == ("images", "encoder")
    with pytest.raises(ConfigError, match=r"features\.dtype = 'float8'"):
        stage.settings({"dtype": "float8"})
