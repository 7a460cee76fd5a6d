"""Cross-entropy: the yardstick, and on purified labels the method that the literature calls DMLP-Naive.

One network, weak augmentation, SGD with momentum. Label smoothing (Szegedy et al. 2016) and mixup (Zhang et al.,
arXiv 1710.09412) are options. Where the task brings soft labels, they are the targets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from lnl_core.blocks.best_epoch import BestEpoch, copy_weights
from lnl_core.blocks.checkpoint import load_checkpoint, save_checkpoint
from lnl_core.blocks.mixup import draw_lambda, mix
from lnl_core.blocks.momentum_sgd import MomentumSGD
from lnl_core.blocks.row_batches import shuffled_batches
from lnl_core.blocks.schedule import cosine_lr, step_lr
from lnl_core.blocks.weak_batch import weak_views
from lnl_core.config import ConfigError, Settings
from lnl_core.progress import progress_bar
from lnl_core.runtime import seed_for
from lnl_core.train import TRAINERS
from lnl_core.train.held_out import score_held_out, score_record
from lnl_core.train.task import Trained, TrainTask


class CrossEntropyConfig(Settings):
    """Defaults: what the noisy-label literature uses on CIFAR (the DivideMix code's optimiser, batch 128)."""

    epochs: int = Field(default=100, ge=1)
    batch_size: int = Field(default=128, ge=2)
    lr: float = Field(default=0.02, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    schedule: Literal["cosine", "step"] = "cosine"
    warmup_epochs: int = Field(default=0, ge=0)  # cosine: linear rise of the learning rate at the start
    milestones: tuple[int, ...] | None = None  # step: epochs after which lr falls by 10; none: half-way
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    mixup_alpha: float = Field(default=0.0, ge=0)  # 0: no mixup; 1 is usual on CIFAR


@dataclass(kw_only=True)
class _Run:
    network: nn.Module
    optimizer: MomentumSGD
    best: BestEpoch = field(default_factory=BestEpoch)
    curve: list[dict[str, int | float]] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state(),
            "best": self.best.state(),
            "curve": self.curve,
        }

    def load(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load(state["optimizer"])
        self.best.load(state["best"])
        self.curve = state["curve"]


@TRAINERS.register(
    "cross_entropy",
    config=CrossEntropyConfig,
    summary="one network, cross-entropy on the labels as they are: the yardstick",
    source="the usual baseline; on purified labels: Tu et al., DMLP, CVPR 2023 (DMLP-Naive)",
)
def train_cross_entropy(task: TrainTask, config: CrossEntropyConfig) -> Trained:
    """Train one classifier; holds the network, its momentum, and the weights of the best epoch."""
    run = _start(task, config)
    saved = load_checkpoint(task.checkpoint, task.fingerprint)
    if saved is not None:
        run.load(saved)
    with progress_bar(f"cross-entropy ({task.purpose})", config.epochs, "epochs") as advance:
        advance(len(run.curve))
        for epoch in range(len(run.curve), config.epochs):
            loss = _epoch(run, task, config, epoch)
            score = score_held_out(task.held_out, [run.network], task.runtime)
            run.curve.append({"epoch": epoch + 1, "loss": loss, **score_record(score)})
            run.best.offer(epoch + 1, score, [run.network])
            save_checkpoint(task.checkpoint, task.fingerprint, run.state())
            advance(note=f"loss {loss:.3f}")
    return Trained(
        best=run.best.weights,
        last=copy_weights([run.network]),
        best_epoch=run.best.epoch,
        curve=tuple(run.curve),
        metrics={"final_loss": run.curve[-1]["loss"]},
    )


def _start(task: TrainTask, config: CrossEntropyConfig) -> _Run:
    seed = seed_for(task.runtime.seed, "cross_entropy", task.purpose, "weights")
    network = task.new_network(seed)
    optimizer = MomentumSGD(network, task.runtime, momentum=config.momentum, weight_decay=config.weight_decay)
    return _Run(network=network, optimizer=optimizer)


def _epoch(run: _Run, task: TrainTask, config: CrossEntropyConfig, epoch: int) -> float:
    """One pass over the rows; the mean loss. The epoch has its own generator, so a resumed run draws the same."""
    generator = task.runtime.generator("cross_entropy", task.purpose, epoch)
    batches = shuffled_batches(torch.arange(len(task.label)), config.batch_size, generator)
    run.network.train()
    losses = []
    for step, rows in enumerate(batches):
        loss = _loss(run.network, task, rows, config, generator)
        run.optimizer.step(loss, learning_rate(config, epoch, step, len(batches)))
        losses.append(loss.detach())
    mean = float(torch.stack(losses).mean())
    if not torch.isfinite(torch.tensor(mean)):
        raise ConfigError(
            f"train.cross_entropy.lr = {config.lr}: the loss became {mean} in epoch {epoch + 1}; lower lr"
        )
    return mean


def _loss(
    network: nn.Module,
    task: TrainTask,
    rows: Tensor,
    config: CrossEntropyConfig,
    generator: torch.Generator,
) -> Tensor:
    device = task.runtime.device
    [images] = weak_views(task.pixels, rows, generator, views=1, flip=task.flip, device=device)
    targets = task.targets(rows)
    if config.mixup_alpha > 0:
        images, targets = mix(images, targets, draw_lambda(1, config.mixup_alpha, generator), generator)
    with task.runtime.autocast():
        logits = network(images)
    return functional.cross_entropy(logits.float(), targets, label_smoothing=config.label_smoothing)


def learning_rate(config: CrossEntropyConfig, epoch: int, step: int, steps: int) -> float:
    """The rate of one step: cosine falls step by step, `step` at epochs."""
    if config.schedule == "step":
        milestones = (config.epochs // 2,) if config.milestones is None else config.milestones
        return step_lr(epoch, config.lr, milestones)
    return cosine_lr(epoch * steps + step, config.epochs * steps, config.lr, config.warmup_epochs * steps)
