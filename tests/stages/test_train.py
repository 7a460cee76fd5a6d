"""Stage train on real digits: two arms, held-out rows, joins on id, files that load, and exact resume."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from lnl_core.config import ConfigError, ImageSettings, ModelSettings
from lnl_core.contracts import (
    IMAGES,
    ContractError,
    Labels,
    Purified,
    read_labels,
    read_purified,
    string_ids,
    write_labels,
    write_purified,
    write_table,
)
from lnl_core.files import write_json
from lnl_core.layout import Layout
from lnl_core.models.encoder import build_encoder
from lnl_core.models.saved import load_classifier, save_encoder
from lnl_core.stages import train as train_stage
from lnl_core.stages.stage import run_stage
from lnl_core.train import epochs

ROWS, TRUSTED, VAL = 240, 30, 20
PARAMS = {
    "run": {"device": "cpu", "threads": 1},
    "images": {"size": 8, "channels": 1, "flip": False},
    "model": {"arch": "small_cnn", "width": 4},
    "train": {"method": "cross_entropy", "cross_entropy": {"epochs": 3, "batch_size": 32, "lr": 0.1}},
}


def with_train(**changes):
    return {**PARAMS, "train": {**PARAMS["train"], **changes}}


@pytest.fixture
def paths(tmp_path):
    """240 digits, 30 trusted, 20 for validation; 40 % of the noisy labels wrong; purified labels are the true ones."""
    layout = Layout(tmp_path)
    digits = load_digits()
    draw = np.random.default_rng(0)
    true = digits.target[:ROWS].astype(np.int32)
    observed = np.where(draw.random(ROWS) < 0.4, (true + draw.integers(1, 10, ROWS)) % 10, true).astype(np.int32)
    ids = string_ids([f"d-{draw.integers(10**9):09d}-{row}" for row in range(ROWS)])  # order of ids is not file order
    order = draw.permutation(ROWS)
    trusted, split = np.zeros(ROWS, dtype=bool), string_ids(["train"] * ROWS)
    trusted[order[:TRUSTED]] = True
    split[order[TRUSTED : TRUSTED + VAL]] = "val"
    columns = {"id": ids, "image": [png(image) for image in digits.images[:ROWS]], "width": 8, "height": 8}
    table = {
        "id": pa.array(columns["id"], pa.string()),
        "image": pa.array(columns["image"], pa.binary()),
        "width": pa.array([8] * ROWS, pa.int32()),
        "height": pa.array([8] * ROWS, pa.int32()),
        "sha256": pa.array([hashlib.sha256(image).hexdigest() for image in columns["image"]], pa.string()),
    }
    write_table(layout.images / "part-00000.parquet", pa.table(table, schema=IMAGES), {})
    names = tuple(str(digit) for digit in range(10))
    label = np.where(trusted, true, observed)
    write_labels(
        layout.labels,
        Labels(ids=ids, label=label, observed_label=observed, trusted=trusted, split=split, class_names=names),
    )
    noisy = ~trusted & (split == "train")
    soft = np.full((noisy.sum(), 10), 0.02, dtype=np.float32)
    soft[np.arange(noisy.sum()), true[noisy]] = 0.82
    purified = Purified(
        ids=ids[noisy],
        label=observed[noisy],
        purified_label=true[noisy],
        confidence=soft.max(axis=1),
        soft_label=soft,
        class_names=names,
    )
    write_purified(layout.purified, purified)
    return layout


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def files_below(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_writes_both_arms_the_curves_and_the_metrics(paths):
    metrics = run_stage("train", PARAMS, paths)
    for folder in (paths.model, paths.yardstick):
        for name in ("best", "last"):
            saved = load_classifier(folder / name)
            assert saved.class_names == tuple("0123456789")
            assert saved.images == ImageSettings(size=8, channels=1, flip=False)
            assert saved.about["checkpoint"] == name
    assert load_classifier(paths.model / "best").about["labels"] == "purified_hard"
    assert load_classifier(paths.yardstick / "best").about["labels"] == "observed"
    rows = list(csv.DictReader(paths.train_curves.open()))
    assert [(row["arm"], row["epoch"]) for row in rows] == [
        (arm, str(epoch)) for arm in ("model", "yardstick") for epoch in (1, 2, 3)
    ]
    assert metrics["rows"] == ROWS - TRUSTED - VAL
    assert metrics["held_out"]["kind"] == "trusted"
    assert metrics["held_out"]["rows"] == TRUSTED
    best = max(float(row["held_out_accuracy"]) for row in rows if row["arm"] == "model")
    assert metrics["held_out"]["accuracy_best"] == pytest.approx(best, abs=1e-6)
    assert metrics["yardstick"]["epochs"] == 3
    assert json.loads(paths.metrics("train").read_text())["train"]["parameters"] == metrics["parameters"]
    assert not paths.resume("train").exists()


def test_same_seed_same_bytes_and_another_seed_differs(paths):
    run_stage("train", PARAMS, paths)
    first = files_below(paths.model) | {"curves": paths.train_curves.read_bytes()}
    run_stage("train", PARAMS, paths)
    assert first == files_below(paths.model) | {"curves": paths.train_curves.read_bytes()}
    run_stage("train", {**PARAMS, "run": {**PARAMS["run"], "seed": 1}}, paths)
    assert first["curves"] != paths.train_curves.read_bytes()


def test_row_order_of_the_tables_does_not_matter(paths):
    """Images and purified labels are joined by id: shuffled images give the same model, byte for byte."""
    run_stage("train", PARAMS, paths)
    before = files_below(paths.model)
    import pyarrow.parquet as pq

    part = paths.images / "part-00000.parquet"
    table = pq.read_table(part)
    shuffled = table.take(np.random.default_rng(3).permutation(len(table)))
    write_table(part, shuffled.slice(0, 100), {})
    write_table(paths.images / "part-00001.parquet", shuffled.slice(100), {})
    run_stage("train", PARAMS, paths)
    assert files_below(paths.model) == before


@pytest.mark.parametrize(("labels", "soft"), [("purified_hard", False), ("purified_soft", True), ("observed", False)])
def test_the_method_learns_from_the_labels_of_the_settings(paths, monkeypatch, labels, soft):
    seen = spy(monkeypatch)
    run_stage("train", with_train(labels=labels), paths)
    task = seen["model"]
    table = read_labels(paths.labels)
    rows = table.where(split="train", trusted=False)
    assert list(task.ids) == list(table.ids[rows])
    share_observed = (task.label.numpy() == table.label[rows]).mean()
    assert (share_observed == 1) == (labels == "observed")
    assert (task.soft_label is not None) == soft
    if soft:
        assert (task.soft_label.argmax(dim=1) == task.label).all()
    assert set(seen) == ({"model"} if labels == "observed" else {"model", "yardstick"})
    if labels == "observed":
        assert list(paths.yardstick.iterdir()) == []


@pytest.mark.parametrize(("held_out", "rows"), [("auto", TRUSTED), ("trusted", TRUSTED), ("val", VAL), ("none", 0)])
def test_held_out_rows_never_train(paths, monkeypatch, held_out, rows):
    seen = spy(monkeypatch)
    metrics = run_stage("train", with_train(held_out=held_out, yardstick=False), paths)
    assert len(seen["model"].held_out.label) == rows
    assert len(seen["model"].label) == ROWS - TRUSTED - VAL
    if held_out == "none":
        assert metrics["best_epoch"] == metrics["epochs"]
        assert metrics["best_is"] == "last epoch"
        best, last = (paths.model / name / "weights.safetensors" for name in ("best", "last"))
        assert best.read_bytes() == last.read_bytes()


def test_auto_takes_validation_rows_where_nothing_is_trusted(paths):
    table = read_labels(paths.labels)
    write_labels(
        paths.labels, dataclasses.replace(table, trusted=np.zeros(ROWS, dtype=bool), label=table.observed_label)
    )
    metrics = run_stage("train", with_train(labels="observed"), paths)
    assert metrics["held_out"]["kind"] == "val"
    with pytest.raises(ConfigError, match=r"train\.held_out = 'trusted': there are no such rows"):
        run_stage("train", with_train(labels="observed", held_out="trusted"), paths)


def test_starts_from_the_encoder(paths):
    settings = ModelSettings(arch="small_cnn", width=4)
    save_encoder(paths.encoder, build_encoder(settings, 1, seed=9), {})
    params = with_train(init="simclr", cross_entropy={"epochs": 1, "lr": 1e-9}, yardstick=False)
    run_stage("train", params, paths)
    trained = load_classifier(paths.model / "last").ensemble.networks[0].encoder
    start = build_encoder(settings, 1, seed=9)
    for name, weights in start.named_parameters():
        assert np.allclose(trained.get_parameter(name).detach(), weights.detach(), atol=1e-5), name


def test_broken_off_and_started_again_gives_the_same_bytes(paths, monkeypatch):
    run_stage("train", PARAMS, paths)
    whole = files_below(paths.model) | files_below(paths.yardstick) | {"curves": paths.train_curves.read_bytes()}

    calls = []
    original = epochs.score_held_out

    def breaks_in_the_second_arm(*arguments):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(epochs, "score_held_out", breaks_in_the_second_arm)
    with pytest.raises(KeyboardInterrupt):
        run_stage("train", PARAMS, paths)
    assert (paths.resume("train") / "model.pt").exists()
    calls.clear()
    run_stage("train", PARAMS, paths)
    assert len(calls) == 2  # the first arm and one epoch of the second were there already
    again = files_below(paths.model) | files_below(paths.yardstick) | {"curves": paths.train_curves.read_bytes()}
    assert again == whole


def test_a_purified_table_of_other_rows_is_refused(paths):
    table = read_labels(paths.labels)
    few = Purified(
        ids=table.ids[:1],
        label=table.observed_label[:1],
        purified_label=table.observed_label[:1],
        confidence=np.ones(1, dtype=np.float32),
        soft_label=np.eye(10, dtype=np.float32)[:1],
        class_names=table.class_names,
    )
    write_purified(paths.purified, few)
    with pytest.raises(ContractError, match=r"purified\.parquet: has no row for id"):
        run_stage("train", PARAMS, paths)
    write_purified(paths.purified, dataclasses.replace(few, class_names=tuple("abcdefghij")))
    with pytest.raises(ContractError, match="class names"):
        run_stage("train", PARAMS, paths)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "dividemix"}, "did you mean 'divide_mix'"),
        ({"cross_entropy": {"epoch": 3}}, "train.cross_entropy.epoch: unknown setting; did you mean 'epochs'"),
        ({"divide_mix": {"lambda_u": -1}}, "lambda_u"),
        ({"divide_mix": {"mode": "fast"}}, "train.divide_mix.mode"),
        ({"cross_entropy": {"lr": 1e30}}, "loss became nan in epoch 1; set a lower lr"),
    ],
)
def test_settings_that_cannot_work(paths, changes, message):
    with pytest.raises(ConfigError, match=message):
        run_stage("train", with_train(**changes), paths)


@pytest.mark.parametrize(
    "changed",
    [
        with_train(cross_entropy={"epochs": 3, "batch_size": 32, "lr": 0.05}),
        {**PARAMS, "model": {"arch": "small_cnn", "width": 8}},
        {**PARAMS, "run": {**PARAMS["run"], "seed": 7}},
    ],
)
def test_a_checkpoint_of_other_settings_is_not_resumed(paths, monkeypatch, changed):
    run_stage("train", changed, paths)
    fresh = files_below(paths.model)
    with monkeypatch.context() as patch:
        patch.setattr(train_stage, "_save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_stage("train", PARAMS, paths)
    assert (paths.resume("train") / "model.pt").exists()
    run_stage("train", changed, paths)
    assert files_below(paths.model) == fresh


def spy(monkeypatch):
    """The tasks that the training method gets, by arm."""
    seen = {}
    entry = train_stage.TRAINERS.get("cross_entropy")

    def watch(task, config):
        seen[task.purpose] = task
        return entry.make(task, config)

    entries = {**train_stage.TRAINERS._entries, "cross_entropy": dataclasses.replace(entry, make=watch)}
    monkeypatch.setattr(train_stage.TRAINERS, "_entries", entries)
    return seen


def test_confidence_weights_have_mean_one_and_follow_the_confidence(paths, monkeypatch):
    seen = spy(monkeypatch)
    purified = read_purified(paths.purified)
    unsure = purified.soft_label.copy()
    unsure[::2] = 0.1
    write_purified(paths.purified, dataclasses.replace(purified, soft_label=unsure))
    run_stage("train", with_train(labels="confidence_weighted"), paths)
    weight, label = seen["model"].weight, seen["model"].label
    assert float(weight.mean()) == pytest.approx(1)
    assert torch.allclose(weight[1::2] / weight[::2].mean(), torch.full((len(weight) // 2,), 8.2), atol=1e-3)
    assert label.tolist() == purified.applied_label.tolist()
    assert seen["yardstick"].weight is None


def test_added_trusted_rows_are_verified_and_never_held_out_too(paths, monkeypatch):
    seen = spy(monkeypatch)
    table = read_labels(paths.labels)
    metrics = run_stage("train", with_train(add_trusted=True, labels="purified_soft"), paths)
    task = seen["model"]
    held = TRUSTED - int(task.verified.sum())
    assert (held, len(task.held_out.label)) == (TRUSTED // 5, TRUSTED // 5)
    assert metrics["verified_rows"] == TRUSTED - held
    label = dict(zip(table.ids, table.label, strict=True))
    trusted = set(table.ids[table.trusted])
    for name, number, soft, verified in zip(task.ids, task.label, task.soft_label, task.verified, strict=True):
        assert bool(verified) == (name in trusted)
        if verified:
            assert int(number) == label[name] == int(soft.argmax())
            assert float(soft.max()) == 1


def test_added_trusted_rows_need_two(paths):
    table = read_labels(paths.labels)
    write_labels(paths.labels, table.take(np.flatnonzero(~table.trusted)))
    with pytest.raises(ConfigError, match=r"train\.add_trusted: there are 0 trusted rows"):
        run_stage("train", with_train(add_trusted=True), paths)


def test_a_checkpoint_is_a_start(paths, tmp_path):
    run_stage("train", with_train(yardstick=False), paths)
    trained = load_classifier(paths.model / "best").ensemble.networks[0].state_dict()
    (tmp_path / "kept").mkdir()
    paths.model.rename(tmp_path / "kept" / "model")
    start = str(tmp_path / "kept" / "model")
    still = with_train(
        yardstick=False, init="checkpoint", init_checkpoint=start, cross_entropy={"epochs": 1, "lr": 1e-9}
    )
    run_stage("train", still, paths)
    again = load_classifier(paths.model / "last").ensemble.networks[0].state_dict()
    assert torch.allclose(again["head.weight"], trained["head.weight"], atol=1e-5)  # the head is kept, too
    with pytest.raises(ConfigError, match="init_checkpoint belong together"):
        run_stage("train", with_train(init="checkpoint"), paths)
    with pytest.raises(ContractError, match="no saved model"):
        run_stage("train", with_train(init="checkpoint", init_checkpoint=str(tmp_path / "nowhere")), paths)


def test_the_noise_that_a_method_is_given(paths, monkeypatch):
    seen = spy(monkeypatch)
    metrics = run_stage("train", PARAMS, paths)
    purified = read_purified(paths.purified)
    rows = np.arange(len(purified))
    assert metrics["noise"]["source"] == "residual"
    assert metrics["noise"]["rate"] == pytest.approx(0.18, abs=1e-4)  # 1 - 0.82 everywhere
    assert metrics["yardstick"]["noise"]["source"] == "purifier"
    admitted = float(1 - purified.soft_label[rows, purified.label].mean())
    assert seen["yardstick"].noise.rate == pytest.approx(admitted, abs=1e-5)
    run_stage("train", with_train(noise_rate=0.33), paths)
    assert (seen["model"].noise.rate, seen["model"].noise.source) == (0.33, "set")


def test_counted_trusted_rows_outrank_the_purifier(paths, monkeypatch):
    seen = spy(monkeypatch)
    counted = {"rate": 0.4, "source": "trusted", "prior": [0.1] * 10, "transition": np.eye(10).tolist()}
    write_json(paths.metrics("purify"), {"purify": {"method": "ipc_ensemble", "noise_estimate": counted}})
    run_stage("train", with_train(labels="observed"), paths)
    assert (seen["model"].noise.rate, seen["model"].noise.source) == (0.4, "trusted")
    neighbours = {**counted, "source": "hoc", "rate": 0.25}
    write_json(paths.metrics("purify"), {"purify": {"method": "none", "noise_estimate": neighbours}})
    run_stage("train", with_train(labels="observed"), paths)
    assert (seen["model"].noise.rate, seen["model"].noise.source) == (0.25, "neighbours")
    write_json(paths.metrics("purify"), {"purify": {"method": "none"}})
    run_stage("train", with_train(labels="observed"), paths)
    assert (seen["model"].noise.rate, seen["model"].noise.source) == (0.2, "assumed")


def test_a_sampled_epoch_and_its_trace(paths, monkeypatch):
    seen = spy(monkeypatch)
    run_stage("train", with_train(epoch_rows=50, balanced=True), paths)
    assert (seen["model"].sampling.rows, seen["model"].sampling.balanced) == (50, True)
    drawn = seen["model"].epoch_rows(torch.Generator().manual_seed(0))
    counts = torch.bincount(seen["model"].label[drawn])
    assert len(drawn) == 50
    assert int(counts.max() - counts.min()) <= 1
    assert paths.train_trace.is_dir()


def test_images_that_stay_encoded_give_the_same_model(paths):
    big = {**PARAMS, "images": {"size": 96, "channels": 1, "flip": False}}  # 240 images: 2.1 MiB
    run_stage("train", big, paths)
    whole = files_below(paths.model)
    run_stage("train", {**big, "run": {**PARAMS["run"], "image_memory_mb": 1, "image_disk_mb": 1}}, paths)
    assert files_below(paths.model) == whole


@pytest.mark.slow
def test_the_launcher_trains_one_model_in_two_processes(paths, tmp_path):
    run_stage("train", PARAMS, paths)
    alone = load_classifier(paths.model / "last").ensemble.networks[0].state_dict()
    params = tmp_path / "params.yaml"
    params.write_text(yaml.safe_dump(PARAMS))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = ["-m", "lnl_core.cli", "stage", "train", "--params", str(params), "--root", str(paths.root)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run([*launch, *command], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    together = load_classifier(paths.model / "last").ensemble.networks[0].state_dict()
    assert json.loads(paths.metrics("train").read_text())["train"]["processes"] == 2
    assert all(torch.allclose(alone[name].float(), together[name].float(), atol=1e-3) for name in alone)
    assert not paths.resume("train").exists()


def test_other_stages_refuse_the_launcher(paths, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="stage 'report' runs in one process"):
        run_stage("report", PARAMS, paths)
