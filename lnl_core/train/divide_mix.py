"""DivideMix: two networks; each splits the rows by loss for the other, which trains on them semi-supervised.

Li, Socher, Hoi: DivideMix: Learning with Noisy Labels as Semi-supervised Learning, ICLR 2020 (arXiv 2002.07394).
After a warm-up with cross-entropy, every epoch and for each network: a two-component Gaussian mixture over the
*other* network's losses gives w_i = p(row i is rightly labelled) (co-divide); rows with w_i >= p_threshold keep
their label, mixed with the prediction (co-refine); for the others both networks guess one (co-guess); MixMatch
trains on both. The prediction is the mean of the two networks' softmax.

Where the paper, the released code and good sense differ, a field of the config decides, and `mode` sets those that
the user leaves out:
                      paper            reference          fixed
    unlabelled_loss   sum (Eq. 10)     mean               mean: the published lambda_u belong to it, K times smaller
    mixup_lambda      row (Sec. 3.2)   batch              batch
    class_prior       uniform          uniform            observed: classes need not be balanced
    guess_with        running          batch              running: guesses leave the batch statistics alone
    monotone          false            false              true: the smallest losses are never the noisy ones
    repeat_unlabelled true             true               false: a few doubtful rows do not fill half of every batch
Besides: an empty (or nearly empty) labelled split is filled with the rows most probably clean, an empty unlabelled one
is left out of the loss; and nothing needs the true noise rate: see `automatic_lambda_u`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from lnl_core.blocks.best_epoch import BestEpoch, copy_weights
from lnl_core.blocks.checkpoint import load_checkpoint, save_checkpoint
from lnl_core.blocks.gmm_split import clean_probability
from lnl_core.blocks.mixup import draw_lambda, mix
from lnl_core.blocks.momentum_sgd import MomentumSGD
from lnl_core.blocks.network_input import as_input
from lnl_core.blocks.ramp import linear_ramp
from lnl_core.blocks.row_batches import endless_rows, shuffled_batches
from lnl_core.blocks.schedule import cosine_lr, step_lr
from lnl_core.blocks.sharpen import sharpen
from lnl_core.blocks.weak_batch import weak_views
from lnl_core.config import ConfigError, Settings
from lnl_core.progress import progress_bar
from lnl_core.runtime import seed_for
from lnl_core.train import TRAINERS
from lnl_core.train.held_out import score_held_out, score_record
from lnl_core.train.task import Trained, TrainTask

MODES: dict[str, dict[str, Any]] = {
    "paper": {
        "unlabelled_loss": "sum",
        "mixup_lambda": "row",
        "class_prior": "uniform",
        "guess_with": "running",
        "repeat_unlabelled": True,
        "monotone": False,
    },
    "reference": {
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
        "class_prior": "observed",
        "guess_with": "running",
        "repeat_unlabelled": False,
        "monotone": True,
    },
}
EVALUATION_ROWS = 512  # rows a forward pass when the losses of all rows are taken
# automatic_lambda_u: (noise share up to which, lambda_u). The paper's table 6 in shares of wrong rows, cut half-way.
FEW_CLASSES = ((0.315, 0.0), (0.765, 25.0), (1.0, 50.0))  # CIFAR-10: 0 at 20 % (18 % wrong), 25 at 50 and 80, 50 at 90
MANY_CLASSES = ((0.35, 25.0), (1.0, 150.0))  # CIFAR-100: 25 at 20 %, else 150
MANY = 50  # classes from which the second row holds


class DivideMixConfig(Settings):
    """Defaults: the paper's CIFAR-10 settings (Sec. 4.2), mode `fixed`."""

    mode: Literal["paper", "reference", "fixed"] = "fixed"
    epochs: int = Field(default=300, ge=1)
    warmup_epochs: int = Field(default=10, ge=1)  # 10 on CIFAR-10, 30 on CIFAR-100, 5 from a SimCLR encoder (C2D)
    confidence_penalty: bool = False  # warm-up: minus the entropy, against the over-confidence of asymmetric noise
    batch_size: int = Field(default=64, ge=2)  # labelled and unlabelled rows each; warm-up takes twice as many
    lr: float = Field(default=0.02, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    schedule: Literal["step", "cosine"] = "step"
    milestones: tuple[int, ...] | None = None  # step: epochs after which lr falls by 10; none: half-way (150 of 300)
    p_threshold: float = Field(default=0.5, ge=0, le=1)  # w_i from which a row keeps its label; 0.6 at 90 % noise
    gmm_max_iter: int = Field(default=10, ge=1)  # these three: the reference's mixture
    gmm_tol: float = Field(default=1e-2, gt=0)
    gmm_reg_covar: float = Field(default=5e-4, gt=0)
    loss_window: int = Field(default=1, ge=1)  # w_i from the mean loss of so many last epochs; 5 at 90 % noise
    views: int = Field(default=2, ge=1)  # M, augmentations that are averaged
    temperature: float = Field(default=0.5, gt=0)  # T, sharpening
    alpha: float = Field(default=4.0, gt=0)  # mixup's Beta; 0.2 for small networks on 8 px, 4 costs them 2 points
    lambda_u: float | Literal["auto"] = "auto"  # weight of the unlabelled loss; auto: from the estimated noise
    lambda_u_ramp: float = Field(default=16, ge=0)  # epochs after warm-up in which it rises from 0
    lambda_r: float = Field(default=1.0, ge=0)  # weight of the class-prior term
    unlabelled_loss: Literal["sum", "mean"]  # squared error summed (Eq. 10) or averaged over the classes
    mixup_lambda: Literal["row", "batch"]  # one mixing weight a row, or one for the whole batch
    class_prior: Literal["uniform", "observed"]  # what the mean prediction is drawn to
    guess_with: Literal["running", "batch"]  # batch-norm statistics behind the training network's own guesses
    repeat_unlabelled: bool  # always as many unlabelled as labelled rows, or at most one pass over them an epoch
    monotone: bool  # no row may be called noisy for too small a loss (blocks/gmm_split)

    @model_validator(mode="before")
    @classmethod
    def _fill_from_mode(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {**MODES.get(values.get("mode", "fixed"), {}), **values}

    @model_validator(mode="after")
    def _check_lambda_u(self) -> DivideMixConfig:
        if self.lambda_u != "auto" and self.lambda_u < 0:
            raise ValueError("lambda_u must be 'auto' or at least 0")
        return self


@dataclass(kw_only=True)
class _Run:
    networks: list[nn.Module]  # two
    optimizers: list[MomentumSGD]
    prior: Tensor  # [classes] on the device
    best: BestEpoch = field(default_factory=BestEpoch)
    curve: list[dict[str, int | float]] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)  # [2, rows] an epoch, at most `loss_window` of them
    noise: float | None = None  # estimated share of wrong labels, once, after the warm-up
    lambda_u: float | None = None

    def state(self) -> dict[str, Any]:
        return {
            "networks": [network.state_dict() for network in self.networks],
            "optimizers": [optimizer.state() for optimizer in self.optimizers],
            "best": self.best.state(),
            "curve": self.curve,
            "losses": self.losses,
            "noise": self.noise,
            "lambda_u": self.lambda_u,
        }

    def load(self, state: dict[str, Any]) -> None:
        for network, weights in zip(self.networks, state["networks"], strict=True):
            network.load_state_dict(weights)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load(saved)
        self.best.load(state["best"])
        self.curve, self.losses = state["curve"], state["losses"]
        self.noise, self.lambda_u = state["noise"], state["lambda_u"]


@dataclass(frozen=True, kw_only=True)
class Split:
    """One network's training rows of an epoch, as the other network divides them."""

    labelled: Tensor  # row numbers, at least two
    unlabelled: Tensor  # row numbers, may be empty
    clean: Tensor  # [rows] w_i of every row


@TRAINERS.register(
    "divide_mix",
    config=DivideMixConfig,
    summary="two networks split the rows by loss for each other; semi-supervised on the doubtful ones",
    source="Li, Socher, Hoi: DivideMix, ICLR 2020, arXiv 2002.07394",
)
def train_divide_mix(task: TrainTask, config: DivideMixConfig) -> Trained:
    """Train two networks; holds both with their momenta, the best epoch's weights, and `loss_window` losses a row."""
    run = _start(task, config)
    saved = load_checkpoint(task.checkpoint, task.fingerprint)
    if saved is not None:
        run.load(saved)
    with progress_bar(f"DivideMix ({task.purpose})", config.epochs, "epochs") as advance:
        advance(len(run.curve))
        for epoch in range(len(run.curve), config.epochs):
            record = _epoch(run, task, config, epoch)
            _check_finite(record, config, epoch)
            score = score_held_out(task.held_out, run.networks, task.runtime)
            run.curve.append({"epoch": epoch + 1, **record, **score_record(score)})
            run.best.offer(epoch + 1, score, run.networks)
            save_checkpoint(task.checkpoint, task.fingerprint, run.state())
            advance(note=f"loss {record['loss']:.3f}")
    return Trained(
        best=run.best.weights,
        last=copy_weights(run.networks),
        best_epoch=run.best.epoch,
        curve=tuple(run.curve),
        metrics={"final_loss": run.curve[-1]["loss"], "noise_estimate": run.noise, "lambda_u": run.lambda_u},
    )


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


def automatic_lambda_u(noise: float, classes: int) -> float:
    """The paper's lambda_u at the nearest noise share of its tables: CIFAR-10's below `MANY` classes, or CIFAR-100's.

    `noise` is the share of rows that the mixture calls wrongly labelled at the first co-divide.
    """
    table = MANY_CLASSES if classes >= MANY else FEW_CLASSES
    return next(value for bound, value in table if noise <= bound)


def divide(clean: Float[np.ndarray, " rows"], threshold: float, least: int) -> Bool[np.ndarray, " rows"]:
    """Which rows keep their label: w >= threshold, or where these are fewer than `least`, the `least` cleanest."""
    keeps = clean >= threshold
    if keeps.sum() < min(least, len(clean)):
        keeps = np.zeros(len(clean), dtype=bool)
        keeps[np.argsort(-clean, kind="stable")[:least]] = True
    return keeps


def _start(task: TrainTask, config: DivideMixConfig) -> _Run:
    networks, optimizers = [], []
    for number in range(2):
        seed = seed_for(task.runtime.seed, "divide_mix", task.purpose, "weights", number)
        network = task.new_network(seed)
        networks.append(network)
        optimizers.append(
            MomentumSGD(network, task.runtime, momentum=config.momentum, weight_decay=config.weight_decay)
        )
    return _Run(networks=networks, optimizers=optimizers, prior=_prior(task, config))


def _prior(task: TrainTask, config: DivideMixConfig) -> Tensor:
    if config.class_prior == "uniform":
        prior = torch.full((task.classes,), 1 / task.classes)
    elif task.soft_label is not None:
        prior = task.soft_label.mean(dim=0)
    else:
        prior = torch.bincount(task.label, minlength=task.classes) / len(task.label)
    return prior.float().to(task.runtime.device)


def _epoch(run: _Run, task: TrainTask, config: DivideMixConfig, epoch: int) -> dict[str, float]:
    """One epoch of both networks; its generators depend on the epoch alone, so a resumed run draws the same."""
    if epoch < config.warmup_epochs:
        losses = [_warm_up(run, task, config, epoch, number) for number in range(2)]
        return {"loss": float(np.mean(losses))}
    clean = _clean_probabilities(run, task, config, epoch)
    if run.lambda_u is None:
        run.noise = float(np.mean([(w < 0.5).mean() for w in clean]))
        run.lambda_u = automatic_lambda_u(run.noise, task.classes) if config.lambda_u == "auto" else config.lambda_u
    records = []
    for number in range(2):
        w = clean[1 - number]  # co-divide: the other network's view
        keeps = divide(w, config.p_threshold, config.batch_size)
        split = Split(
            labelled=torch.from_numpy(np.flatnonzero(keeps)),
            unlabelled=torch.from_numpy(np.flatnonzero(~keeps)),
            clean=torch.from_numpy(w).float(),
        )
        records.append(_semi_supervised(run, task, config, epoch, number, split))
    return {name: float(np.mean([record[name] for record in records])) for name in records[0]}


def _warm_up(run: _Run, task: TrainTask, config: DivideMixConfig, epoch: int, number: int) -> float:
    generator = task.runtime.generator("divide_mix", task.purpose, epoch, number)
    network = run.networks[number].train()
    batches = shuffled_batches(torch.arange(len(task.label)), 2 * config.batch_size, generator)
    losses = []
    for step, rows in enumerate(batches):
        [images] = weak_views(task.pixels, rows, generator, views=1, flip=task.flip, device=task.runtime.device)
        with task.runtime.autocast():
            logits = network(images)
        loss = functional.cross_entropy(logits.float(), task.targets(rows))
        if config.confidence_penalty:  # minus the entropy, Eq. 6
            log_probabilities = logits.float().log_softmax(dim=1)
            loss = loss + (log_probabilities.exp() * log_probabilities).sum(dim=1).mean()
        run.optimizers[number].step(loss, learning_rate(config, epoch, step / len(batches)))
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())


def _clean_probabilities(
    run: _Run, task: TrainTask, config: DivideMixConfig, epoch: int
) -> list[Float[np.ndarray, " rows"]]:
    """w_i of each network, from its losses averaged over the last `loss_window` epochs."""
    losses = torch.stack([_row_losses(network, task) for network in run.networks])
    run.losses = [*run.losses, losses][-config.loss_window :]
    mean = torch.stack(run.losses).mean(dim=0).numpy()
    return [
        clean_probability(
            mean[number],
            random_state=seed_for(task.runtime.seed, "divide_mix", task.purpose, "mixture", epoch, number) % 2**32,
            max_iter=config.gmm_max_iter,
            tol=config.gmm_tol,
            reg_covar=config.gmm_reg_covar,
            monotone=config.monotone,
        )
        for number in range(2)
    ]


@torch.no_grad()
def _row_losses(network: nn.Module, task: TrainTask) -> Float[Tensor, " rows"]:
    """Cross-entropy of every row's plain image with its label, on the CPU, scaled to 0..1 over the rows."""
    network.eval()
    found = []
    for rows in torch.arange(len(task.label)).split(EVALUATION_ROWS):  # type: ignore[no-untyped-call]
        images = as_input(task.pixels[rows.to(task.pixels.device)], task.runtime.device)
        with task.runtime.autocast():
            logits = network(images)
        found.append(functional.cross_entropy(logits.float(), task.targets(rows), reduction="none").cpu())
    losses = torch.cat(found)
    return (losses - losses.min()) / (losses.max() - losses.min()).clamp_min(1e-12)


def _semi_supervised(
    run: _Run, task: TrainTask, config: DivideMixConfig, epoch: int, number: int, split: Split
) -> dict[str, float]:
    """One epoch of MixMatch for one network: as many steps as the labelled rows have batches."""
    generator = task.runtime.generator("divide_mix", task.purpose, epoch, number)
    batches = shuffled_batches(split.labelled, config.batch_size, generator)
    guessed = config.batch_size
    if not config.repeat_unlabelled:
        guessed = min(guessed, math.ceil(len(split.unlabelled) / len(batches)))
    unlabelled = _unlabelled_batches(split.unlabelled, guessed, generator)
    assert run.lambda_u is not None
    sums: dict[str, Tensor] = {}
    for step, rows in enumerate(batches):
        when = epoch + step / len(batches)
        weight = run.lambda_u * linear_ramp(when, config.warmup_epochs, config.lambda_u_ramp)
        terms = _mixmatch(run, task, config, number, split, rows, next(unlabelled), generator)
        loss = terms["labelled_loss"] + weight * terms["unlabelled_loss"] + config.lambda_r * terms["prior_penalty"]
        run.optimizers[number].step(loss, learning_rate(config, epoch, step / len(batches)))
        for name, value in {"loss": loss, **terms}.items():
            sums[name] = sums.get(name, torch.zeros((), device=value.device)) + value.detach() / len(batches)
    record = {name: float(value) for name, value in sums.items()}
    return {**record, "labelled_share": len(split.labelled) / len(split.clean)}


def _unlabelled_batches(rows: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """For ever: `size` unlabelled rows, or none where there are none."""
    endless = endless_rows(rows, generator) if len(rows) else iter(())
    while True:
        yield torch.tensor(list(islice(endless, size)), dtype=torch.int64)


def _mixmatch(
    run: _Run,
    task: TrainTask,
    config: DivideMixConfig,
    number: int,
    split: Split,
    labelled: Tensor,
    unlabelled: Tensor,
    generator: torch.Generator,
) -> Mapping[str, Tensor]:
    """The three loss terms of one step."""
    network, other = run.networks[number], run.networks[1 - number]
    device = task.runtime.device
    x, u = (
        weak_views(task.pixels, rows, generator, views=config.views, flip=task.flip, device=device)
        for rows in (labelled, unlabelled)
    )
    network.train(config.guess_with == "batch")
    other.eval()
    refined = sharpened_labels(
        task.targets(labelled), split.clean[labelled].to(device), _predict(network, x, task), config.temperature
    )
    guessed = guessed_labels(_predict(network, u, task), _predict(other, u, task), config.temperature)
    images = torch.cat([*x, *u]).contiguous(memory_format=torch.channels_last)
    targets = torch.cat([refined] * config.views + [guessed] * config.views)
    lam = draw_lambda(len(images) if config.mixup_lambda == "row" else 1, config.alpha, generator)
    images, targets = mix(images, targets, lam, generator)
    network.train()
    with task.runtime.autocast():
        logits = network(images)
    return _terms(logits.float(), targets, len(labelled) * config.views, run.prior, config)


def _terms(
    logits: Tensor, targets: Tensor, labelled: int, prior: Tensor, config: DivideMixConfig
) -> Mapping[str, Tensor]:
    probabilities = logits.softmax(dim=1)
    nothing = torch.zeros((), device=logits.device)
    unlabelled = labelled < len(logits)
    return {
        "labelled_loss": functional.cross_entropy(logits[:labelled], targets[:labelled]),
        "unlabelled_loss": unlabelled_error(probabilities[labelled:], targets[labelled:], config.unlabelled_loss)
        if unlabelled
        else nothing,
        "prior_penalty": prior_penalty(probabilities, prior),
    }


@torch.no_grad()
def _predict(network: nn.Module, views: list[Tensor], task: TrainTask) -> Float[Tensor, "views batch classes"]:
    """Probabilities of each view; one forward pass a view, as batch statistics must not mix them."""
    if not len(views[0]):
        return torch.zeros(len(views), 0, task.classes, device=task.runtime.device)
    with task.runtime.autocast():
        logits = torch.stack([network(view) for view in views])
    return logits.float().softmax(dim=2)


def _check_finite(record: Mapping[str, float], config: DivideMixConfig, epoch: int) -> None:
    if not np.isfinite(record["loss"]):
        raise ConfigError(
            f"train.divide_mix.lr = {config.lr}: the loss became {record['loss']} in epoch {epoch + 1}; lower lr"
        )


def learning_rate(config: DivideMixConfig, epoch: int, share: float) -> float:
    """The rate at `share` (0..1) of an epoch; `step` changes it at epochs only."""
    if config.schedule == "step":
        milestones = (config.epochs // 2,) if config.milestones is None else config.milestones
        return step_lr(epoch, config.lr, milestones)
    scale = 10_000  # cosine_lr counts whole steps; the epochs of the two phases have different numbers of them
    return cosine_lr(round((epoch + share) * scale), config.epochs * scale, config.lr)
