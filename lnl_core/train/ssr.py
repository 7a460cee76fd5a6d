"""SSR+: each epoch, the classifier relabels what it is sure of, and neighbours select the labels that are learned.

Feng, Tzimiropoulos, Patras: SSR: An Efficient and Robust Framework for Learning with Unknown Label Noise, BMVC 2022
(arXiv 2111.11288). Each epoch begins with one pass over the rows. A row whose predicted class is surer than theta_r
gets it as its label y^r (from the observed label anew each epoch); k nearest neighbours by cosine, balanced by class,
vote q over these labels; rows with q[y^r] / max q >= theta_s are selected. The network learns a class-balanced draw of
the selected rows (mixup of strong views) and, on all rows, to give two strong views the same features (SimSiam's loss).
No warm-up, no second network, no trusted set, no noise rate.

Deviations, all for want of a word in the paper or because data are small, large or unbalanced:
- theta_r, which the paper sets by the data set, follows from the noise estimate unless it is set (`noise_rules`).
- A row does not vote for itself; a large set is compared with a sample of `neighbour_rows` of its rows, since a vote
  among all costs rows^2; k is cut to 0.4 of an even class (200 of CIFAR-100's 500), since in a small set 200
  neighbours lie in other classes.
- An epoch has as many steps as all its rows have batches, however few are selected; both losses' views share a pass.
- Too few selected rows (fewer than a batch) are filled up with the most consistent ones; verified rows are never
  relabelled and always selected.
- `class_chances: estimated` draws classes by the estimated prior; `equal` is the paper's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from lnl_core.statistics.knn import knn_votes
from lnl_core.train import TRAINERS, noise_rules
from lnl_core.train.epochs import Record, train_epochs
from lnl_core.train.ssr_network import ConsistencyNetwork, FeaturesAndLogits, consistency_loss
from lnl_core.train.ssr_rules import balance, consistency, draw_by_class, neighbour_count, relabel, select
from lnl_core.train.task import Trained, TrainTask, join_views
from lnl_core.training.mean_record import MeanRecord
from lnl_core.training.method_settings import AutoShare
from lnl_core.training.mixup import draw_lambda, mix
from lnl_core.training.row_batches import shuffled_batches
from lnl_core.training.sgd_settings import SGDSettings
from lnl_core.training.updates import MomentumSGD, momentum_sgd
from lnl_core.training.weighted_loss import weighted_cross_entropy

NAME = "ssr"


class SSRConfig(SGDSettings):
    """Defaults: the paper's CIFAR settings (300 epochs, SGD 0.02, cosine, batch 128)."""

    theta_r: AutoShare = "auto"  # confidence above which a row is relabelled; auto: 0.9 or 0.8
    theta_s: float = Field(default=1.0, ge=0, le=1)  # consistency from which a row is selected; 1: neighbours agree
    k: int = Field(default=200, ge=1)  # neighbours; cut for small data
    neighbour_rows: int = Field(default=50_000, ge=2)  # rows that vote: CIFAR's whole set, a sample of larger ones
    alpha: float = Field(default=4.0, ge=0)  # mixup's Beta; 0: no mixup
    consistency_weight: float = Field(default=1.0, ge=0)  # lambda_fc; 0 is SSR without the plus
    projection: int = Field(default=128, ge=1)  # width of what is compared
    label_view: Literal["strong", "weak"] = "strong"  # augmentation of the selected rows
    class_chances: Literal["equal", "estimated"] = "equal"  # how often a class is drawn
    warmup_epochs: int = Field(default=0, ge=0)  # on all rows and observed labels; from scratch on small data: a few


@dataclass(frozen=True, kw_only=True)
class _Run:
    task: TrainTask
    config: SSRConfig
    theta_r: float
    network: ConsistencyNetwork
    view: FeaturesAndLogits  # of the same classifier
    updates: MomentumSGD
    chances: Float[Tensor, " classes"]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What an epoch holds of its rows, on the CPU."""

    rows: Int[Tensor, " rows"]  # row numbers
    label: Int[Tensor, " rows"]  # y^r
    moved: Bool[Tensor, " rows"]  # y^r is not the label of the task
    selected: Bool[Tensor, " rows"]


@dataclass(frozen=True, kw_only=True)
class _Voters:
    """Rows whose relabelled classes are the votes."""

    features: Float[Tensor, "voters features"]
    label: Int[Tensor, " voters"]
    classes: int
    k: int

    def votes(self, features: Float[Tensor, "rows features"], *, own: bool) -> Float[Tensor, "rows classes"]:
        """Balanced shares; `own`: these are the voters' features, and none votes for itself."""
        found = knn_votes(
            features,
            self.features,
            self.label,
            self.classes,
            k=self.k,
            temperature=math.inf,  # every neighbour has one vote
            leave_self_out=own and len(self.features) > 1,
        )
        return balance(found, torch.bincount(self.label, minlength=self.classes))


@TRAINERS.register(
    NAME,
    config=SSRConfig,
    summary="relabels confident rows, selects by neighbours' votes; balanced mixup and feature consistency (SSR+)",
    source="Feng, Tzimiropoulos, Patras: SSR, BMVC 2022, arXiv 2111.11288",
)
def train_ssr(task: TrainTask, config: SSRConfig) -> Trained:
    """Train one network; holds it with its momentum, the best epoch's weights, `neighbour_rows` features, and a few
    numbers a row. Nothing but the weights outlives an epoch.
    """
    classifier = task.make_model(task.seed(NAME, "weights"))
    network = task.place(
        ConsistencyNetwork(
            classifier,
            int(classifier.encoder.width),  # type: ignore[union-attr, arg-type]
            projection=config.projection,
            seed=task.seed(NAME, "heads"),
        )
    )
    run = _Run(
        task=task,
        config=config,
        theta_r=noise_rules.relabel_threshold(task.noise) if config.theta_r == "auto" else config.theta_r,
        network=network,
        view=FeaturesAndLogits(network.classifier),
        updates=momentum_sgd(network, task.runtime, config),
        chances=task.prior(uniform=config.class_chances == "equal").cpu(),
    )
    return train_epochs(
        task,
        method=NAME,
        epochs=config.epochs,
        parts={"network": network, "updates": run.updates},
        predictors=[network.classifier],
        epoch=lambda number: _epoch(run, number),
        metrics=lambda: {"derived": {"theta_r": run.theta_r}},
    )


def _epoch(run: _Run, epoch: int) -> Record:
    """Relabel and select the rows, then train; generators depend on the epoch alone: a resumed run draws the same."""
    rows = run.task.epoch_rows(run.task.generator(NAME, "rows", epoch))
    selection = _as_observed(run, rows) if epoch < run.config.warmup_epochs else _relabel_and_select(run, rows, epoch)
    record = _train(run, selection, epoch)
    return {
        **record,
        "selected_share": float(selection.selected.float().mean()),
        "relabelled_share": float(selection.moved.float().mean()),
    }


def _as_observed(run: _Run, rows: Tensor) -> Selection:
    nothing = torch.zeros(len(rows), dtype=torch.bool)
    return Selection(rows=rows, label=run.task.label[rows], moved=nothing, selected=~nothing)


def _relabel_and_select(run: _Run, rows: Tensor, epoch: int) -> Selection:
    """Relabel, vote and select: one pass over the rows, first over those that vote."""
    task, config = run.task, run.config
    voting, others = _split(rows, config.neighbour_rows, task.generator(NAME, "voters", epoch))
    seen = [outputs for _, outputs in task.row_chunks(run.view, voting)]
    features, logits = (torch.cat(part) for part in zip(*seen, strict=True))
    label, moved = _relabelled(run, voting, logits)
    k = neighbour_count(config.k, len(voting), task.classes)
    voters = _Voters(features=features, label=label, classes=task.classes, k=k)
    parts = [_row_values(task, voting, logits, label, moved, voters.votes(features, own=True))]
    for chunk, (features, logits) in task.row_chunks(run.view, others) if len(others) else ():
        label, moved = _relabelled(run, chunk, logits)
        parts.append(_row_values(task, chunk, logits, label, moved, voters.votes(features, own=False)))
    order = torch.cat([voting, others]).argsort()
    found = {name: torch.cat([part[name] for part in parts])[order].cpu() for name in parts[0]}
    selected = select(found["agreement"], task.known(rows), config.theta_s, config.batch_size)
    task.remember(
        epoch,
        config.epochs,
        rows,
        selected=selected & ~found["moved"],
        clean=found["clean"],
        predicted=torch.where(selected, found["label"], found["voted"]),
        loss=found["loss"],
    )
    return Selection(rows=rows, label=found["label"], moved=found["moved"], selected=selected)


def _split(rows: Tensor, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`most` random rows, and the others; both sorted."""
    chosen = torch.zeros(len(rows), dtype=torch.bool)
    chosen[torch.randperm(len(rows), generator=generator)[:most]] = True
    return rows[chosen], rows[~chosen]


def _relabelled(run: _Run, rows: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    label, known = (value.to(logits.device) for value in (run.task.label[rows], run.task.known(rows)))
    return relabel(logits.softmax(dim=1), label, known, run.theta_r)


def _row_values(
    task: TrainTask, rows: Tensor, logits: Tensor, label: Tensor, moved: Tensor, votes: Tensor
) -> dict[str, Tensor]:
    """A few numbers a row of what was seen."""
    observed = task.label[rows].to(votes.device)
    return {
        "label": label,
        "moved": moved,
        "agreement": consistency(votes, label),
        "clean": votes.gather(1, observed[:, None])[:, 0],
        "voted": votes.argmax(dim=1),
        "loss": functional.cross_entropy(logits, observed, reduction="none"),
    }


def _train(run: _Run, selection: Selection, epoch: int) -> Record:
    """As many steps as all rows have batches; beside each batch as many drawn rows of the selected ones."""
    task, config = run.task, run.config
    generator = task.generator(NAME, epoch)
    batches = shuffled_batches(selection.rows, config.batch_size, generator)
    chosen = selection.selected
    sizes = [len(batch) for batch in batches]
    drawn = draw_by_class(selection.rows[chosen], selection.label[chosen], run.chances, sum(sizes), generator)
    label, moved = task.label.clone(), torch.zeros(len(task.label), dtype=torch.bool)
    label[selection.rows], moved[selection.rows] = selection.label, selection.moved
    sums = MeanRecord(len(batches))
    run.network.train()
    for step, (batch, rows) in enumerate(zip(batches, drawn.split(sizes), strict=True)):  # type: ignore[no-untyped-call]
        weights = torch.where(moved[rows].to(task.runtime.device), 1.0, task.weights(rows))
        targets = _targets(task, rows, label, moved)
        terms = _terms(run, rows, batch, targets.repeat(2, 1), weights.repeat(2), generator)
        loss = terms["label_loss"] + config.consistency_weight * terms["consistency_loss"]
        run.updates.step(loss, config.lr_at(epoch, step / len(batches)))
        sums.add(loss=loss, **terms)
    return sums.means()


def _targets(task: TrainTask, rows: Tensor, label: Tensor, moved: Tensor) -> Float[Tensor, "batch classes"]:
    """A row's own target, or the class that it was relabelled to."""
    hard = functional.one_hot(label[rows], task.classes).float().to(task.runtime.device)
    return torch.where(moved[rows].to(hard.device)[:, None], hard, task.targets(rows))


def _terms(
    run: _Run, rows: Tensor, batch: Tensor, targets: Tensor, weights: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """Both losses, from one pass over two mixed views of the drawn rows and two views of all rows' batch."""
    task, config = run.task, run.config
    images, compared = _views(run, rows, batch, generator)
    if config.alpha > 0:
        images, targets = mix(images, targets, draw_lambda(1, config.alpha, generator), generator)
    logits, projections, predictions = task.forward(run.network, join_views([images, compared]))
    label_loss = weighted_cross_entropy(logits[: len(targets)], targets, weights)
    distance = torch.zeros((), device=logits.device)
    if len(compared):
        distance = consistency_loss(predictions[len(targets) :], projections[len(targets) :])
    return {"label_loss": label_loss, "consistency_loss": distance}


def _views(run: _Run, rows: Tensor, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two views of each drawn row, and two strong ones of each row to be compared, if any; strong ones in one go."""
    both = batch.repeat(2 if run.config.consistency_weight > 0 else 0)
    if run.config.label_view == "weak":
        return join_views(run.task.weak(rows, generator, views=2)), run.task.strong(both, generator)
    views = run.task.strong(torch.cat([rows.repeat(2), both]), generator)
    return views[: 2 * len(rows)], views[2 * len(rows) :]
