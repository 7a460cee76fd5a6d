"""EMLC with full networks: teacher and student each have a backbone of their own and read augmented images.

Settings are the paper's for CIFAR with k = 1, its Sec. 4.1 and the released code, unless a comment says otherwise.
Departures: weak augmentation for all images (the paper adds AutoAugment on trusted ones); the learning rates fall by a
cosine; a share of the trusted rows is held out, so that the result can be scored, and nothing is chosen on it: the
posterior is the last epoch's.

Held in memory: both networks with their momentum, the activations of one step (k > 1: of the teacher's passes of k
steps and k copies of the student), a posterior [n, K], and the pixels, which above `run.image_memory_mb` lie in a file.
A checkpoint after each epoch carries an interrupted run on exactly.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import UInt8
from pydantic import Field
from torch import Tensor, nn

from lnl_core.config import ConfigError, Settings
from lnl_core.contracts import NO_LABEL, FloatArray, IntArray
from lnl_core.images.network_input import as_input
from lnl_core.images.weak_batch import weak_views
from lnl_core.progress import progress_bar
from lnl_core.purify.meta.step import Corruption, EMLCNetworks, NoisyAndTrusted, StepSettings, new_networks
from lnl_core.purify.task import Purification, PurifyTask, Start, TaskImages
from lnl_core.runtime import seed_for
from lnl_core.statistics.folds import stratified_folds
from lnl_core.training.checkpoint import load_checkpoint, save_checkpoint
from lnl_core.training.row_batches import EndlessRows, shuffled_batches
from lnl_core.training.schedule import cosine_lr
from lnl_core.training.updates import MomentumSGD


class EMLCImageSettings(Settings):
    """Sub-section `images` of `emlc`."""

    start: Start = "simclr"  # both backbones; the paper's CIFAR runs start from SimCLR. scratch needs many more epochs
    epochs: int = Field(default=15, ge=1)  # 3 to 5 on Clothing1M
    batch_size: int = Field(default=128, ge=2)  # noisy rows a step
    trusted_batch_size: int = Field(default=128, ge=2)
    k: int = Field(default=1, ge=1)  # steps of the student for one of the teacher; the paper also has 5 on CIFAR
    lr: float = Field(default=0.02, gt=0)  # student
    teacher_lr: float = Field(default=0.02, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)  # both; ours for the teacher
    weight_decay: float = Field(default=5e-4, ge=0)  # both; ours for the teacher
    corruption: Corruption = "random"  # of half the trusted batch, for the gate; adversarial on Clothing1M
    mix: bool = False  # half the trusted batch trains the student: Clothing1M
    joined: Literal["matched", "reversed"] = "matched"  # reversed: as the published code for k > 1
    held_out: float = Field(default=0.2, ge=0, le=0.5)  # share of the trusted rows kept apart to score the result; ours


@dataclass(kw_only=True)
class _Run:
    """What training holds; all of it goes into the checkpoint."""

    networks: EMLCNetworks
    curve: list[dict[str, int | float]] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        nets = self.networks
        return {
            "teacher": nets.teacher.state_dict(),
            "student": nets.student.state_dict(),
            "teacher_optimizer": nets.teacher_optimizer.state_dict(),
            "student_optimizer": nets.student_optimizer.state_dict(),
            "curve": self.curve,
        }

    def load(self, state: dict[str, Any]) -> None:
        nets = self.networks
        nets.teacher.load_state_dict(state["teacher"])
        nets.student.load_state_dict(state["student"])
        nets.teacher_optimizer.load_state_dict(state["teacher_optimizer"])
        nets.student_optimizer.load_state_dict(state["student_optimizer"])
        self.curve = state["curve"]


@dataclass(frozen=True, kw_only=True)
class _Data:
    """The rows to train on and to be scored by."""

    images: TaskImages
    task: PurifyTask
    learnt: Tensor  # trusted rows to learn from
    held_out: IntArray  # trusted rows to be scored by
    seed: int


def purify_images(task: PurifyTask, config: EMLCImageSettings, generator: np.random.Generator) -> Purification:
    """Train teacher and student; the posterior of each noisy row is the teacher's corrected label.

    Raises:
        ConfigError: there are no images, or the loss stopped being a number.
    """
    data = _data(task, config, generator)
    run = _Run(networks=_networks(data, config))
    _train(run, data, config)
    teacher = run.networks.teacher
    posterior, _ = _predictions(teacher, data.images.noisy, task.observed, data)
    trusted_posterior = _held_out_predictions(teacher, data)
    metrics = {
        "input": "images",
        "k": config.k,
        "epochs": config.epochs,
        "trusted_learnt": len(data.learnt),
        "trusted_held_out": len(data.held_out),
        "noise_rate": round(float(1 - posterior[np.arange(len(posterior)), task.observed].mean()), 5),
        **{name: value for name, value in run.curve[-1].items() if name.startswith("held_out")},
    }
    return Purification(
        posterior=posterior, metrics=metrics, curve=tuple(run.curve), trusted_posterior=trusted_posterior
    )


def _data(task: PurifyTask, config: EMLCImageSettings, generator: np.random.Generator) -> _Data:
    if task.images is None:
        raise ConfigError(
            "purify.emlc.input = 'images': there are no images here, features alone; run the pipeline (`lnl run`), "
            "whose stage purify reads them, or use input: features"
        )
    images = task.images()
    assert len(images.noisy) == len(task.observed), "an image a noisy row"
    assert len(images.trusted) == len(task.trusted_label), "an image a trusted row"
    held_out = held_out_rows(task.trusted_label, config.held_out, generator)
    learnt = np.setdiff1d(np.arange(len(task.trusted_label)), held_out)
    return _Data(
        images=images,
        task=task,
        learnt=torch.from_numpy(learnt),
        held_out=held_out.astype(np.int32),
        seed=int(generator.integers(2**62)),
    )


def held_out_rows(label: IntArray, share: float, generator: np.random.Generator) -> npt.NDArray[np.intp]:
    """About `share` of the trusted rows, stratified; the only row of a class is never among them."""
    shuffled = generator.permutation(len(label))
    if share == 0:
        return np.empty(0, dtype=np.intp)
    fold = stratified_folds(label, round(1 / share), shuffled)
    single = np.bincount(label)[label] == 1
    return np.flatnonzero((fold == 0) & ~single)


def _networks(data: _Data, config: EMLCImageSettings) -> EMLCNetworks:
    runtime = data.images.runtime

    def prepare(network: nn.Module) -> nn.Module:
        last: nn.Module = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return last.to(runtime.device).train()

    return new_networks(
        lambda seed: data.images.new_backbone(config.start, seed),
        data.task.classes,
        (seed_for(data.seed, "teacher"), seed_for(data.seed, "student")),
        prepare,
        lambda network: MomentumSGD(network, runtime, momentum=config.momentum, weight_decay=config.weight_decay),
        runtime.autocast,
    )


def _train(run: _Run, data: _Data, config: EMLCImageSettings) -> None:
    images = data.images
    fingerprint = _fingerprint(data, config)
    saved = load_checkpoint(images.checkpoint, fingerprint)
    if saved is not None:
        run.load(saved)
    with progress_bar("EMLC on images", config.epochs, "epochs") as advance:
        advance(len(run.curve))
        for epoch in range(len(run.curve), config.epochs):
            record = _epoch(run.networks, data, config, epoch)
            run.curve.append({"epoch": epoch + 1, **record, **_scores(run.networks, data)})
            save_checkpoint(images.checkpoint, fingerprint, run.state())
            advance(note=f"trusted loss {record['trusted_loss']:.3f}")


def _fingerprint(data: _Data, config: EMLCImageSettings) -> str:
    settings = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(f"{data.images.fingerprint}\n{data.seed}\n{settings}".encode()).hexdigest()


def _epoch(networks: EMLCNetworks, data: _Data, config: EMLCImageSettings, epoch: int) -> dict[str, float]:
    """One pass over the noisy rows; mean losses. The epoch has its own generator, so a resumed run draws the same."""
    generator = torch.Generator().manual_seed(seed_for(data.seed, "epoch", epoch))
    batches = shuffled_batches(torch.arange(len(data.task.observed)), config.batch_size, generator)
    if config.joined == "reversed":  # steps exchange their rows, so all need as many
        batches = [rows[: min(map(len, batches))] for rows in batches]
    trusted = EndlessRows(data.learnt, generator)
    networks.teacher.train()
    networks.student.train()
    seen = []
    for number, rows in enumerate(batches):
        batch = _batch(data, rows, trusted, config, generator)
        settings = _step_settings(config, epoch * len(batches) + number, config.epochs * len(batches))
        last = (number + 1) % config.k == 0 or number + 1 == len(batches)
        seen.append(networks.step(batch, settings, generator, update_teacher=last))
    losses = {
        "loss": torch.stack([found.student for found in seen]),
        "trusted_loss": torch.stack([found.trusted for found in seen if found.trusted is not None]),
        "gate": torch.stack([found.gate for found in seen]),
    }
    means = {name: float(values.float().mean()) for name, values in losses.items()}
    for name in ("loss", "trusted_loss"):
        if not np.isfinite(means[name]):
            raise ConfigError(
                f"purify.emlc.images.lr = {config.lr}: {name} became {means[name]} in epoch {epoch + 1}; lower lr "
                "and teacher_lr"
            )
    return {name: round(value, 6) for name, value in means.items()}


def _step_settings(config: EMLCImageSettings, step: int, steps: int) -> StepSettings:
    return StepSettings(
        student_lr=cosine_lr(step, steps, config.lr),
        teacher_lr=cosine_lr(step, steps, config.teacher_lr),
        corruption=config.corruption,
        joined=config.joined,
        mix=config.mix,
    )


def _batch(
    data: _Data, rows: Tensor, trusted: EndlessRows, config: EMLCImageSettings, generator: torch.Generator
) -> NoisyAndTrusted:
    images, device = data.images, data.images.runtime.device
    chosen = trusted.take(config.trusted_batch_size)
    [noisy_view] = weak_views(images.noisy, rows, generator, views=1, flip=images.flip, device=device)
    [trusted_view] = weak_views(images.trusted, chosen, generator, views=1, flip=images.flip, device=device)
    return NoisyAndTrusted(
        noisy=noisy_view,
        observed=torch.from_numpy(data.task.observed[rows.numpy()]).long().to(device),
        trusted=trusted_view,
        label=torch.from_numpy(data.task.trusted_label[chosen.numpy()]).long().to(device),
    )


def _scores(networks: EMLCNetworks, data: _Data) -> dict[str, float]:
    """Accuracy on the held-out trusted rows: the corrected labels, and the student."""
    if not len(data.held_out):
        return {}
    label = data.task.trusted_label[data.held_out]
    corrected = _held_out_predictions(networks.teacher, data)[data.held_out]
    pixels = data.images.trusted[torch.from_numpy(data.held_out).long()]
    predicted = _predict(networks.student, pixels, data)
    return {
        "held_out_accuracy": round(float((corrected.argmax(axis=1) == label).mean()), 5),
        "held_out_student": round(float((predicted.argmax(axis=1) == label).mean()), 5),
    }


def _held_out_predictions(teacher: nn.Module, data: _Data) -> FloatArray:
    """[m, K]: the corrected label, or p(y | x) where no observed label is known; NaN for rows that were learnt from."""
    predicted = np.full((len(data.task.trusted_label), data.task.classes), np.nan, dtype=np.float32)
    if len(data.held_out):
        observed = data.task.trusted_observed[data.held_out]
        pixels = data.images.trusted[torch.from_numpy(data.held_out).long()]
        corrected, alone = _predictions(teacher, pixels, np.maximum(observed, 0), data)
        predicted[data.held_out] = np.where((observed == NO_LABEL)[:, None], alone, corrected)
    return predicted


@torch.inference_mode()
def _predictions(
    teacher: nn.Module, pixels: UInt8[Tensor, "rows channels height width"], observed: IntArray, data: _Data
) -> tuple[FloatArray, FloatArray]:
    """Corrected labels [rows, K] and the classifier's own p(y | x) [rows, K], by one pass of the teacher."""
    runtime = data.images.runtime
    corrected = np.empty((len(pixels), data.task.classes), dtype=np.float32)
    alone = np.empty_like(corrected)
    teacher.eval()
    for rows in _slices(len(pixels)):
        labels = torch.from_numpy(observed[rows]).long().to(runtime.device)
        with runtime.autocast():
            found = teacher(as_input(pixels[rows], runtime.device), labels)
        corrected[rows] = found.soft_label.float().cpu().numpy()
        alone[rows] = found.logits.float().softmax(dim=1).cpu().numpy()
    return corrected, alone


@torch.inference_mode()
def _predict(student: nn.Module, pixels: UInt8[Tensor, "rows channels height width"], data: _Data) -> FloatArray:
    runtime = data.images.runtime
    logits = np.empty((len(pixels), data.task.classes), dtype=np.float32)
    student.eval()
    for rows in _slices(len(pixels)):
        with runtime.autocast():
            found = student(as_input(pixels[rows], runtime.device))
        logits[rows] = found.float().cpu().numpy()
    return logits


def _slices(rows: int, batch: int = 512) -> Iterator[slice]:
    yield from (slice(start, min(start + batch, rows)) for start in range(0, rows, batch))
