"""Every registered training method, on a few hundred real digits: what holds for one holds for all."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from lnl_core.config import ModelSettings, parse
from lnl_core.contract_tests import under_test
from lnl_core.contracts import string_ids
from lnl_core.models.classifier import Ensemble, build_classifier
from lnl_core.models.predictions import predict_probabilities
from lnl_core.runtime import Runtime
from lnl_core.statistics.noise_estimate import NoiseEstimate
from lnl_core.train import TRAINERS, epochs
from lnl_core.train.sampling import Sampling
from lnl_core.train.task import HeldOut, TrainTask

# Settings under which a method is through in a second or two; a method that is not named here gets its defaults.
QUICK = {
    "cross_entropy": {"epochs": 3, "batch_size": 32, "lr": 0.1, "mixup_alpha": 1.0, "label_smoothing": 0.1},
    "co_teaching": {"epochs": 4, "batch_size": 32, "lr": 0.01, "ramp_epochs": 2},
    "cdr": {"epochs": 4, "batch_size": 32, "lr": 0.1, "gradual_epochs": 2},
    "divide_mix": {"epochs": 4, "warmup_epochs": 2, "batch_size": 32, "lr": 0.1, "loss_window": 2, "lambda_u": 5},
    "pro_mix": {"epochs": 4, "warmup_epochs": 1, "ramp_epochs": 1, "batch_size": 32, "agree_from": 0.5, "tau": 0.7},
    "elr": {"epochs": 4, "batch_size": 32, "lr": 0.1},
    "elr_plus": {"epochs": 4, "batch_size": 32, "lr": 0.1, "mixup_alpha": 0.2, "ema_decay": 0.9},
    "flywheel": {"epochs": 4, "warmup_epochs": 2, "batch_size": 32, "lr": 0.1, "mixup_alpha": 0.2},
    "ssr": {
        "epochs": 4,
        "batch_size": 32,
        "lr": 0.1,
        "warmup_epochs": 1,
        "theta_r": 0.7,
        "label_view": "weak",
        "k": 10,
    },
}
FEW = 150  # rows where only sameness or finiteness is tested: five batches an epoch
methods = pytest.mark.parametrize("method", under_test.names(TRAINERS))


def given_noise(rate, classes):
    """Symmetric noise of this rate over classes of even shares."""
    transition = np.full((classes, classes), rate / (classes - 1))
    np.fill_diagonal(transition, 1 - rate)
    return NoiseEstimate(rate=rate, source="set", prior=np.full(classes, 1 / classes), transition=transition)


def make_task(
    tmp_path,
    *,
    classes=10,
    absent=None,
    channels=1,
    soft=False,
    held_out=True,
    rows=300,
    seed=0,
    noise=0.2,
    verified=0,
    weighted=False,
    sampling=None,
):
    """Digits with 20 % of their labels wrong; class `absent` has no row; the first `verified` labels are right."""
    digits = load_digits()
    keep = np.flatnonzero((digits.target < classes) & (digits.target != absent))[: rows + 60]
    pixels = torch.from_numpy(np.round(digits.images[keep] * (255 / 16)).astype(np.uint8))
    pixels = pixels[:, None].expand(-1, channels, -1, -1).contiguous()
    true = torch.from_numpy(digits.target[keep].astype(np.int64))
    draw = np.random.default_rng(0)
    label = true.clone()
    for row in np.flatnonzero(draw.random(len(label)) < noise):
        others = [name for name in range(classes) if name not in (absent, int(true[row]))]
        label[row] = int(draw.choice(others))
    held = 60 if held_out else 0
    label[60 : 60 + verified] = true[60 : 60 + verified]
    one_hot = torch.nn.functional.one_hot(label, classes).float()
    return TrainTask(
        ids=string_ids([f"d{row:04d}" for row in range(len(keep) - 60)]),
        pixels=pixels[60:],
        label=label[60:],
        soft_label=(0.9 * one_hot + 0.1 / classes)[60:] if soft else None,
        held_out=HeldOut(pixels=pixels[:held], label=true[:held], kind="trusted" if held_out else "none"),
        classes=classes,
        flip=False,
        make_model=lambda seed: build_classifier(
            ModelSettings(arch="small_cnn", width=8), channels, classes, seed=seed
        ),
        runtime=Runtime(device=torch.device("cpu"), precision="float32", seed=seed, image_memory_mb=64),
        checkpoint=tmp_path / "state.pt",
        fingerprint="these settings and data",
        purpose="model",
        noise=given_noise(noise, classes),
        weight=torch.linspace(0.5, 1.5, len(keep) - 60) if weighted else None,
        verified=torch.arange(len(keep) - 60) < verified if verified else None,
        sampling=sampling or Sampling(),
        trace=tmp_path / "trace",
    )


def train(method, task, **changes):
    entry = TRAINERS.get(method)
    return entry.make(
        task, parse(entry.config, {**QUICK.get(method, {}), **under_test.own_settings(), **changes}, method)
    )


def assert_same(first, second):
    assert first.curve == second.curve
    assert (first.best_epoch, dict(first.metrics)) == (second.best_epoch, dict(second.metrics))
    for one, other in zip([*first.best, *first.last], [*second.best, *second.last], strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def accuracy(task, weights):
    networks = []
    for state in weights:
        network = task.make_model(0)
        network.load_state_dict(state)
        networks.append(network)
    probabilities = predict_probabilities(Ensemble(networks), task.held_out.pixels, task.runtime)
    return float((probabilities.argmax(axis=1) == task.held_out.label.numpy()).mean())


@methods
def test_same_seed_same_result_and_no_global_draws(method, tmp_path):
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 - the global one is the point
    first = train(method, make_task(tmp_path / "a", rows=FEW))
    assert torch.equal(before[0], torch.random.get_rng_state())
    torch.manual_seed(1234)  # what others do to the global generators must not matter
    assert_same(first, train(method, make_task(tmp_path / "b", rows=FEW)))
    other = train(method, make_task(tmp_path / "c", rows=FEW, seed=1))
    assert first.curve != other.curve
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    torch.random.set_rng_state(before[0])


@methods
def test_purpose_salts_the_draws(method, tmp_path):
    task = make_task(tmp_path, rows=FEW)
    other = dataclasses.replace(task, purpose="yardstick", checkpoint=tmp_path / "other.pt")
    assert train(method, task).curve != train(method, other).curve


class Broken(RuntimeError):
    """The interruption of a test."""


def break_at(monkeypatch, call):
    """The `call`-th held-out score of an epoch, after training and before its checkpoint, raises."""
    original, calls = epochs.score_held_out, []

    def score(*arguments):
        calls.append(1)
        if len(calls) == call:
            raise Broken
        return original(*arguments)

    monkeypatch.setattr(epochs, "score_held_out", score)
    return calls


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """`whole(method)`: what a training left in peace gives; each method is trained once."""
    return functools.cache(lambda method: train(method, make_task(tmp_path_factory.mktemp(method), rows=FEW)))


@methods
@pytest.mark.parametrize("call", [2, 3])
def test_resume_equals_uninterrupted(method, call, whole, tmp_path, monkeypatch):
    undisturbed, task = whole(method), make_task(tmp_path, rows=FEW)
    with monkeypatch.context() as patch:
        break_at(patch, call)
        with pytest.raises(Broken):
            train(method, task)
    assert task.checkpoint.exists()
    with monkeypatch.context() as patch:
        calls = break_at(patch, 10**6)
        assert_same(undisturbed, train(method, task))
    assert len(calls) == len(undisturbed.curve) - (call - 1)  # the finished epochs were not done again


@methods
def test_a_checkpoint_of_other_data_is_left_alone(method, whole, tmp_path):
    train(method, dataclasses.replace(make_task(tmp_path, rows=FEW, seed=5), fingerprint="something else"))
    assert_same(whole(method), train(method, make_task(tmp_path, rows=FEW)))


@methods
def test_learns_and_stays_finite(method, tmp_path):
    task = make_task(tmp_path)
    trained = train(method, task)
    assert [record["epoch"] for record in trained.curve] == list(range(1, len(trained.curve) + 1))
    for record in trained.curve:
        assert all(np.isfinite(value) for value in record.values())
    for state in (*trained.best, *trained.last):
        assert all(torch.isfinite(value).all() for value in state.values())
    best = trained.curve[trained.best_epoch - 1]["held_out_accuracy"]
    assert best == max(record["held_out_accuracy"] for record in trained.curve)
    assert accuracy(task, trained.best) == pytest.approx(best)
    assert accuracy(task, trained.last) == pytest.approx(trained.curve[-1]["held_out_accuracy"])
    assert best > 0.3  # chance is 0.1


@methods
def test_the_task_is_not_changed(method, tmp_path):
    task = make_task(tmp_path, rows=FEW, soft=True)
    before = [value.clone() for value in (task.pixels, task.label, task.soft_label)]
    train(method, task)
    assert all(torch.equal(*pair) for pair in zip(before, (task.pixels, task.label, task.soft_label), strict=True))


@methods
@pytest.mark.parametrize(
    "odd",
    [
        {"classes": 2, "rows": 65},
        {"absent": 3},
        {"channels": 3},
        {"soft": True},
        {"held_out": False},
        {"rows": 33},  # one row more than a batch
        {"rows": 2},
        {"noise": 0.0},
        {"noise": 0.9},
        {"verified": 40},
        {"weighted": True},
        {"sampling": Sampling(rows=100, balanced=True), "verified": 5},
    ],
    ids=str,
)
def test_odd_tasks(method, odd, tmp_path):
    task = make_task(tmp_path, **{"rows": FEW, **odd})
    trained = train(method, task)
    assert all(np.isfinite(value) for record in trained.curve for value in record.values())
    if not len(task.held_out.label):
        assert trained.best_epoch == len(trained.curve)
        assert all("held_out_accuracy" not in record for record in trained.curve)


@methods
def test_bfloat16_trains(method, tmp_path):
    task = make_task(tmp_path)
    trained = train(method, dataclasses.replace(task, runtime=dataclasses.replace(task.runtime, precision="bfloat16")))
    assert trained.curve[trained.best_epoch - 1]["held_out_accuracy"] > 0.3
    assert all(value.dtype != torch.bfloat16 for state in trained.last for value in state.values())


@methods
def test_config_round_trips_and_refuses_strangers(method):
    entry = TRAINERS.get(method)
    config = parse(entry.config, QUICK.get(method, {}), method)
    assert parse(entry.config, config.model_dump(mode="json"), method) == config
    assert entry.summary
    with pytest.raises(ValueError, match=r"unknown setting; did you mean 'epochs'"):
        parse(entry.config, {"epoch": 1}, method)


def test_compiled_networks_are_compiled_and_train_alike(tmp_path, monkeypatch):
    """Only that it is wanted: compiling itself takes a compiler and a minute."""
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(type(module).__name__))
    plain = train("divide_mix", make_task(tmp_path / "plain"))
    assert not compiled
    with_compile = train("divide_mix", dataclasses.replace(make_task(tmp_path / "compiled"), compiled=True))
    assert compiled == ["Classifier", "Classifier"]
    assert plain.curve == with_compile.curve
