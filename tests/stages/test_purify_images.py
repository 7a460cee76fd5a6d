"""EMLC on images through stage purify, on real digits: better labels, exact resume, and clear errors."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from lnl_core.config import ConfigError, ModelSettings
from lnl_core.contracts import (
    IMAGES,
    Labels,
    Purified,
    read_purified,
    string_ids,
    write_labels,
    write_table,
)
from lnl_core.features.shards import ShardKey, write_shard
from lnl_core.files import atomic_folder, read_json, write_json
from lnl_core.layout import Layout
from lnl_core.models.encoder import build_encoder
from lnl_core.models.normalise import pixel_statistics, set_normalisation
from lnl_core.models.saved import save_encoder
from lnl_core.purify.meta import images as emlc_images
from lnl_core.purify.meta.images import held_out_rows
from lnl_core.stages.stage import run_stage
from lnl_core.training.checkpoint import save_checkpoint

ROWS, TRUSTED = 600, 100
MODEL = {"arch": "small_cnn", "width": 8}
PIXELS = (load_digits().images[:ROWS] / 16 * 255).astype(np.uint8)
TRUE = load_digits().target[:ROWS].astype(np.int32)


def params(*, run: Mapping[str, Any] | None = None, **images: Any) -> dict[str, Any]:
    settings = {"start": "scratch", "epochs": 6, "batch_size": 32, "trusted_batch_size": 32, "lr": 0.1}
    settings |= {"teacher_lr": 0.1, **images}
    return {
        "run": {"device": "cpu", "threads": 1, **(run or {})},
        "images": {"size": 8, "channels": 1, "flip": False},
        "model": MODEL,
        "purify": {"method": "emlc", "emlc": {"input": "images", "images": settings}},
    }


@pytest.fixture
def paths(tmp_path: Path) -> Layout:
    """600 digits, 100 of them trusted, half of the others' labels wrong; an encoder of random weights."""
    layout = Layout(tmp_path)
    draw = np.random.default_rng(0)
    observed = np.where(draw.random(ROWS) < 0.5, (TRUE + draw.integers(1, 10, ROWS)) % 10, TRUE).astype(np.int32)
    ids = string_ids([f"digit-{draw.integers(10**9):09d}-{row}" for row in range(ROWS)])  # no order to lean on
    trusted = np.zeros(ROWS, dtype=bool)
    trusted[draw.permutation(ROWS)[:TRUSTED]] = True
    images = [png(pixels) for pixels in PIXELS]
    table = {
        "id": pa.array(ids, pa.string()),
        "image": pa.array(images, pa.binary()),
        "width": pa.array([8] * ROWS, pa.int32()),
        "height": pa.array([8] * ROWS, pa.int32()),
        "sha256": pa.array([hashlib.sha256(image).hexdigest() for image in images], pa.string()),
    }
    write_table(layout.images / "part-00000.parquet", pa.table(table, schema=IMAGES), {})
    labels = Labels(
        ids=ids,
        label=np.where(trusted, TRUE, observed),
        observed_label=observed,
        trusted=trusted,
        split=string_ids(["train"] * ROWS),
        class_names=tuple(map(str, range(10))),
    )
    write_labels(layout.labels, labels)
    features = PIXELS.reshape(ROWS, 64).astype(np.float32)
    by_id = np.argsort(ids)
    write_shard(
        layout.features / "part-00000.parquet",
        iter([(ids[by_id], features[by_id])]),
        ShardKey(fingerprint="pixels", dtype="float32", source="digits"),
    )
    encoder = build_encoder(ModelSettings(**MODEL), 1, seed=3)
    set_normalisation(encoder, *pixel_statistics(torch.from_numpy(PIXELS).unsqueeze(1)))
    save_encoder(layout.encoder, encoder, {})
    return layout


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def right(purified: Purified) -> float:
    """Share of right labels; an id ends with the number of its digit."""
    true = TRUE[[int(name.rsplit("-", 1)[1]) for name in purified.ids]]
    return float((purified.purified_label == true).mean())


@pytest.mark.slow
def test_labels_get_better_and_trusted_rows_measure_it(paths: Layout) -> None:
    run_stage("purify", params(epochs=10), paths)
    purified = read_purified(paths.purified)
    assert len(purified.ids) == ROWS - TRUSTED
    assert right(purified) > 0.75, "half of the observed labels are right"
    metrics = read_json(paths.metrics("purify"))["purify"]
    assert metrics["trusted_held_out"] + metrics["trusted_learnt"] == TRUSTED
    assert metrics["calibrated_on"] == metrics["trusted_held_out"] == 20
    assert metrics["curve"][0]["epoch"] == 1
    assert metrics["curve"][-1]["trusted_loss"] < metrics["curve"][0]["trusted_loss"]
    assert 0.3 < metrics["noise_rate"] < 0.7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "images"),
    [
        ({}, {"k": 3, "mix": True, "epochs": 16}),
        ({}, {"k": 3, "joined": "reversed", "epochs": 16, "batch_size": 48}),
        ({"precision": "bfloat16"}, {"corruption": "adversarial", "start": "simclr", "held_out": 0}),
    ],
)
def test_every_variant_learns(paths: Layout, run: dict[str, Any], images: dict[str, Any]) -> None:
    run_stage("purify", params(run=run, **{"epochs": 8, **images}), paths)
    purified = read_purified(paths.purified)
    assert np.isfinite(purified.soft_label).all()
    assert right(purified) > 0.6


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_labels(paths: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    run_stage("purify", params(epochs=4, k=2), paths)
    whole = read_purified(paths.purified)
    paths.purified.unlink()

    saved = []

    def save_and_die(*arguments: Any) -> None:
        save_checkpoint(*arguments)
        saved.append(arguments)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(emlc_images, "save_checkpoint", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        run_stage("purify", params(epochs=4, k=2), paths)
    run_stage("purify", params(epochs=4, k=2), paths)
    assert len(saved) == 4, "two epochs before, two after"
    np.testing.assert_array_equal(read_purified(paths.purified).soft_label, whole.soft_label)
    assert not paths.resume("purify").exists()


def test_a_checkpoint_of_other_settings_is_not_used(paths: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    run_stage("purify", params(epochs=1, lr=0.05), paths)
    alone = read_purified(paths.purified)

    def save_and_die(*arguments: Any) -> None:
        save_checkpoint(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(emlc_images, "save_checkpoint", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            run_stage("purify", params(epochs=1), paths)
    run_stage("purify", params(epochs=1, lr=0.05), paths)
    np.testing.assert_array_equal(read_purified(paths.purified).soft_label, alone.soft_label)


def test_simclr_start_without_an_encoder_says_what_to_do(paths: Layout) -> None:
    with atomic_folder(paths.encoder) as folder:
        write_json(folder / "config.json", {"kind": "none"})
    with pytest.raises(ConfigError, match=r"pretrain\.method=simclr"):
        run_stage("purify", params(start="simclr", epochs=1), paths)
    run_stage("purify", params(start="scratch", epochs=1), paths)


def test_held_out_rows_leave_each_class_a_row() -> None:
    label = np.array([0] * 10 + [1] * 10 + [2], dtype=np.int32)
    for seed in range(20):
        held_out = held_out_rows(label, 0.5, np.random.default_rng(seed))
        assert 8 <= len(held_out) <= 11
        assert 20 not in held_out, "the only row of its class"
        assert set(label) == set(np.delete(label, held_out))
    assert len(held_out_rows(label, 0.0, np.random.default_rng(0))) == 0
