"""DivideMix: two networks; each splits the rows by loss for the other, which trains on them semi-supervised.

Li, Socher, Hoi: DivideMix: Learning with Noisy Labels as Semi-supervised Learning, ICLR 2020 (arXiv 2002.07394).
After a warm-up with cross-entropy, every epoch and for each network: a two-component Gaussian mixture over the
*other* network's losses gives w_i = p(row i is rightly labelled) (co-divide); rows with w_i >= p_threshold keep
their label, mixed with the prediction (co-refine); for the others both networks guess one (co-guess); MixMatch
trains on both. The prediction is the mean of the two networks' softmax.

Where the paper, the released code and good sense differ, a field of the config decides, and `mode` sets those that
the user leaves out:
                      paper            released           fixed
    unlabelled_loss   sum (Eq. 10)     mean               mean: the published lambda_u belong to it, K times smaller
    mixup_lambda      row (Sec. 3.2)   batch              batch
    class_prior       uniform          uniform            estimated: classes need not be balanced
    guess_with        running          batch              running: guesses leave the batch statistics alone
    monotone          false            false              true: the smallest losses are never the noisy ones
    repeat_unlabelled true             true               false: a few doubtful rows do not fill half of every batch
Besides: an empty (or nearly empty) labelled split is filled with the rows most probably clean, an empty unlabelled one
is left out of the loss; and nothing needs the true noise rate: lambda_u, p_threshold, the loss window and the
confidence penalty follow from its estimate unless they are set (`noise_rules`). Verified rows keep their label: w = 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from lnl_core.config import ModeSettings
from lnl_core.train import TRAINERS, noise_rules
from lnl_core.train.epochs import Record, train_epochs
from lnl_core.train.task import Trained, TrainTask, join_views
from lnl_core.training.gmm_split import Mixture, split_losses
from lnl_core.training.mean_record import MeanRecord, mean_over_networks
from lnl_core.training.memory import Memory, numbered
from lnl_core.training.method_settings import AutoCount, AutoShare, AutoWeight, replace_auto
from lnl_core.training.mixup import draw_lambda, mix
from lnl_core.training.ramp import linear_ramp
from lnl_core.training.row_batches import EndlessRows, shuffled_batches
from lnl_core.training.sgd_settings import SGDSettings
from lnl_core.training.sharpen import sharpen
from lnl_core.training.updates import MomentumSGD, momentum_sgd
from lnl_core.training.weighted_loss import weighted_cross_entropy

NAME = "divide_mix"
MODES: dict[str, dict[str, Any]] = {
    "paper": {
        "unlabelled_loss": "sum",
        "mixup_lambda": "row",
        "class_prior": "uniform",
        "guess_with": "running",
        "repeat_unlabelled": True,
        "monotone": False,
    },
    "released": {
        "unlabelled_loss": "mean",
        "mixup_lambda": "batch",
        "class_prior": "uniform",
        "guess_with": "batch",
        "repeat_unlabelled": True,
        "monotone": False,
    },
    "fixed": {
        "unlabelled_loss": "mean",
        "mixup_lambda": "batch",
        "class_prior": "estimated",
        "guess_with": "running",
        "repeat_unlabelled": False,
        "monotone": True,
    },
}


class DivideMixConfig(ModeSettings, SGDSettings):
    """Defaults: the paper's CIFAR-10 settings (Sec. 4.2), mode `fixed`."""

    modes = MODES

    mode: Literal["paper", "released", "fixed"] = "fixed"
    warmup_epochs: int = Field(default=10, ge=1)  # 10 on CIFAR-10, 30 on CIFAR-100, 5 from a SimCLR encoder (C2D)
    confidence_penalty: bool | Literal["auto"] = "auto"  # warm-up: minus the entropy; auto: under asymmetric noise
    batch_size: int = Field(default=64, ge=2)  # labelled and unlabelled rows each; warm-up takes twice as many
    schedule: Literal["cosine", "step"] = "step"  # by 10 half-way (150 of 300)
    p_threshold: AutoShare = "auto"  # w_i from which a row keeps its label: 0.5, 0.6 at 90 % noise
    gmm_max_iter: int = Field(default=10, ge=1)  # these three: the released program's mixture
    gmm_tol: float = Field(default=1e-2, gt=0)
    gmm_reg_covar: float = Field(default=5e-4, gt=0)
    loss_window: AutoCount = "auto"  # w_i from the mean loss of so many last epochs: 1, 5 at 90 % noise
    views: int = Field(default=2, ge=1)  # M, augmentations that are averaged
    temperature: float = Field(default=0.5, gt=0)  # T, sharpening
    alpha: float = Field(default=4.0, gt=0)  # mixup's Beta; 0.2 for small networks on 8 px, 4 costs them 2 points
    lambda_u: AutoWeight = "auto"  # weight of the unlabelled loss; auto: from the estimated noise
    lambda_u_ramp: float = Field(default=16, ge=0)  # epochs after warm-up in which it rises from 0
    lambda_r: float = Field(default=1.0, ge=0)  # weight of the class-prior term
    unlabelled_loss: Literal["sum", "mean"]  # squared error summed (Eq. 10) or averaged over the classes
    mixup_lambda: Literal["row", "batch"]  # one mixing weight a row, or one for the whole batch
    class_prior: Literal["uniform", "estimated"]  # what the mean prediction is drawn to
    guess_with: Literal["running", "batch"]  # batch-norm statistics behind the training network's own guesses
    repeat_unlabelled: bool  # always as many unlabelled as labelled rows, or at most one pass over them an epoch
    monotone: bool  # no row may be called noisy for too small a loss (training/gmm_split)


@dataclass(frozen=True, kw_only=True)
class Derived:
    """The settings that depend on the noise, as set or as the estimate has them."""

    lambda_u: float
    p_threshold: float
    loss_window: int
    confidence_penalty: bool


@dataclass(frozen=True, kw_only=True)
class _Run:
    task: TrainTask
    config: DivideMixConfig
    derived: Derived
    networks: list[nn.Module]  # two
    updates: list[MomentumSGD]
    memory: Memory  # losses: [2, rows] an epoch, at most `loss_window` of them
    prior: Tensor  # [classes] on the device


@dataclass(frozen=True, kw_only=True)
class Split:
    """One network's training rows of an epoch, as the other network divides them."""

    labelled: Int[Tensor, " labelled"]  # row numbers, at least two
    unlabelled: Int[Tensor, " unlabelled"]  # row numbers, may be empty
    clean: Float[Tensor, " rows"]  # w_i of every row of the task; 0 where the row sits the epoch out


@TRAINERS.register(
    NAME,
    config=DivideMixConfig,
    summary="two networks split the rows by loss for each other; semi-supervised on the doubtful ones",
    source="Li, Socher, Hoi: DivideMix, ICLR 2020, arXiv 2002.07394",
)
def train_divide_mix(task: TrainTask, config: DivideMixConfig) -> Trained:
    """Train two networks; holds both with their momenta, the best epoch's weights, and `loss_window` losses a row."""
    networks = [task.new_network(task.seed(NAME, "weights", number)) for number in range(2)]
    updates = [momentum_sgd(network, task.runtime, config) for network in networks]
    run = _Run(
        task=task,
        config=config,
        derived=derive(task, config),
        networks=networks,
        updates=updates,
        memory=Memory(losses=[]),
        prior=task.prior(uniform=config.class_prior == "uniform"),
    )
    return train_epochs(
        task,
        method=NAME,
        epochs=config.epochs,
        parts={**numbered(network=networks, updates=updates), "memory": run.memory},
        predictors=networks,
        epoch=lambda number: _epoch(run, number),
        metrics=lambda: {"derived": vars(run.derived)},
    )


def derive(task: TrainTask, config: DivideMixConfig) -> Derived:
    """Replace `auto` by what follows from the noise estimate."""
    automatic = {
        "lambda_u": noise_rules.lambda_u(task.noise),
        "p_threshold": noise_rules.p_threshold(task.noise),
        "loss_window": noise_rules.loss_window(task.noise),
        "confidence_penalty": noise_rules.confidence_penalty(task.noise),
    }
    return Derived(**replace_auto(config, automatic))


def sharpened_labels(
    targets: Float[Tensor, "batch classes"],
    clean: Float[Tensor, " batch"],
    predictions: Float[Tensor, "views batch classes"],
    temperature: float,
) -> Float[Tensor, "batch classes"]:
    """Co-refine, Eqs. 3 and 4: w * label + (1 - w) * mean prediction over the views, sharpened."""
    weight = clean[:, None]
    return sharpen(weight * targets + (1 - weight) * predictions.mean(dim=0), temperature)


def guessed_labels(
    own: Float[Tensor, "views batch classes"], other: Float[Tensor, "views batch classes"], temperature: float
) -> Float[Tensor, "batch classes"]:
    """Co-guess, Eq. 5 and sharpening: the mean of both networks' predictions over all views."""
    return sharpen((own.mean(dim=0) + other.mean(dim=0)) / 2, temperature)


def prior_penalty(probabilities: Float[Tensor, "batch classes"], prior: Float[Tensor, " classes"]) -> Float[Tensor, ""]:
    """Eq. 11: KL(prior || mean prediction), nats. A class that the prior lacks adds nothing."""
    mean = probabilities.mean(dim=0).clamp_min(1e-8)
    penalty: Tensor = (torch.special.xlogy(prior, prior) - prior * mean.log()).sum()
    return penalty


def unlabelled_error(
    probabilities: Float[Tensor, "batch classes"],
    targets: Float[Tensor, "batch classes"],
    over_classes: Literal["sum", "mean"],
) -> Float[Tensor, ""]:
    """Eq. 10: squared error, averaged over the rows, and summed or averaged over the classes."""
    squares = (probabilities - targets).square()
    return (squares.sum(dim=1) if over_classes == "sum" else squares.mean(dim=1)).mean()


def divide(clean: Float[np.ndarray, " rows"], threshold: float, least: int) -> Bool[np.ndarray, " rows"]:
    """Which rows keep their label: w >= threshold, or where these are fewer than `least`, the `least` cleanest."""
    keeps = clean >= threshold
    if keeps.sum() < min(least, len(clean)):
        keeps = np.zeros(len(clean), dtype=bool)
        keeps[np.argsort(-clean, kind="stable")[:least]] = True
    return keeps


def _epoch(run: _Run, epoch: int) -> Record:
    """One epoch of both networks; its generators depend on the epoch alone, so a resumed run draws the same."""
    rows = run.task.epoch_rows(run.task.generator(NAME, "rows", epoch))
    if epoch < run.config.warmup_epochs:
        return {"loss": float(np.mean([_warm_up(run, rows, epoch, number) for number in range(2)]))}
    mixtures, predicted = _mixtures(run, rows, epoch)
    records = []
    for number in range(2):
        split = _split(run, rows, mixtures[1 - number])  # co-divide: the other network's view
        if number == 0:
            _remember(run, rows, mixtures[1], split, predicted[1], epoch)
        records.append(_semi_supervised(run, split, epoch, number))
    return mean_over_networks(records)


def _warm_up(run: _Run, rows: Tensor, epoch: int, number: int) -> float:
    task, config = run.task, run.config
    generator = task.generator(NAME, epoch, number)
    network = run.networks[number].train()
    batches = shuffled_batches(rows, 2 * config.batch_size, generator)
    sums = MeanRecord(len(batches))
    for step, batch in enumerate(batches):
        [images] = task.weak(batch, generator)
        logits = task.forward(network, images)
        loss = weighted_cross_entropy(logits, task.targets(batch), task.weights(batch))
        if run.derived.confidence_penalty:  # minus the entropy, Eq. 6
            log_probabilities = logits.log_softmax(dim=1)
            loss = loss + (log_probabilities.exp() * log_probabilities).sum(dim=1).mean()
        run.updates[number].step(loss, config.lr_at(epoch, step / len(batches)))
        sums.add(loss=loss)
    return sums.means()["loss"]


def _mixtures(run: _Run, rows: Tensor, epoch: int) -> tuple[list[Mixture], list[Tensor]]:
    """The split of each network's losses, averaged over the last `loss_window` epochs; and the classes it predicts.

    Where an epoch sees a sample of the rows, there is no last epoch to average over.
    """
    task, config = run.task, run.config
    found = [_look(task, network, rows) for network in run.networks]
    losses = torch.stack([scaled for scaled, _ in found])
    window = run.derived.loss_window if len(rows) == len(task.label) else 1
    run.memory.losses = [*run.memory.losses, losses][-window:]
    mean = torch.stack(run.memory.losses).mean(dim=0).numpy()
    mixtures = [
        split_losses(
            mean[number],
            random_state=task.seed(NAME, "mixture", epoch, number),
            max_iter=config.gmm_max_iter,
            tol=config.gmm_tol,
            reg_covar=config.gmm_reg_covar,
            monotone=config.monotone,
        )
        for number in range(2)
    ]
    return mixtures, [predicted for _, predicted in found]


def _look(
    task: TrainTask, network: nn.Module, rows: Int[Tensor, " rows"]
) -> tuple[Float[Tensor, " rows"], Int[Tensor, " rows"]]:
    """Of the plain images: losses scaled to 0..1 over the rows, and predicted classes."""
    found, predicted = [], []
    for chunk, logits in task.row_chunks(network, rows):
        found.append(functional.cross_entropy(logits, task.targets(chunk), reduction="none").cpu())
        predicted.append(logits.argmax(dim=1).cpu())
    losses = torch.cat(found)
    return (losses - losses.min()) / (losses.max() - losses.min()).clamp_min(1e-12), torch.cat(predicted)


def _split(run: _Run, rows: Tensor, mixture: Mixture) -> Split:
    known = run.task.known(rows).numpy()
    w = np.where(known, 1.0, mixture.clean)
    keeps = divide(w, run.derived.p_threshold, run.config.batch_size) | known
    clean = torch.zeros(len(run.task.label))
    clean[rows] = torch.from_numpy(w).float()
    kept = torch.from_numpy(keeps)
    return Split(labelled=rows[kept], unlabelled=rows[~kept], clean=clean)


def _remember(run: _Run, rows: Tensor, mixture: Mixture, split: Split, predicted: Tensor, epoch: int) -> None:
    selected = torch.zeros(len(run.task.label), dtype=torch.bool)
    selected[split.labelled] = True
    run.task.remember(
        epoch,
        run.config.epochs,
        rows,
        mixture=mixture.parameters,
        selected=selected[rows],
        clean=split.clean[rows],
        predicted=torch.where(selected[rows], run.task.label[rows], predicted),
        loss=mixture.values,
    )


def _semi_supervised(run: _Run, split: Split, epoch: int, number: int) -> Record:
    """One epoch of MixMatch for one network: as many steps as the labelled rows have batches."""
    task, config = run.task, run.config
    generator = task.generator(NAME, epoch, number)
    batches = shuffled_batches(split.labelled, config.batch_size, generator)
    guessed = config.batch_size
    if not config.repeat_unlabelled:
        guessed = min(guessed, math.ceil(len(split.unlabelled) / len(batches)))
    unlabelled = EndlessRows(split.unlabelled, generator)
    sums = MeanRecord(len(batches))
    for step, rows in enumerate(batches):
        share = step / len(batches)
        weight = run.derived.lambda_u * linear_ramp(epoch + share, config.warmup_epochs, config.lambda_u_ramp)
        terms = _mixmatch(run, number, split, rows, unlabelled.take(guessed), generator)
        loss = terms["labelled_loss"] + weight * terms["unlabelled_loss"] + config.lambda_r * terms["prior_penalty"]
        run.updates[number].step(loss, config.lr_at(epoch, share))
        sums.add(loss=loss, **terms)
    rows_seen = len(split.labelled) + len(split.unlabelled)
    return {**sums.means(), "labelled_share": len(split.labelled) / rows_seen}


def _mixmatch(
    run: _Run, number: int, split: Split, labelled: Tensor, unlabelled: Tensor, generator: torch.Generator
) -> Mapping[str, Tensor]:
    """The three loss terms of one step."""
    task, config = run.task, run.config
    network = run.networks[number]
    x = task.weak(labelled, generator, config.views)
    u = task.weak(unlabelled, generator, config.views)
    refined, guessed = _labels(run, number, split, labelled, x, u)
    images = join_views([*x, *u])
    targets = torch.cat([refined] * config.views + [guessed] * config.views)
    lam = draw_lambda(len(images) if config.mixup_lambda == "row" else 1, config.alpha, generator)
    images, targets = mix(images, targets, lam, generator)
    logits = task.forward(network.train(), images)
    weights = task.weights(labelled).repeat(config.views)
    return _terms(logits, targets, weights, run.prior, config)


def _labels(
    run: _Run, number: int, split: Split, labelled: Tensor, x: list[Tensor], u: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Co-refined labels of the labelled rows, co-guessed ones of the others."""
    task, temperature = run.task, run.config.temperature
    network, other = run.networks[number], run.networks[1 - number]
    network.train(run.config.guess_with == "batch")
    other.eval()
    own_x, own_u = _predict_both(task, network, x, u)
    clean = split.clean[labelled].to(task.runtime.device)
    refined = sharpened_labels(task.targets(labelled), clean, own_x, temperature)
    known = task.known(labelled).to(task.runtime.device)
    refined = torch.where(known[:, None], task.targets(labelled), refined)
    return refined, guessed_labels(own_u, task.predict(other, u), temperature)


def _predict_both(
    task: TrainTask, network: nn.Module, x: list[Tensor], u: list[Tensor]
) -> tuple[Float[Tensor, "views labelled classes"], Float[Tensor, "views unlabelled classes"]]:
    """The network's probabilities of both kinds of rows: one pass where rows do not meet in batch statistics."""
    if network.training or not len(u[0]):
        return task.predict(network, x), task.predict(network, u)
    both = task.predict(network, [torch.cat(pair) for pair in zip(x, u, strict=True)])
    return both[:, : len(x[0])], both[:, len(x[0]) :]


def _terms(
    logits: Tensor, targets: Tensor, weights: Tensor, prior: Tensor, config: DivideMixConfig
) -> Mapping[str, Tensor]:
    probabilities, labelled = logits.softmax(dim=1), len(weights)
    unlabelled = torch.zeros((), device=logits.device)
    if labelled < len(logits):
        unlabelled = unlabelled_error(probabilities[labelled:], targets[labelled:], config.unlabelled_loss)
    return {
        "labelled_loss": weighted_cross_entropy(logits[:labelled], targets[:labelled], weights),
        "unlabelled_loss": unlabelled,
        "prior_penalty": prior_penalty(probabilities, prior),
    }
