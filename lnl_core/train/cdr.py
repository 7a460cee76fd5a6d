"""CDR: at every step only the weights that matter for the labels get the gradient; the others merely decay.

Xia, Liu, Han, Gong, Wang, Ge, Chang: Robust Early-Learning: Hindering the Memorization of Noisy Labels, ICLR 2021.
A weight's |gradient * weight| says how much the loss depends on it. The share 1 - tau of the weights with the largest
values is critical, tau the share of wrong labels: right labels are thought to be learned by few weights, wrong ones by
the rest.
    critical:      w <- w - lr ((1 - tau) dL/dw + decay(w))     (robust positive update)
    not critical:  w <- w - lr decay(w)                         (negative update)
All rows are learned from; early stopping is the best epoch on held-out rows. With tau = 0 it is SGD.

Where the paper, the released code and good sense differ, a field of the config decides, and `mode` sets those that the
user leaves out:
                    paper    released    fixed
    decay           l1       l2          l2: weight_decay belongs to it
    ranked          all      kernels     kernels: a bias begins at 0, where |g w| never lets it leave; biases and
                                         normalisation keep the plain gradient
    gradual_epochs  0        0           10: wrong labels are not yet learned then. The released code means to begin
                                         so, but overwrites its schedule
    velocity        critical all         critical: the equations' rule
With momentum a masked gradient does not stop a weight: `velocity: all` (what a masked gradient in torch's SGD does)
lets it coast for some ten steps on what it has, `critical` stops it, as the equations say, and forgets its velocity.
The threshold is one quantile over all ranked weights together: layers that matter more keep more of theirs. In a large
network it is that of about a million weights at even distances, which moves the share by some 0.05 % and saves a third
of a second or more a step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from lnl_core.config import ModeSettings
from lnl_core.runtime import Runtime
from lnl_core.train import TRAINERS, noise_rules
from lnl_core.train.epochs import Record, train_epochs
from lnl_core.train.task import Trained, TrainTask
from lnl_core.training.mean_record import MeanRecord
from lnl_core.training.method_settings import AutoRate
from lnl_core.training.ramp import linear_ramp
from lnl_core.training.sgd_settings import SGDSettings
from lnl_core.training.updates import MomentumSGD

NAME = "cdr"
RANKED_WEIGHTS = 2**20  # of more weights the threshold is that of a sample
MODES: dict[str, dict[str, Any]] = {
    "paper": {"decay": "l1", "ranked": "all", "gradual_epochs": 0, "velocity": "critical"},
    "released": {"decay": "l2", "ranked": "kernels", "gradual_epochs": 0, "velocity": "all"},
    "fixed": {"decay": "l2", "ranked": "kernels", "gradual_epochs": 10, "velocity": "critical"},
}


class CDRConfig(ModeSettings, SGDSettings):
    """Defaults: SGD as on the paper's CIFAR-10, mode `fixed`."""

    modes = MODES

    mode: Literal["paper", "released", "fixed"] = "fixed"
    epochs: int = Field(default=100, ge=1)
    batch_size: int = Field(default=64, ge=2)
    lr: float = Field(default=0.01, gt=0)
    weight_decay: float = Field(default=1e-3, ge=0)  # lambda
    schedule: Literal["cosine", "step"] = "step"
    milestones: tuple[int, ...] | None = (40, 80)  # of 100
    forget_rate: AutoRate = "auto"  # tau; auto: the estimated share of wrong labels
    decay: Literal["l1", "l2"]  # weight_decay times sgn(w) or times w
    ranked: Literal["all", "kernels"]  # which weights can be uncritical: all, or those of two dimensions and more
    gradual_epochs: int = Field(ge=0)  # tau rises from 0 within so many epochs
    velocity: Literal["all", "critical"]  # which weights momentum moves


@TRAINERS.register(
    NAME,
    config=CDRConfig,
    summary="one network; at each step only the weights that matter most get the gradient",
    source="Xia et al., Robust Early-Learning, ICLR 2021",
)
def train_cdr(task: TrainTask, config: CDRConfig) -> Trained:
    """Train one classifier; holds the network, its momentum, one number a weight at a step, and the best weights."""
    network = task.new_network(task.seed(NAME, "weights"))
    updates = updates_of(network, task.runtime, config)
    tau = noise_rules.forget_rate(task.noise) if config.forget_rate == "auto" else config.forget_rate

    def epoch(number: int) -> Record:
        generator = task.generator(NAME, number)
        batches = task.epoch_batches(config.batch_size, generator)
        sums, seen = MeanRecord(len(batches)), []
        forgotten = tau * linear_ramp(float(number), 0, config.gradual_epochs)
        network.train()
        for step, rows in enumerate(batches):
            [images] = task.weak(rows, generator)
            logits = task.forward(network, images)
            losses = functional.cross_entropy(logits, task.targets(rows), reduction="none")
            loss = (task.weights(rows) * losses).mean()
            lr = config.lr_at(number, step / len(batches))
            updates.step(loss, lr, before_update=lambda: divide_weights(updates, config, forgotten))
            sums.add(loss=loss)
            seen.append((rows, losses.detach(), logits.argmax(dim=1)))
        _remember(task, number, config.epochs, seen)
        return {**sums.means(), "critical_share": 1 - forgotten}

    return train_epochs(
        task,
        method=NAME,
        epochs=config.epochs,
        parts={"network": network, "updates": updates},
        predictors=[network],
        epoch=epoch,
        metrics=lambda: {"derived": {"forget_rate": tau}},
    )


def critical_weights(weights: Sequence[tuple[Tensor, Tensor]], share: float) -> list[Bool[Tensor, "..."]]:
    """Which weights are among the `share` of all with the largest |gradient * weight|; ties with the last of them too.

    Args:
        weights: (weight, gradient) of each tensor.
    """
    values = [(weight * gradient).abs() for weight, gradient in weights]
    threshold = _threshold(torch.cat([value.flatten() for value in values]), share)
    return [value >= threshold for value in values]


def _threshold(values: Float[Tensor, " weights"], share: float) -> Float[Tensor, ""]:
    """The smallest of the largest round(share * weights) values, at least one."""
    if len(values) > RANKED_WEIGHTS:
        values = values[:: sample_stride(len(values), RANKED_WEIGHTS)]
    count = max(round(share * len(values)), 1)
    return values.kthvalue(len(values) - count + 1).values


def sample_stride(weights: int, most: int) -> int:
    """The least stride that takes at most `most` of the weights and meets every place of a kernel equally often.

    Kernels have 9, 25 or 49 places and channels come in powers of two: no factor 2, 3, 5 or 7.
    """
    stride = math.ceil(weights / most)
    while math.gcd(stride, 2 * 3 * 5 * 7) > 1:
        stride += 1
    return stride


def updates_of(network: nn.Module, runtime: Runtime, config: CDRConfig) -> MomentumSGD:
    """SGD with momentum; it decays weights where the decay is `l2`, `divide_weights` where it is `l1`."""
    decay = config.weight_decay if config.decay == "l2" else 0.0
    return MomentumSGD(network, runtime, momentum=config.momentum, weight_decay=decay)


@torch.no_grad()
def divide_weights(updates: MomentumSGD, config: CDRConfig, forgotten: float) -> None:
    """Between the backward pass and the update: the gradient for critical weights alone, times 1 - tau; the decay."""
    trained = [(weight, weight.grad) for weight in updates.parameters if weight.grad is not None]
    ranked = [(weight, gradient) for weight, gradient in trained if config.ranked == "all" or weight.dim() > 1]
    for (weight, gradient), mask in zip(ranked, critical_weights(ranked, 1 - forgotten), strict=True):
        gradient.mul_(mask).mul_(1 - forgotten)
        velocity = updates.optimizer.state[weight].get("momentum_buffer")
        if config.velocity == "critical" and velocity is not None:
            velocity.mul_(mask)
    if config.decay == "l1":
        for weight, gradient in trained:
            gradient.add_(weight.sign(), alpha=config.weight_decay)


def _remember(task: TrainTask, epoch: int, epochs: int, seen: list[tuple[Tensor, Tensor, Tensor]]) -> None:
    """`seen`: rows, their losses and predicted classes, batch by batch."""
    rows, losses, predicted = (torch.cat([part.cpu() for part in column]) for column in zip(*seen, strict=True))
    if len(torch.unique(rows)) < len(rows):  # a lone row comes twice
        rows, losses, predicted = rows[:1], losses[:1], predicted[:1]
    task.remember(epoch, epochs, rows, predicted=predicted, loss=losses)
