"""Co-teaching, Co-teaching+ and JoCoR: two networks that learn from the rows of each batch with the smallest losses.

Han et al.: Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy Labels, NeurIPS 2018 (arXiv
1804.06872). In every batch each network picks the share R(t) of rows with the smallest losses, and the *other* network
learns from them; R falls from 1 to 1 - tau, tau the share of wrong labels.
Yu et al.: How does Disagreement Help Generalization against Label Corruption?, ICML 2019 (arXiv 1901.04215), `variant:
plus`. After some epochs of Co-teaching only rows for which the networks predict different classes may be picked.
Wei et al.: Combating Noisy Labels by Agreement: A Joint Training Method with Co-Regularization, CVPR 2020 (arXiv
2003.02752), `variant: jocor`. One loss for both networks, which adds their divergence to their cross-entropies; both
learn from the rows for which it is small.

Where papers, released code and good sense differ, a field of the config decides, and `mode` sets those that the user
leaves out:
                    paper     released    fixed
    divide_twice    false     true        false: a mean, divided by the count again, is harmless with Adam alone
    ramp            epoch     rate        share: tau is reached at the end of the ramp, whatever the exponent
    per_class       false     false       true: see below
    when_agreed     skip      all         small_loss: Co-teaching+ learns on when its networks have become one
Rows of a hard or rare class have larger losses, so one limit for all rows starves it. With `per_class` a row's loss is
taken relative to its class's limit: the loss that the share p(right | observed class) of that class's rows stayed below
in the last epoch. The shares are from the estimated matrix and prior and average to 1 - tau; the count of a batch stays
the paper's, so a class with less than a row a batch is chosen from as any other.
Besides: counts are rounded, not cut; verified rows are always learned from, on top of the count; both networks see the
same weak view of a batch; tau is estimated unless it is set; and the prediction is the mean of both networks'
softmax, where the papers report one network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from lnl_core.config import ModeSettings
from lnl_core.train import TRAINERS, noise_rules
from lnl_core.train.epochs import Record, train_epochs
from lnl_core.train.small_loss_rules import (
    class_limits,
    cross_entropies,
    disagreeing,
    forgotten_share,
    joint_losses,
    small_loss,
)
from lnl_core.train.task import Trained, TrainTask
from lnl_core.training.mean_record import MeanRecord
from lnl_core.training.memory import Memory, numbered
from lnl_core.training.method_settings import AutoRate
from lnl_core.training.sgd_settings import SGDSettings
from lnl_core.training.updates import Adam, Updates, momentum_sgd

NAME = "co_teaching"
MODES: dict[str, dict[str, Any]] = {
    "paper": {"divide_twice": False, "ramp": "epoch", "per_class": False, "when_agreed": "skip"},
    "released": {"divide_twice": True, "ramp": "rate", "per_class": False, "when_agreed": "all"},
    "fixed": {"divide_twice": False, "ramp": "share", "per_class": True, "when_agreed": "small_loss"},
}


class CoTeachingConfig(ModeSettings, SGDSettings):
    """Defaults: the papers' CIFAR settings, mode `fixed`. `schedule` and `momentum` are of `optimizer: sgd` alone."""

    modes = MODES

    mode: Literal["paper", "released", "fixed"] = "fixed"
    variant: Literal["co_teaching", "plus", "jocor"] = "co_teaching"
    epochs: int = Field(default=200, ge=1)
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: float = Field(default=0.001, gt=0)  # Adam's; 0.02 is usual with sgd
    weight_decay: float = Field(default=0.0, ge=0)  # none in the papers
    decay_from: int | None = Field(default=None, ge=0)  # adam: lr falls linearly from there; None: 80 of 200 epochs
    beta1: float = Field(default=0.9, ge=0, lt=1)  # adam, until decay_from
    beta1_late: float = Field(default=0.1, ge=0, lt=1)  # adam, after it: old gradients fade with the rate
    forget_rate: AutoRate = "auto"  # tau; auto: the estimated share of wrong labels
    ramp_epochs: int = Field(default=10, ge=1)  # T_k, Co-teaching Sec. 4.2
    exponent: float = Field(default=1.0, gt=0)  # c, Co-teaching Sec. 4.2
    disagree_from: int = Field(default=20, ge=0)  # plus: epochs of Co-teaching before
    agreement: float = Field(default=0.9, ge=0, le=1)  # jocor: lambda, 0.85 to 0.9 on CIFAR; 0.3 to 0.65 on small data
    divide_twice: bool  # the mean loss of the picked rows is divided by their count once more (not in JoCoR)
    ramp: Literal["epoch", "rate", "share"]  # how c and T_k shape R(t), see forgotten_share
    per_class: bool  # losses relative to the limit of their class
    when_agreed: Literal["skip", "all", "small_loss"]  # plus: what a batch without disagreement gives

    @property
    def decay_epoch(self) -> int:
        """The first epoch in which Adam's rate falls."""
        return math.floor(0.4 * self.epochs) if self.decay_from is None else self.decay_from

    def forgotten(self, epoch: int, tau: float) -> float:
        """1 - R(t): the share of rows that `epoch` leaves out."""
        return forgotten_share(epoch, tau, ramp_epochs=self.ramp_epochs, exponent=self.exponent, ramp=self.ramp)

    def rate_at(self, epoch: int, share: float) -> float:
        """The learning rate; Adam's falls epoch by epoch, to 0 after the last."""
        if self.optimizer == "sgd":
            return self.lr_at(epoch, share)
        start = self.decay_epoch
        return self.lr if epoch < start else self.lr * (self.epochs - epoch) / (self.epochs - start)


@dataclass(frozen=True, kw_only=True)
class _Run:
    task: TrainTask
    config: CoTeachingConfig
    tau: float
    class_tau: Tensor  # [classes] on the device
    networks: list[nn.Module]  # two
    updates: Updates  # of both networks: their parameters never meet in it
    memory: Memory  # losses: [pickers, rows] of the last epoch, NaN where a row sat it out


@dataclass(frozen=True, kw_only=True)
class _Epoch:
    """What an epoch gathers of the rows, on the device."""

    number: int
    forgotten: float
    limits: Float[Tensor, "pickers classes"]
    losses: Float[Tensor, "pickers rows"]
    picked: Bool[Tensor, " rows"]  # for the first network
    predicted: Int[Tensor, " rows"]


@TRAINERS.register(
    NAME,
    config=CoTeachingConfig,
    summary="two networks learn from each other's small-loss rows; also Co-teaching+ and JoCoR",
    source="Han et al., NeurIPS 2018, arXiv 1804.06872; Yu et al., ICML 2019, arXiv 1901.04215; Wei et al., CVPR 2020, "
    "arXiv 2003.02752",
)
def train_co_teaching(task: TrainTask, config: CoTeachingConfig) -> Trained:
    """Train two networks; holds both with their moments, the best epoch's weights, and two losses a row."""
    networks = [task.new_network(task.seed(NAME, "weights", number)) for number in range(2)]
    tau = noise_rules.forget_rate(task.noise) if config.forget_rate == "auto" else config.forget_rate
    class_tau = torch.from_numpy(noise_rules.class_forget_rates(task.noise, tau)).float()
    pickers = 1 if config.variant == "jocor" else 2
    run = _Run(
        task=task,
        config=config,
        tau=tau,
        class_tau=class_tau.to(task.runtime.device),
        networks=networks,
        updates=_updates(task, config, nn.ModuleList(networks)),
        memory=Memory(losses=torch.full((pickers, len(task.label)), torch.nan)),
    )
    derived: dict[str, Any] = {"forget_rate": tau}
    if config.per_class:
        derived["class_forget_rates"] = [round(float(rate), 5) for rate in class_tau]
    return train_epochs(
        task,
        method=NAME,
        epochs=config.epochs,
        parts={**numbered(network=networks), "updates": run.updates, "memory": run.memory},
        predictors=networks,
        epoch=lambda number: _epoch(run, number),
        metrics=lambda: {"derived": derived},
    )


def mean_of_picked(
    losses: Float[Tensor, " batch"], picked: Bool[Tensor, " batch"], divide_twice: bool
) -> Float[Tensor, ""]:
    """The mean loss of the picked rows, 0 where there is none; or that mean divided by their count once more."""
    count = picked.sum().clamp_min(1)
    mean = (losses * picked).sum() / count
    return mean / count if divide_twice else mean


def _updates(task: TrainTask, config: CoTeachingConfig, networks: nn.ModuleList) -> Updates:
    if config.optimizer == "adam":
        return Adam(networks, task.runtime, weight_decay=config.weight_decay)
    return momentum_sgd(networks, task.runtime, config)


def _set_beta1(run: _Run, epoch: int) -> None:
    config = run.config
    if config.optimizer == "adam":
        for group in run.updates.optimizer.param_groups:
            group["betas"] = (config.beta1 if epoch < config.decay_epoch else config.beta1_late, group["betas"][1])


def _epoch(run: _Run, number: int) -> Record:
    """One epoch of both networks; its generator depends on the epoch alone, so a resumed run draws the same."""
    task, config = run.task, run.config
    generator = task.generator(NAME, number)
    batches = task.epoch_batches(config.batch_size, generator)
    held = _begin(run, number)
    _set_beta1(run, number)
    sums = MeanRecord(len(batches))
    for network in run.networks:
        network.train()
    for step, rows in enumerate(batches):
        [images] = task.weak(rows, generator)
        terms = _step(run, held, rows, images)
        run.updates.step(terms["loss"], config.rate_at(number, step / len(batches)))
        sums.add(**terms)
    run.memory.losses = held.losses.cpu()
    _remember(run, held, torch.cat(batches).unique())  # type: ignore[no-untyped-call]
    return sums.means()


def _begin(run: _Run, number: int) -> _Epoch:
    """An empty record of the epoch, and the limits that the last one leaves."""
    config, device = run.config, run.task.runtime.device
    last = run.memory.losses.to(device)
    limits = torch.zeros(len(last), run.task.classes, device=device)
    if config.per_class:
        forgotten = run.class_tau * config.forgotten(number, 1.0)
        label = run.task.label.to(device)
        limits = torch.stack([class_limits(losses, label, forgotten) for losses in last])
    return _Epoch(
        number=number,
        forgotten=config.forgotten(number, run.tau),
        limits=limits,
        losses=torch.full_like(last, torch.nan),
        picked=torch.zeros(last.shape[1], dtype=torch.bool, device=device),
        predicted=torch.zeros(last.shape[1], dtype=torch.long, device=device),
    )


def _step(run: _Run, held: _Epoch, rows: Tensor, images: Tensor) -> Mapping[str, Tensor]:
    """The loss of one batch for both networks, and what the curve shows of it."""
    logits = [run.task.forward(network, images) for network in run.networks]
    plain = [part.detach() for part in logits]
    picked = _pick(run, held, rows, plain)
    at = rows.to(picked.device)
    held.picked[at] = picked[-1]  # the first network learns from the second's rows
    held.predicted[at] = (plain[0].softmax(dim=1) + plain[1].softmax(dim=1)).argmax(dim=1)
    differ = plain[0].argmax(dim=1) != plain[1].argmax(dim=1)
    return {
        "loss": _loss(run, rows, logits, picked),
        "kept_share": picked.float().mean(),
        "disagreement": differ.float().mean(),
    }


def _pick(run: _Run, held: _Epoch, rows: Tensor, logits: list[Tensor]) -> Bool[Tensor, "pickers batch"]:
    """What each picker (each network; in JoCoR both together) takes for rightly labelled, by the hard label."""
    task, config = run.task, run.config
    device = logits[0].device
    label, known = task.label[rows].to(device), task.known(rows).to(device)
    losses = cross_entropies(logits, label)
    if config.variant == "jocor":
        losses = joint_losses(logits[0], logits[1], losses.sum(dim=0), config.agreement)[None]
    held.losses[:, rows.to(device)] = losses
    candidates, choose = torch.ones_like(known), torch.ones_like(known[0])
    if config.variant == "plus" and held.number >= config.disagree_from:
        candidates, choose = disagreeing(logits[0], logits[1], config.when_agreed)
    relative = losses - held.limits[:, label]
    picked = torch.stack([small_loss(part, held.forgotten, candidates, known) for part in relative])
    return torch.where(choose, picked, candidates | known)


def _loss(run: _Run, rows: Tensor, logits: list[Tensor], picked: Bool[Tensor, "pickers batch"]) -> Tensor:
    """Co-teaching Alg. 1 steps 7 and 8, JoCoR Eq. 6; both networks' losses are one sum."""
    task, config = run.task, run.config
    supervised = task.weights(rows) * cross_entropies(logits, task.targets(rows))
    if config.variant == "jocor":
        joint = joint_losses(logits[0], logits[1], supervised.sum(dim=0), config.agreement)
        return mean_of_picked(joint, picked[0], divide_twice=False)
    means = [mean_of_picked(supervised[number], picked[1 - number], config.divide_twice) for number in range(2)]
    return means[0] + means[1]


def _remember(run: _Run, held: _Epoch, rows: Tensor) -> None:
    at = rows.to(held.picked.device)
    run.task.remember(
        held.number,
        run.config.epochs,
        rows,
        selected=held.picked[at],
        predicted=held.predicted[at],
        loss=held.losses[:, at].mean(dim=0),
    )
