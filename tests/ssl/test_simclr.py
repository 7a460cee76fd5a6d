"""SimCLR on the digits: learns, resumes to the same bytes, keeps out of the global generator."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from sklearn.datasets import load_digits
from torch import Tensor

from lnl_core.config import ConfigError, ModelSettings, RunSettings, parse
from lnl_core.images.augment import SimCLRViewSettings
from lnl_core.models.encoder import build_encoder
from lnl_core.runtime import resolve
from lnl_core.ssl import simclr
from lnl_core.ssl.simclr import PretrainTask, SimCLRConfig, TrustedRows, pretrain_simclr
from lnl_core.training.checkpoint import load_checkpoint

ROWS = 400
VIEWS = SimCLRViewSettings(scale_min=0.6, scale_max=1.4, rotate_degrees=15, translate=0.05)
QUICK = SimCLRConfig(
    epochs=4, batch_size=128, lr=0.2, warmup_epochs=1, views=VIEWS, probe_every=2, checkpoint_every=1
)  # fmt: skip


def make_task(folder: Path, **changes: object) -> PretrainTask:
    digits = load_digits()
    pixels = torch.from_numpy(digits.images[:ROWS] * (255 / 16)).round().to(torch.uint8)[:, None]
    trusted = TrustedRows(rows=torch.arange(100), label=torch.from_numpy(digits.target[:100]).long(), classes=10)
    task = PretrainTask(
        pixels=pixels,
        trusted=trusted,
        flip=False,
        encoder=build_encoder(ModelSettings(arch="small_cnn", width=8), 1, seed=1),
        runtime=resolve(RunSettings(device="cpu", threads=1)),
        checkpoint=folder / "simclr.pt",
        fingerprint="digits",
    )
    return dataclasses.replace(task, **changes)


def weights(trained: simclr.Pretrained) -> dict[str, Tensor]:
    return trained.encoder.state_dict()


def test_loss_falls_and_the_curve_says_what_was_measured(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    trained = pretrain_simclr(make_task(tmp_path), QUICK)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [record["epoch"] for record in trained.curve] == [1, 2, 3, 4]
    assert trained.curve[-1]["loss"] < trained.curve[0]["loss"] < 1.2 * math.log(2 * 128 - 1)
    assert [record["probe_accuracy"] is None for record in trained.curve] == [True, False, True, False]
    assert trained.curve[-1]["probe_accuracy"] > 0.7
    assert trained.curve[-1]["knn_accuracy"] > 0.7
    assert all(record["seconds"] > 0 and record["lr"] > 0 for record in trained.curve)
    assert not trained.encoder.training


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    config = QUICK.model_copy(update={"epochs": 1})
    one, two = (weights(pretrain_simclr(make_task(tmp_path / name), config)) for name in ("a", "b"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = make_task(tmp_path / "c", runtime=resolve(RunSettings(seed=1, device="cpu", threads=1)))
    three = weights(pretrain_simclr(other, config))
    assert any(not torch.equal(one[name], three[name]) for name in one)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_killed_run_ends_with_the_bytes_of_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    runtime = resolve(RunSettings(device="cpu", threads=1, precision=precision))
    whole = pretrain_simclr(make_task(tmp_path / "whole", runtime=runtime), QUICK)
    task = make_task(tmp_path / "killed", runtime=runtime)
    steps = 0
    view = simclr.simclr_view

    def killing_view(*arguments: object, **options: object) -> Tensor:
        nonlocal steps
        steps += 1
        if steps == 2 * 3 * 2 + 3:  # two views a step, three steps an epoch: amid the third epoch
            raise KilledError
        return view(*arguments, **options)

    monkeypatch.setattr(simclr, "simclr_view", killing_view)
    with pytest.raises(KilledError):
        pretrain_simclr(task, QUICK)
    monkeypatch.setattr(simclr, "simclr_view", view)
    saved = load_checkpoint(task.checkpoint, "digits")
    assert saved is not None
    assert len(saved["curve"]) == 2
    resumed = pretrain_simclr(make_task(tmp_path / "killed", runtime=runtime), QUICK)
    assert all(torch.equal(weights(whole)[name], value) for name, value in weights(resumed).items())
    without_time = [[{**r, "seconds": 0} for r in run.curve] for run in (whole, resumed)]
    assert without_time[0] == without_time[1]


def test_a_checkpoint_of_other_settings_is_not_used(tmp_path: Path) -> None:
    config = QUICK.model_copy(update={"epochs": 1})
    pretrain_simclr(make_task(tmp_path), config)
    fresh = pretrain_simclr(make_task(tmp_path, fingerprint="other"), config)
    assert fresh.curve[0]["seconds"] > 0
    assert len(fresh.curve) == 1


def test_fewer_images_than_a_batch_and_no_trusted_rows(tmp_path: Path) -> None:
    task = make_task(tmp_path, trusted=None)
    task = dataclasses.replace(task, pixels=task.pixels[:50])
    trained = pretrain_simclr(task, QUICK)
    assert trained.curve[-1]["probe_accuracy"] is None
    assert trained.curve[-1]["knn_accuracy"] is None
    with pytest.raises(ConfigError, match="1 image"):
        pretrain_simclr(dataclasses.replace(task, pixels=task.pixels[:1]), QUICK)


def test_a_run_that_diverges_says_what_to_lower(tmp_path: Path) -> None:
    config = QUICK.model_copy(update={"lr": 1e30, "warmup_epochs": 0})
    with pytest.raises(FloatingPointError, match=r"lower pretrain\.simclr\.lr"):
        pretrain_simclr(make_task(tmp_path), config)


def test_norms_and_biases_have_no_weight_decay() -> None:
    encoder = build_encoder(ModelSettings(arch="small_cnn", width=8), 1, seed=1)
    with_decay, without = simclr._parameter_groups([encoder], 1e-4)
    assert with_decay["weight_decay"] == 1e-4
    assert without["weight_decay"] == 0
    assert len(with_decay["params"]) == 3  # the convolutions
    assert len(without["params"]) == 6


def slow_nt_xent(first: Tensor, second: Tensor, temperature: float) -> float:
    """Eq. (1) of SimCLR and Algorithm 1, looped over all 2N views."""
    views = torch.cat([first, second]).double()
    views = views / views.norm(dim=1, keepdim=True)
    count = len(first)
    total = 0.0
    for i in range(2 * count):
        partner = (i + count) % (2 * count)
        others = sum(math.exp(float(views[i] @ views[k]) / temperature) for k in range(2 * count) if k != i)
        total += -math.log(math.exp(float(views[i] @ views[partner]) / temperature) / others)
    return total / (2 * count)


def test_the_loss_is_the_papers() -> None:
    runtime = resolve(RunSettings(device="cpu", threads=1))
    _, loss = simclr._head_and_loss(16, SimCLRConfig(temperature=0.3), runtime)
    draw = torch.Generator().manual_seed(0)
    first, second = torch.randn(9, 5, generator=draw), torch.randn(9, 5, generator=draw)
    assert float(loss(first, second)) == pytest.approx(slow_nt_xent(first, second, 0.3), rel=1e-5)


def test_settings_name_what_is_wrong() -> None:
    with pytest.raises(ConfigError, match="did you mean 'temperature'"):
        parse(SimCLRConfig, {"temprature": 0.5}, "pretrain.simclr")
    with pytest.raises(ConfigError, match=r"pretrain\.simclr\.views\.scale_min"):
        parse(SimCLRConfig, {"views": {"scale_min": 0}}, "pretrain.simclr")
    with pytest.raises(ValidationError):
        SimCLRConfig(batch_size=1)
