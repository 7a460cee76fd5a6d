"""ProMix: select as many clean rows as can be had, and learn from the rest without believing one's own guesses.

Xiao, Dong, Wang, Feng, Wu, Chen, Zhao: ProMix: Combating Label Noise via Maximizing Clean Sample Utility, IJCAI 2023
(arXiv 2207.10276). Two networks, each with a second head on its encoder. After a warm-up with cross-entropy, before
every epoch, each network selects the rows that keep their label: of each observed class those with the smallest losses
(CSS), and those of which it is sure that the label is right (MHCS, Eq. 3); late in training also rows of which both
networks are sure, of the same class, with that class (LGA, Eq. 8). The main head learns from selected rows alone and
gives the others pseudo-labels, which only the auxiliary head learns from (confirmation bias). Pseudo-labels and losses
are debiased by pi, the moving mean of the predictions (Eqs. 5 to 7), one for selected rows and one for the others.
    L = L_cls + gamma (L_cr + L_mix)   (Eq. 9)
The prediction is the mean of the two main heads' softmax; auxiliary heads are thrown away.

What `mode` sets unless the user does:
                      paper, released     fixed
    class_sizes       even: rho n / C     estimated: rho n times the class's share of the right labels (noise estimate)
    expected_classes  uniform: log pi     estimated: log(pi / prior), so that a rare class is not blown up: its pi is
                                          small because it is rare, and only what differs from the prior is a bias

Constants that depend on the data follow from it where they are `auto`:
    rho               from the estimated noise rate (noise_rules.clean_ratio)
    tau, alpha        .99 and .8 (CIFAR-10); .95 and .5 from 50 classes (CIFAR-100)
    warmup_epochs     10; 30 from 50 classes; at most a quarter of the epochs
    ramp_epochs       a twelfth of the epochs (50 of 600), from the end of the warm-up
    pi_momentum       a memory of .085 of all steps (.9999 of 600 x 196): over a short run .9999 would never move
Re-derived, where the source leaves it open: both networks see the same batches and views (half the augmentation) and
each selects for itself; rows are drawn from all rows, selected or not. With y the label of a selected row, else
its sharpened pseudo-label, and each loss the debiased one (Eq. 5) with the pi of its row's group,
    main head         the mean over the batch's selected rows,
    auxiliary head    the sum over all rows, the not selected ones times lambda_u, over the batch's size;
L_cls takes them on the weak view, L_cr on a strong view, L_mix on mixup and FMix of the weak view (their mean), whose
partners come from the same group, so that the main head meets no pseudo-label there either. Both rise by one ramp:
gamma and lambda_u. LGA is decided by the evaluation that selects, and its limit (90 % of a batch) takes the surest.
A step is 2 x 4 forward and backward passes of a batch, and an epoch 8 of cross-entropy's and two evaluations of its
rows: 8 2/3. Each of the four views has its own batch statistics, or all four together (`joined_views`): what that does
to the accuracy is lost in the noise, and on a CPU the larger pass is the slower one.
Verified rows are selected always and never relabelled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from lnl_core.config import ModeSettings
from lnl_core.runtime import drawn_from
from lnl_core.train import TRAINERS, noise_rules
from lnl_core.train.epochs import Record, train_epochs
from lnl_core.train.pro_mix_losses import (
    class_margins,
    debiased_labels,
    debiased_loss,
    partners_within,
    updated_shares,
)
from lnl_core.train.pro_mix_selection import (
    Seen,
    agreed,
    base_sizes,
    even_shares,
    matched,
    right_shares,
    small_losses,
    within_limit,
)
from lnl_core.train.task import Trained, TrainTask, join_views
from lnl_core.training.fmix import draw_masks
from lnl_core.training.mean_record import MeanRecord
from lnl_core.training.memory import Memory, numbered
from lnl_core.training.method_settings import AutoEpochs, AutoShare, AutoWeight, replace_auto
from lnl_core.training.mixup import draw_lambda
from lnl_core.training.ramp import linear_ramp
from lnl_core.training.row_batches import shuffled_batches
from lnl_core.training.sgd_settings import SGDSettings
from lnl_core.training.updates import MomentumSGD, momentum_sgd

NAME = "pro_mix"
MODES: dict[str, dict[str, Any]] = {
    "paper": {"class_sizes": "even", "expected_classes": "uniform"},
    "released": {"class_sizes": "even", "expected_classes": "uniform"},
    "fixed": {"class_sizes": "estimated", "expected_classes": "estimated"},
}


class ProMixConfig(ModeSettings, SGDSettings):
    """Defaults: the paper's CIFAR settings, mode `fixed`."""

    modes = MODES

    mode: Literal["paper", "released", "fixed"] = "fixed"
    epochs: int = Field(default=600, ge=1)
    batch_size: int = Field(default=256, ge=2)
    lr: float = Field(default=0.05, gt=0)
    warmup_epochs: AutoEpochs = "auto"  # 10, 30 on CIFAR-100
    ramp_epochs: AutoWeight = "auto"  # 50: epochs after the warm-up in which gamma and lambda_u rise from 0
    rho: AutoShare = "auto"  # share of all rows that CSS selects: .7 at 20 % symmetric noise, else .5
    tau: AutoWeight = "auto"  # probability from which a network is sure; above 1: no MHCS and no LGA
    alpha: AutoWeight = "auto"  # strength of debiasing; 0: none
    pi_momentum: AutoShare = "auto"  # m of Eq. 7, .9999
    agree_from: float = Field(default=350 / 600, ge=0, le=1)  # share of the epochs after which LGA begins; 1: never
    agree_limit: float = Field(default=0.9, ge=0, le=1)  # of a batch that may be selected with LGA's rows
    temperature: float = Field(default=0.5, gt=0)  # T, sharpening of pseudo-labels
    lambda_u: float = Field(default=1.0, ge=0)  # weight of rows that are not selected; 0: only clean rows
    gamma: float = Field(default=1.0, ge=0)  # weight of L_cr + L_mix; 0 spares their passes
    mix_beta: float = Field(default=4.0, gt=0)  # Beta(4, 4) of mixup and FMix
    mask_decay: float = Field(default=3.0, ge=0)  # FMix's delta, arXiv 2002.12047
    mixing: Literal["batch", "row"] = "batch"  # one mixing weight and one mask a batch, or one a row
    joined_views: bool = False  # true: one pass and common batch statistics; fewer, larger kernels, slower on a CPU
    class_sizes: Literal["even", "estimated"]  # how CSS divides its rows among the observed classes
    expected_classes: Literal["uniform", "estimated"]  # class shares that predictions are held against


@dataclass(frozen=True, kw_only=True)
class Derived:
    """The settings that depend on the data, as set or as it has them."""

    rho: float
    tau: float
    alpha: float
    pi_momentum: float
    warmup_epochs: int
    ramp_epochs: float


class TwoHeads(nn.Module):
    """A classifier and a second linear head on its encoder; gives both logits."""

    def __init__(self, classifier: nn.Module, seed: int) -> None:
        super().__init__()
        self.classifier = classifier
        head = classifier.get_submodule("head")
        assert isinstance(head, nn.Linear)
        with drawn_from(seed):
            self.auxiliary = nn.Linear(head.in_features, head.out_features)

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, "batch classes"], Float[Tensor, "batch classes"]]:
        features = self.classifier.get_submodule("encoder")(images)
        return self.classifier.get_submodule("head")(features), self.auxiliary(features)


@dataclass(frozen=True, kw_only=True)
class _Run:
    task: TrainTask
    config: ProMixConfig
    derived: Derived
    networks: list[TwoHeads]  # two
    updates: list[MomentumSGD]
    memory: Memory  # pi [networks, groups, classes] on the device; group 1 are the selected rows
    expected: Tensor  # [classes] on the device


@dataclass(frozen=True, kw_only=True)
class Split:
    """One network's epoch; a value for every row of the task, False or 0 where the row sits the epoch out."""

    selected: Bool[Tensor, " rows"]  # keeps its label
    agreed: Bool[Tensor, " rows"]  # not selected, but both networks are sure of `guess`
    guess: Int[Tensor, " rows"]
    confidence: Float[Tensor, " rows"]  # of the less sure network


@dataclass(frozen=True, kw_only=True)
class _Views:
    """The images of a step, which both networks see; the mixing weights belong to a row's own image."""

    weak: Tensor
    strong: Tensor | None
    weights: list[Tensor]  # [batch or 1, 1, height or 1, width or 1]
    shares: list[Tensor]  # [batch or 1, 1]: what is left of the row's own target


@dataclass(frozen=True, kw_only=True)
class _Targets:
    selected: Tensor  # [batch], LGA's rows among them, on the device
    label: Tensor  # [batch, classes], of use where selected
    weight: Tensor  # [batch], how much that label counts
    partner: Tensor  # [batch]


@TRAINERS.register(
    NAME,
    config=ProMixConfig,
    summary="two networks with two heads; as many clean rows as can be had, debiased pseudo-labels for the rest",
    source="Xiao et al.: ProMix, IJCAI 2023, arXiv 2207.10276",
)
def train_pro_mix(task: TrainTask, config: ProMixConfig) -> Trained:
    """Train two networks; holds both with their momenta and the best epoch's weights, and four numbers a row."""
    networks = [_two_heads(task, number) for number in range(2)]
    updates = [momentum_sgd(network, task.runtime, config) for network in networks]
    expected = task.prior(uniform=config.expected_classes == "uniform")
    run = _Run(
        task=task,
        config=config,
        derived=derive(task, config),
        networks=networks,
        updates=updates,
        memory=Memory(pi=expected.expand(2, 2, -1).clone()),
        expected=expected,
    )
    return train_epochs(
        task,
        method=NAME,
        epochs=config.epochs,
        parts={**numbered(network=networks, updates=updates), "memory": run.memory},
        predictors=[network.classifier for network in networks],
        epoch=lambda number: _epoch(run, number),
        metrics=lambda: {"derived": vars(run.derived)},
    )


def derive(task: TrainTask, config: ProMixConfig) -> Derived:
    """Replace `auto` by what follows from the estimated noise, the number of classes and the length of the run."""
    many = task.classes >= noise_rules.MANY
    rows = len(task.epoch_rows(task.generator(NAME, "rows", 0)))
    automatic = {
        "rho": noise_rules.clean_ratio(task.noise),
        "tau": 0.95 if many else 0.99,
        "alpha": 0.5 if many else 0.8,
        "pi_momentum": long_memory(config.epochs * math.ceil(rows / config.batch_size)),
        "warmup_epochs": min(30 if many else 10, math.ceil(config.epochs / 4)),
        "ramp_epochs": config.epochs / 12,
    }
    return Derived(**replace_auto(config, automatic))


def long_memory(steps: int) -> float:
    """pi's momentum: a memory of .085 of the run's steps, .9999 for CIFAR's 600 epochs of 196."""
    return 1 - 1 / max(0.085 * steps, 1.0)


def _two_heads(task: TrainTask, number: int) -> TwoHeads:
    classifier = task.make_model(task.seed(NAME, "weights", number))
    return task.place(TwoHeads(classifier, task.seed(NAME, "auxiliary", number)))


def _epoch(run: _Run, epoch: int) -> Record:
    """One epoch of both networks; its generators depend on the epoch alone, so a resumed run draws the same."""
    rows = run.task.epoch_rows(run.task.generator(NAME, "rows", epoch))
    generator = run.task.generator(NAME, epoch)
    if epoch < run.derived.warmup_epochs:
        return _warm_up(run, rows, epoch, generator)
    seen = [_look(run, number, rows) for number in range(2)]
    splits = [_split(run, rows, seen, number, epoch) for number in range(2)]
    _remember(run, rows, seen[0], splits[0], epoch)
    batches = shuffled_batches(rows, run.config.batch_size, generator)
    sums = MeanRecord(len(batches))
    for step, batch in enumerate(batches):
        ramp = linear_ramp(epoch + step / len(batches), run.derived.warmup_epochs, run.derived.ramp_epochs)
        views = _views(run, batch, generator)
        lr = run.config.lr_at(epoch, step / len(batches))
        for number, split in enumerate(splits):
            terms = _terms(run, number, views, _targets(run, split, batch, generator), ramp)
            loss = terms["class_loss"] + run.config.gamma * ramp * (terms["strong_loss"] + terms["mix_loss"])
            run.updates[number].step(loss, lr)
            sums.add(**{name: value / 2 for name, value in {"loss": loss, **terms}.items()})
    shares = {
        "selected_share": sum(float(split.selected[rows].float().mean()) for split in splits) / 2,
        "agreed_share": sum(float(split.agreed[rows].float().mean()) for split in splits) / 2,
    }
    return {**sums.means(), **shares}


def _warm_up(run: _Run, rows: Tensor, epoch: int, generator: torch.Generator) -> Record:
    """Cross-entropy of both heads with the labels as they are."""
    task, config = run.task, run.config
    batches = shuffled_batches(rows, config.batch_size, generator)
    sums = MeanRecord(len(batches))
    for step, batch in enumerate(batches):
        [images] = task.weak(batch, generator)
        targets, weights = task.targets(batch), task.weights(batch)
        for network, updates in zip(run.networks, run.updates, strict=True):
            heads = task.forward(network.train(), images)
            losses = sum(functional.cross_entropy(logits, targets, reduction="none") for logits in heads)
            loss = (weights * losses).mean()
            updates.step(loss, config.lr_at(epoch, step / len(batches)))
            sums.add(loss=loss / 2)
    return sums.means()


def _look(run: _Run, number: int, rows: Tensor) -> Seen:
    """One pass over the epoch's rows; holds four numbers a row, never [rows, classes]."""
    task = run.task
    margins = class_margins(run.memory.pi[number], run.expected, run.derived.alpha)[0]
    found = []
    for chunk, (logits, _) in task.row_chunks(run.networks[number], rows):
        confidence, guess = logits.softmax(dim=1).max(dim=1)
        loss = functional.cross_entropy(logits, task.label[chunk].to(logits.device), reduction="none")
        found.append([value.cpu() for value in (loss, confidence, guess, (logits - margins).argmax(dim=1))])
    loss, confidence, guess, pseudo_label = (torch.cat(part) for part in zip(*found, strict=True))
    return Seen(loss=loss, confidence=confidence, guess=guess, pseudo_label=pseudo_label)


def _split(run: _Run, rows: Tensor, seen: list[Seen], number: int, epoch: int) -> Split:
    task, config = run.task, run.config
    label, own, other = task.label[rows], seen[number], seen[1 - number]
    shares = even_shares(task.classes) if config.class_sizes == "even" else right_shares(task.noise)
    base = small_losses(own.loss, label, base_sizes(run.derived.rho, len(rows), shares))
    selected = base | matched(own, label, run.derived.tau) | task.known(rows)  # D_l, Sec. 3.1
    late = epoch >= config.agree_from * config.epochs
    both = agreed(own, other, run.derived.tau) & ~selected if late else torch.zeros_like(selected)

    def everywhere(values: Tensor) -> Tensor:
        return values.new_zeros(len(task.label)).index_copy(0, rows, values)

    return Split(
        selected=everywhere(selected),
        agreed=everywhere(both),
        guess=everywhere(own.guess),
        confidence=everywhere(torch.minimum(own.confidence, other.confidence)),
    )


def _remember(run: _Run, rows: Tensor, seen: Seen, split: Split, epoch: int) -> None:
    """A row's predicted label is its target's class."""
    predicted = torch.where(split.selected[rows], run.task.label[rows], seen.pseudo_label)
    predicted = torch.where(split.agreed[rows], seen.guess, predicted)
    selected = (split.selected | split.agreed)[rows]
    clean = (-seen.loss).exp()  # p(observed)
    run.task.remember(
        epoch, run.config.epochs, rows, selected=selected, clean=clean, predicted=predicted, loss=seen.loss
    )  # fmt: skip


def _views(run: _Run, batch: Tensor, generator: torch.Generator) -> _Views:
    task, config = run.task, run.config
    [weak] = task.weak(batch, generator)
    if config.gamma == 0:
        return _Views(weak=weak, strong=None, weights=[], shares=[])
    strong = task.strong(batch, generator)
    count = len(batch) if config.mixing == "row" else 1
    lam = draw_lambda(count, config.mix_beta, generator)[:, None, None, None]
    masks = draw_masks(
        draw_lambda(count, config.mix_beta, generator), weak.shape[2], weak.shape[3], generator, config.mask_decay
    )[:, None]
    weights = [values.to(weak.device) for values in (lam, masks)]
    return _Views(weak=weak, strong=strong, weights=weights, shares=[value.mean(dim=(2, 3)) for value in weights])


def _targets(run: _Run, split: Split, batch: Tensor, generator: torch.Generator) -> _Targets:
    """The labels of this batch's selected rows, LGA's among them, and everybody's partner."""
    task, device = run.task, run.task.runtime.device
    selected = split.selected[batch]
    added = within_limit(split.agreed[batch], selected, split.confidence[batch], run.config.agree_limit)
    selected, partner = selected | added, partners_within(selected | added, generator)
    guess = functional.one_hot(split.guess[batch], task.classes).float().to(device)
    relabelled = added.to(device)
    return _Targets(
        selected=selected.to(device),
        label=torch.where(relabelled[:, None], guess, task.targets(batch)),
        weight=torch.where(relabelled, 1.0, task.weights(batch)),
        partner=partner.to(device),
    )


def _terms(run: _Run, number: int, views: _Views, targets: _Targets, ramp: float) -> dict[str, Tensor]:
    """L_cls, L_cr and L_mix of one network; afterwards pi has moved."""
    config, derived, pi = run.config, run.derived, run.memory.pi
    weak, partner, group = views.weak, targets.partner, targets.selected.long()
    mixed = [torch.lerp(weak[partner], weak, weight) for weight in views.weights]
    images = [weak, *([] if views.strong is None else [views.strong]), *mixed]
    main, auxiliary = _both_heads(run, number, images)  # [views, batch, classes] each
    margins = class_margins(pi[number], run.expected, derived.alpha)
    guessed = debiased_labels(main[0].detach(), margins[0], config.temperature)
    y = torch.where(targets.selected[:, None], targets.label, guessed)
    pi[number] = updated_shares(
        pi[number], main[0].detach().softmax(dim=1), group, derived.pi_momentum, 1e-3 / run.task.classes
    )
    plain = [y] * (len(images) - len(mixed))
    blended = [torch.lerp(y[partner], y, share) for share in views.shares]
    y_views = torch.stack([*plain, *blended])
    kept = torch.where(targets.selected, targets.weight, 0.0)
    heard = torch.where(targets.selected, targets.weight, config.lambda_u * ramp)
    of_main = (kept * debiased_loss(main, y_views, margins[group])).sum(dim=1) / group.sum().clamp_min(1)
    of_auxiliary = (heard * debiased_loss(auxiliary, y_views, margins[group])).mean(dim=1)
    total = of_main + of_auxiliary  # [views]
    nothing = total.new_zeros(())
    return {
        "class_loss": total[0],
        "strong_loss": total[1] if views.strong is not None else nothing,
        "mix_loss": total[2:].mean() if mixed else nothing,
    }


def _both_heads(run: _Run, number: int, images: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Both heads' logits of each view, [views, batch, classes]."""
    network = run.networks[number].train()
    if run.config.joined_views:
        main, auxiliary = run.task.forward(network, join_views(images))
        return main.unflatten(0, (len(images), -1)), auxiliary.unflatten(0, (len(images), -1))
    heads = [run.task.forward(network, view) for view in images]
    return torch.stack([main for main, _ in heads]), torch.stack([auxiliary for _, auxiliary in heads])
