"""ELR+: ELR with two networks, whose averaged weights write the targets for each other, and with mixup.

Liu, Niles-Weed, Razavian, Fernandez-Granda: Early-Learning Regularization Prevents Memorization of Noisy Labels,
NeurIPS 2020 (arXiv 2007.00151), Sec. 4.2. Each network trains on mixed images with CE + lambda/n sum log(1 - <p, t>).
The targets t come from the *other* network's running average of weights, which sees the images unmixed:
t_i <- beta t_i + (1 - beta) p'_i; they are mixed as the images are. The two networks' mean softmax predicts.

No modes: the released code gives the networks two differently noised copies of the data, so that each sees right
labels of rows that are wrong in the other. Real data has one set of labels, so this cannot be done; both networks share
it. Deviations: beta and lambda follow from the noise estimate unless they are set (`noise_rules.elr_constants`); the
ramps are shares of the training instead of 40,000 steps, so that a short training has them too; averages predict with
their running statistics; a verified row's target is its label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from lnl_core.statistics.noise_estimate import NoiseEstimate
from lnl_core.train import TRAINERS, noise_rules
from lnl_core.train.epochs import Record, train_epochs
from lnl_core.train.task import Trained, TrainTask
from lnl_core.training.elr import ELRSettings, TargetStore, clamped_softmax, elr_penalty
from lnl_core.training.ema import update_average
from lnl_core.training.mean_record import MeanRecord, mean_over_networks
from lnl_core.training.memory import numbered
from lnl_core.training.method_settings import AutoShare
from lnl_core.training.milestones import with_milestones
from lnl_core.training.mixup import draw_lambda, mix
from lnl_core.training.ramp import sigmoid_ramp
from lnl_core.training.row_batches import shuffled_batches
from lnl_core.training.updates import MomentumSGD, momentum_sgd
from lnl_core.training.weighted_loss import weighted_cross_entropy

NAME = "elr_plus"


class ELRPlusConfig(ELRSettings):
    """Defaults: the paper's CIFAR-10 settings (PreAct ResNet-18)."""

    epochs: int = Field(default=200, ge=1)  # 250 on CIFAR-100
    schedule: Literal["cosine", "step"] = "step"  # by 10 at three quarters (150 of 200), unless milestones say else
    mixup_alpha: float = Field(default=1.0, ge=0)  # 0: no mixup; small networks on 8 px do better with less
    ema_decay: float = Field(default=0.997, ge=0, lt=1)  # gamma: share of the average that stays at each step
    ema_ramp: float = Field(default=0.5, ge=0, le=1)  # share of the training in which it rises; 40,000 of 78,200 steps
    lambda_ramp: AutoShare = "auto"  # the same of lambda; auto: 0.4 with many classes, else 0: no ramp

    @model_validator(mode="before")
    @classmethod
    def _three_quarters(cls, values: Any) -> Any:
        return with_milestones(values, epochs=200, parts=(3,), of=4)


@dataclass(frozen=True, kw_only=True)
class Derived:
    """The settings that depend on the noise, as set or as the estimate has them."""

    beta: float
    lambda_: float
    lambda_ramp: float


@dataclass(frozen=True, kw_only=True)
class _Run:
    task: TrainTask
    config: ELRPlusConfig
    derived: Derived
    networks: list[nn.Module]  # two
    averages: list[nn.Module]  # of the networks' weights, evaluating
    updates: list[MomentumSGD]
    stores: list[TargetStore]  # stores[i]: what network i is kept near


@TRAINERS.register(
    NAME,
    config=ELRPlusConfig,
    summary="ELR with two networks, weight averages that write each other's targets, and mixup",
    source="Liu et al.: Early-Learning Regularization, NeurIPS 2020, arXiv 2007.00151",
)
def train_elr_plus(task: TrainTask, config: ELRPlusConfig) -> Trained:
    """Train two networks; holds both with momenta and averages, the best epoch's weights, and targets [2, rows, K].

    The targets are float32: 8 GB for 1,000 classes and a million rows, half with `target_precision: float16`.
    """
    seeds = [task.seed(NAME, "weights", number) for number in range(2)]
    networks = [task.new_network(seed) for seed in seeds]
    run = _Run(
        task=task,
        config=config,
        derived=derive(task.noise, config),
        networks=networks,
        averages=[task.new_network(seed).requires_grad_(False).eval() for seed in seeds],  # start as the networks do
        updates=[momentum_sgd(network, task.runtime, config) for network in networks],
        stores=[
            config.new_targets(task.label, task.classes, verified=task.verified, device=task.runtime.device)
            for _ in range(2)
        ],
    )
    return train_epochs(
        task,
        method=NAME,
        epochs=config.epochs,
        parts=numbered(network=networks, average=run.averages, updates=run.updates, targets=run.stores),
        predictors=networks,
        epoch=lambda number: _epoch(run, number),
        metrics=lambda: {"derived": vars(run.derived)},
    )


def derive(noise: NoiseEstimate, config: ELRPlusConfig) -> Derived:
    """Replace `auto` by what follows from the noise estimate."""
    beta, lambda_ = config.constants(noise_rules.elr_constants(noise))
    ramp = noise_rules.elr_lambda_ramp(noise) if config.lambda_ramp == "auto" else config.lambda_ramp
    return Derived(beta=beta, lambda_=lambda_, lambda_ramp=ramp)


def _epoch(run: _Run, epoch: int) -> Record:
    """One epoch of both networks; its generators depend on the epoch alone, so a resumed run draws the same."""
    task = run.task
    rows = task.epoch_rows(task.generator(NAME, "rows", epoch))
    records = [_train_one(run, rows, epoch, number) for number in range(2)]
    predicted, clean = run.stores[0].predicted(rows, task.label[rows])
    task.remember(epoch, run.config.epochs, rows, predicted=predicted, clean=clean)
    return mean_over_networks(records)


def _train_one(run: _Run, rows: Tensor, epoch: int, number: int) -> Record:
    """One epoch of one network, whose weight average follows step by step."""
    task, config = run.task, run.config
    generator = task.generator(NAME, epoch, number)
    network = run.networks[number].train()
    batches = shuffled_batches(rows, config.batch_size, generator)
    sums = MeanRecord(len(batches))
    for step, batch in enumerate(batches):
        share = step / len(batches)
        done = (epoch + share) / config.epochs
        terms = _terms(run, number, batch, generator)
        weight = run.derived.lambda_ * sigmoid_ramp(done, run.derived.lambda_ramp)
        loss = terms["label_loss"] + weight * terms["penalty"]
        run.updates[number].step(loss, config.lr_at(epoch, share))
        update_average(run.averages[number], network, config.ema_decay * sigmoid_ramp(done, config.ema_ramp))
        sums.add(loss=loss, **terms)
    return sums.means()


def _terms(run: _Run, number: int, batch: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """The two loss terms of one step on mixed images."""
    task, config = run.task, run.config
    [images] = task.weak(batch, generator)
    [probabilities] = task.predict(run.averages[1 - number], [images])
    kept = run.stores[number].move(batch, probabilities, run.derived.beta)
    both = torch.cat([task.targets(batch), kept], dim=1)  # labels and targets are mixed alike
    if config.mixup_alpha > 0:
        images, both = mix(images, both, draw_lambda(1, config.mixup_alpha, generator), generator)
    labels, kept = both.split(task.classes, dim=1)  # type: ignore[no-untyped-call]
    logits = task.forward(run.networks[number], images)
    return {
        "label_loss": weighted_cross_entropy(logits, labels, task.weights(batch)),
        "penalty": elr_penalty(clamped_softmax(logits), kept),
    }
