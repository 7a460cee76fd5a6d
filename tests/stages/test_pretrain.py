"""Stage pretrain on real digits: what it writes and scores, without truth, and that a kill costs nothing."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lnl_core.config import ConfigError
from lnl_core.contracts import read_labels, write_labels
from lnl_core.layout import Layout
from lnl_core.models.saved import load_encoder
from lnl_core.ssl import simclr
from lnl_core.stages import pretrain as pretrain_stage
from lnl_core.stages.stage import run_stage, stage_named

PARAMS: dict[str, Any] = {
    "run": {"device": "cpu", "threads": 1},
    "images": {"size": 8, "channels": 1, "flip": False},
    "model": {"arch": "small_cnn", "width": 8},
    "prepare": {"dataset": "digits", "val_share": 0.1, "trusted": {"source": "draw", "count": 100}},
    "pretrain": {"simclr": {"epochs": 3, "batch_size": 256, "lr": 0.2, "warmup_epochs": 1, "checkpoint_every": 1}},
}


def with_pretrain(**changes: Any) -> dict[str, Any]:
    return {**PARAMS, "pretrain": {**PARAMS["pretrain"], **changes}}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits")
    run_stage("prepare", PARAMS, Layout(root))
    return root


@pytest.fixture
def paths(prepared: Path, tmp_path: Path) -> Layout:
    shutil.copytree(prepared, tmp_path / "data")
    return Layout(tmp_path / "data")


def test_encoder_curve_and_metrics(paths: Layout) -> None:
    paths.truth.unlink()  # never needed
    metrics = run_stage("pretrain", PARAMS, paths)
    labels = read_labels(paths.source_labels)
    assert metrics["images"] == (labels.split != "test").sum()
    assert (metrics["epochs"], metrics["trusted"], metrics["width"]) == (3, 100, 128)
    assert (metrics["arch"], metrics["stem"], metrics["device"]) == ("small_cnn", "cifar", "cpu")
    encoder = load_encoder(paths.encoder)
    assert encoder.width == 128
    assert 0.2 < float(encoder.normalise.mean) < 0.4  # the digits' own mean, not the default
    curve = list(csv.DictReader(paths.pretrain_curve.open()))
    assert list(curve[0]) == ["epoch", "loss", "lr", "seconds", "probe_accuracy", "knn_accuracy"]
    assert [row["epoch"] for row in curve] == ["1", "2", "3"]
    assert curve[0]["probe_accuracy"] == ""
    assert float(curve[-1]["probe_accuracy"]) == metrics["probe_accuracy"] > 0.7
    assert json.loads(paths.metrics("pretrain").read_text())["pretrain"]["final_loss"] == metrics["final_loss"]
    assert not paths.resume("pretrain").exists()


def test_without_trusted_rows_there_is_no_score_and_labels_change_nothing(paths: Layout) -> None:
    run_stage("pretrain", PARAMS, paths)
    first = (paths.encoder / "weights.safetensors").read_bytes()
    labels = read_labels(paths.source_labels)
    labels.trusted[:] = False
    labels.label[:] = labels.observed_label[:] = 0
    write_labels(paths.source_labels, labels)
    metrics = run_stage("pretrain", PARAMS, paths)
    assert metrics["probe_accuracy"] is None
    assert metrics["knn_accuracy"] is None
    assert (paths.encoder / "weights.safetensors").read_bytes() == first


class KilledError(Exception):
    pass


def test_a_killed_stage_started_again_writes_the_same_encoder(paths: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    run_stage("pretrain", PARAMS, paths)
    files = [paths.encoder / "weights.safetensors", paths.encoder / "config.json"]
    whole = [file.read_bytes() for file in files]
    shutil.rmtree(paths.encoder.parent)  # as DVC does before it runs a stage again
    epoch = simclr._Learner.epoch

    def killed(self: simclr._Learner, number: int) -> simclr.Record:
        if number == 2:
            raise KilledError
        return epoch(self, number)

    monkeypatch.setattr(simclr._Learner, "epoch", killed)
    with pytest.raises(KilledError):
        run_stage("pretrain", PARAMS, paths)
    assert not paths.encoder.exists()
    ran = []
    monkeypatch.setattr(simclr._Learner, "epoch", lambda self, number: ran.append(number) or epoch(self, number))
    run_stage("pretrain", PARAMS, paths)
    assert ran == [2]
    assert [file.read_bytes() for file in files] == whole


def test_a_checkpoint_belongs_to_settings_seed_and_images(paths: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    def fingerprint(params: dict[str, Any]) -> str:
        seen = []

        def stop(task: simclr.PretrainTask, _: simclr.SimCLRConfig) -> None:
            seen.append(task.fingerprint)
            raise KilledError

        monkeypatch.setattr(pretrain_stage, "pretrain_simclr", stop)
        with pytest.raises(KilledError):
            run_stage("pretrain", params, paths)
        return seen[0]

    first = fingerprint(PARAMS)
    assert fingerprint(PARAMS) == first
    assert fingerprint({**PARAMS, "run": {**PARAMS["run"], "seed": 1}}) != first
    assert fingerprint({**PARAMS, "run": {**PARAMS["run"], "threads": 2}}) == first
    assert fingerprint({**PARAMS, "model": {"arch": "small_cnn", "width": 4}}) != first
    assert fingerprint(with_pretrain(simclr={**PARAMS["pretrain"]["simclr"], "epochs": 4})) != first
    assert fingerprint(with_pretrain(simclr={**PARAMS["pretrain"]["simclr"], "checkpoint_every": 7})) == first


def test_none_leaves_a_folder_that_says_so(paths: Layout) -> None:
    before = torch.random.get_rng_state()
    metrics = run_stage("pretrain", with_pretrain(method="none"), paths)
    assert metrics["method"] == "none"
    assert json.loads((paths.encoder / "config.json").read_text()) == {"kind": "none"}
    assert paths.pretrain_curve.read_text() == "epoch,loss,lr,seconds,probe_accuracy,knn_accuracy\n"
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_the_stage_declares() -> None:
    stage = stage_named("pretrain")
    assert stage.pool == "gpu"
    assert "truth" not in stage.reads
    assert "labels" not in stage.reads  # the noise must not start pretraining anew
    with pytest.raises(ConfigError, match="did you mean 'batch_size'"):
        stage.settings({"simclr": {"batchsize": 3}})
