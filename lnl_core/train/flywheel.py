"""LNL-flywheel: one network separates clean labels from corrupted ones, the other refurbishes the corrupted.

Kim, Chang, Cho, Lee, Han: Learning with Noisy Labels: Interconnection of Two Expectation-Maximizations
(arXiv 2401.04390). Labels are a mixture p(label | x) = gamma g(x)[label] + (1 - gamma) eps(x) (Eq. 1). After a warm-up
of both networks with cross-entropy, a cycle is an epoch:
    E, main        q(s=1) = p(the label is clean), from g, gamma and eps (Eq. 4); gamma = mean q (Eq. 6)
    E, auxiliary   target q e_label + (1 - q) f(x), f averaged over two weak views (Eq. 11)
    M, auxiliary   f learns the targets with mixup of weak views (Eq. 13), and a contrastive loss on strong views;
                   T_c, where corrupted labels of a class go, and eps_i = f(x) T_c[:, label] (Eq. 14)
    M, main        g learns the resampled labels argmax f(x) of all rows, with the confidence regulariser (Eq. 8, 9)
The prediction is f's alone.

No code was released. Where the paper's wording and good sense differ, `mode` sets a field that the user leaves out:
                           paper   fixed
    cap_regulariser        false   true: lambda falls where a class has so many labels that lambda = 3 would push it out
                                   (Lemma 1 takes even classes); nothing changes for six and more even classes
    regulariser_ramp       0       10 epochs: with lambda > 1 the loss drives g on to whatever it holds of a row; at
                                   full weight from the first cycle on it confirms a weak g's mistakes. On the digits
                                   at 80 % noise f's accuracy then fell from cycle to cycle
    corruption_smoothing   0       1 row, in even shares, is added to each class of T_c: a class with next to no
                                   corrupted label has no estimate
    align                  false   true: f's predictions of an epoch have the estimated class prior as their mean; a
                                   weak f otherwise drifts to a few classes, g follows, and both forget the others
What the paper leaves open, and what is done here:
- E-steps are once an epoch, for all its rows: Eqs. 6, 8 and 14 are sums over one dataset with one q, gamma and T_c.
- The epoch here starts with f's predictions, then has the main M-step, both E-steps and the auxiliary M-step. That is
  the paper's order, cut elsewhere: the first cycle has no main M-step, and f is predicted once an epoch for Eqs. 8, 11
  and 14. Nothing is held of a row from one epoch to the next, so an epoch may be a sample.
- q weights nothing in Eq. 8: resampling stands in for weighting (Sec. 3.2). It does without the auxiliary network.
- g learns from one weak view a row; its E-step sees the plain image (two weak views are said of f alone). Resampled
  labels and eps_i come from f's mean over its two weak views.
- Eq. 9's expectation is over the resampled labels of the epoch, not uniform; g has a floor inside the logarithm, for
  with lambda > 1 the loss has no lower bound.
- eps_i is used from the second cycle on; 1/K in the first.
- The contrastive loss is SimCLR's, which SupCon's (both are cited) is without labels: two strong views, all rows of the
  batch, no label that could be wrong. `positives: predicted` is SupCon's with the classes of Eq. 11. Temperature and
  head are SimCLR's for CIFAR. Mixup's Beta(4, 4) is that of DivideMix and UNICON, whose settings the paper shares.
- The projection learns after the warm-up, which is cross-entropy.
- gamma lies in 0.01..0.99: at 0 or 1 no row would ever change sides again.
Verified rows have q = 1 and are resampled as their label; gamma counts the other rows. Row weights count for the part
of a target that is the row's own label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from lnl_core.config import ModeSettings
from lnl_core.statistics.two_em_mixture import clean_share, cleanness_of_own, corruption_matrix, outlier_probability
from lnl_core.train import TRAINERS
from lnl_core.train.epochs import Record, train_epochs
from lnl_core.train.flywheel_losses import (
    auxiliary_targets,
    capped_weight,
    confidence_regulariser,
    label_shares,
)
from lnl_core.train.flywheel_network import ProjectedClassifier
from lnl_core.train.task import EVALUATION_ROWS, Trained, TrainTask, join_views
from lnl_core.training.align import align_to_prior
from lnl_core.training.contrastive import contrastive_loss
from lnl_core.training.mean_record import MeanRecord
from lnl_core.training.memory import Memory
from lnl_core.training.mixup import draw_lambda, mix
from lnl_core.training.ramp import linear_ramp
from lnl_core.training.row_batches import shuffled_batches
from lnl_core.training.sgd_settings import SGDSettings
from lnl_core.training.updates import MomentumSGD, momentum_sgd
from lnl_core.training.weighted_loss import weighted_cross_entropy

NAME = "flywheel"
GAMMA_RANGE = (0.01, 0.99)
MODES: dict[str, dict[str, Any]] = {
    "paper": {"cap_regulariser": False, "regulariser_ramp": 0.0, "corruption_smoothing": 0.0, "align": False},
    "fixed": {"cap_regulariser": True, "regulariser_ramp": 10.0, "corruption_smoothing": 1.0, "align": True},
}


class FlywheelConfig(ModeSettings, SGDSettings):
    """Defaults: the paper's CIFAR settings (Sec. 4.1, 4.2), mode `fixed`. Four fields are the rows of its Table 6."""

    modes = MODES

    mode: Literal["paper", "fixed"] = "fixed"
    warmup_epochs: int = Field(default=10, ge=1)  # both networks, cross-entropy
    confidence_regulariser: float = Field(default=3.0, ge=0)  # lambda; 0: "w/o CR"
    auxiliary: bool = True  # false: "w/o Aux.", g alone, reweighted by q (Eq. 7), and it predicts
    epsilon: Literal["per_sample", "fixed"] = "per_sample"  # Eq. 14, or 1/K: "eps fixed"
    contrastive: float = Field(default=0.025, ge=0)  # alpha; 0: "w/o CL"
    positives: Literal["views", "predicted"] = "views"  # SimCLR's pairs, or also rows of one class by Eq. 11
    temperature: float = Field(default=0.5, gt=0)  # of the contrastive loss; SimCLR's best on CIFAR, appendix B.9
    views: int = Field(default=2, ge=1)  # weak views that f is averaged over
    mixup_alpha: float = Field(default=4.0, gt=0)  # Beta(a, a); 0.2 for small networks on 8 px
    confidence_floor: float = Field(default=1e-8, gt=0, lt=0.1)  # least g in the regulariser's logarithm
    joined_views: bool = True  # mixed and strong views in one pass, which share batch statistics
    cap_regulariser: bool  # lambda p(y) <= 1/2 for every class
    regulariser_ramp: float = Field(ge=0)  # epochs after the warm-up in which lambda rises from 0
    corruption_smoothing: float = Field(ge=0)  # rows added to each class of T_c
    align: bool  # f's predictions of an epoch are brought to the estimated class prior (training/align)


@dataclass(frozen=True, kw_only=True)
class _Network:
    """A network to train, and the plain classifier in it."""

    module: nn.Module
    classifier: nn.Module
    updates: MomentumSGD


@dataclass(frozen=True, kw_only=True)
class _Run:
    task: TrainTask
    config: FlywheelConfig
    main: _Network  # g
    auxiliary: _Network | None  # f
    memory: Memory  # gamma; corruption, T_c, and transition, T [classes, classes]; None before the first cycle


@dataclass(frozen=True, kw_only=True)
class _Cleanness:
    """The main E-step of an epoch's rows."""

    clean: Float[np.ndarray, " rows"]  # q(s=1)
    loss: Float[np.ndarray, " rows"]  # -log g(x)[label], nats
    guess: Int[Tensor, " rows"]  # argmax g(x)


@TRAINERS.register(
    NAME,
    config=FlywheelConfig,
    summary="one network separates clean labels from corrupted ones, the other refurbishes these; two EM cycles",
    source="Kim et al.: Learning with Noisy Labels: Interconnection of Two Expectation-Maximizations, arXiv 2401.04390",
)
def train_flywheel(task: TrainTask, config: FlywheelConfig) -> Trained:
    """Train both networks; holds them with their momenta and the best weights, and f's predictions during an epoch."""
    memory = Memory(gamma=None, corruption=None, transition=None)
    auxiliary = _auxiliary_network(task, config) if config.auxiliary else None
    run = _Run(task=task, config=config, main=_main_network(task, config), auxiliary=auxiliary, memory=memory)
    parts: dict[str, Any] = {"main": run.main.module, "main updates": run.main.updates, "memory": memory}
    if auxiliary:
        parts |= {"auxiliary": auxiliary.module, "auxiliary updates": auxiliary.updates}
    return train_epochs(
        task,
        method=NAME,
        epochs=config.epochs,
        parts=parts,
        predictors=[(auxiliary or run.main).classifier],
        epoch=lambda number: _epoch(run, number),
        metrics=lambda: _metrics(memory),
    )


def _main_network(task: TrainTask, config: FlywheelConfig) -> _Network:
    network = task.new_network(task.seed(NAME, "weights", "main"))
    return _Network(module=network, classifier=network, updates=_updates(task, config, network))


def _auxiliary_network(task: TrainTask, config: FlywheelConfig) -> _Network:
    classifier = task.make_model(task.seed(NAME, "weights", "auxiliary"))
    if config.contrastive == 0:
        module = task.place(classifier)
    else:
        module = task.place(ProjectedClassifier(classifier, task.seed(NAME, "weights", "projection")))
    return _Network(module=module, classifier=classifier, updates=_updates(task, config, module))


def _updates(task: TrainTask, config: FlywheelConfig, module: nn.Module) -> MomentumSGD:
    return momentum_sgd(module, task.runtime, config)


def _metrics(memory: Memory) -> dict[str, Any]:
    """gamma; T by rows; and T_c: where the corrupted labels of a class go (its own name among them)."""
    found: dict[str, Any] = {} if memory.gamma is None else {"gamma": round(memory.gamma, 5)}
    for name in ("transition", "corruption"):
        matrix = getattr(memory, name)
        if matrix is not None:
            found[name] = [[round(share, 5) for share in row] for row in matrix.tolist()]
    return found


def transition_of(
    targets: Float[Tensor, "rows classes"], observed: Int[np.ndarray, " rows"]
) -> Float[Tensor, "classes classes"]:
    """T[y, y'] = sum of q_i(y) over the rows labelled y', over the sum of all q_i(y) (Sec. 3.3, before Eq. 14)."""
    nobody_clean = np.zeros(len(observed))  # the same sums as T_c's, of the whole q instead of its corrupted part
    return torch.from_numpy(corruption_matrix(nobody_clean, targets.numpy(), observed))


def bounded_gamma(share: float) -> float:
    """gamma inside (0, 1), where Eq. 4 can still distinguish rows."""
    return min(max(share, GAMMA_RANGE[0]), GAMMA_RANGE[1])


def resampled_labels(
    predictions: Float[Tensor, "rows classes"], labels: Int[Tensor, " rows"], known: Tensor
) -> Int[Tensor, " rows"]:
    """argmax f(x) of each row (Sec. 3.2, Fig. 2); verified rows keep their label."""
    return torch.where(known, labels, predictions.argmax(dim=1))


def _epoch(run: _Run, epoch: int) -> Record:
    """One epoch of both networks; its generators depend on the epoch alone, so a resumed run draws the same."""
    rows = run.task.epoch_rows(run.task.generator(NAME, "rows", epoch))
    if epoch < run.config.warmup_epochs:
        networks = [network for network in (run.auxiliary, run.main) if network]
        losses = [_warm_up(run, network, rows, epoch, number) for number, network in enumerate(networks)]
        return {"loss": losses[0], "main_loss": losses[-1]}
    return _cycle(run, run.auxiliary, rows, epoch) if run.auxiliary else _cycle_alone(run, rows, epoch)


def _warm_up(run: _Run, network: _Network, rows: Tensor, epoch: int, number: int) -> float:
    task, config = run.task, run.config
    generator = task.generator(NAME, "warm-up", epoch, number)
    network.module.train()
    batches = shuffled_batches(rows, config.batch_size, generator)
    sums = MeanRecord(len(batches))
    for step, batch in enumerate(batches):
        logits, *others = _outputs(task, network, task.weak(batch, generator)[0])
        loss = weighted_cross_entropy(logits, task.targets(batch), task.weights(batch))
        # 0 times the projection: its gradient is then zero, not missing, for one process as for several
        network.updates.step(loss + sum(0 * other.sum() for other in others), config.lr_at(epoch, step / len(batches)))
        sums.add(loss=loss)
    return sums.means()["loss"]


def _outputs(task: TrainTask, network: _Network, images: Tensor) -> tuple[Tensor, ...]:
    """(logits,) or (logits, projections)."""
    found = task.forward(network.module, images)
    return (found,) if isinstance(found, Tensor) else tuple(found)


def _cycle(run: _Run, auxiliary: _Network, rows: Tensor, epoch: int) -> Record:
    """f's predictions, main M-step, both E-steps, auxiliary M-step."""
    task, memory, record = run.task, run.memory, Record()
    label, known = task.label[rows], task.known(rows)
    observed = label.numpy().astype(np.int32)
    predictions = _predictions(run, auxiliary, rows, task.generator(NAME, "views", epoch))
    outlier = np.full(len(rows), 1 / task.classes)  # eps before T_c is known
    if memory.corruption is None:
        memory.gamma = _accuracy(predictions.argmax(dim=1), label, known)
    else:
        record |= _train_main(run, rows, epoch, resampled_labels(predictions, label, known), torch.ones(len(rows)))
        if run.config.epsilon == "per_sample":
            outlier = outlier_probability(predictions.numpy(), memory.corruption.numpy(), observed)  # Eq. (14)
    found = _main_e_step(run, rows, outlier)
    corruption = corruption_matrix(found.clean, predictions.numpy(), observed, run.config.corruption_smoothing)
    memory.corruption = torch.from_numpy(corruption)
    clean = torch.from_numpy(found.clean).float()
    hard = functional.one_hot(label, task.classes).float()
    targets = auxiliary_targets(clean, hard, predictions, torch.ones(len(rows)))
    predicted = targets.argmax(dim=1)
    memory.transition = transition_of(targets, observed)
    record |= _train_auxiliary(run, auxiliary, rows, epoch, clean, predictions, predicted)
    _remember(run, rows, epoch, found, predicted)
    return {**record, **_shares(run, found)}


def _cycle_alone(run: _Run, rows: Tensor, epoch: int) -> Record:
    """Table 6, "w/o Aux.": the main E-step, then its M-step on the labels as they are, weighted by q (Eq. 7)."""
    task = run.task
    found = _main_e_step(run, rows, np.full(len(rows), 1 / task.classes))
    clean = torch.from_numpy(found.clean).float()
    record = _train_main(run, rows, epoch, None, clean)
    _remember(run, rows, epoch, found, torch.where(clean > 0.5, task.label[rows], found.guess))
    return {"loss": record["main_loss"], **record, **_shares(run, found)}


def _predictions(
    run: _Run, auxiliary: _Network, rows: Tensor, generator: torch.Generator
) -> Float[Tensor, "rows classes"]:
    """f(x) of these rows, averaged over weak views, in evaluation mode, on the CPU."""
    auxiliary.module.eval()
    found = [
        run.task.predict(auxiliary.classifier, run.task.weak(chunk, generator, run.config.views)).mean(dim=0).cpu()
        for chunk in rows.split(EVALUATION_ROWS)  # type: ignore[no-untyped-call]
    ]
    predictions = torch.cat(found)
    return align_to_prior(predictions, run.task.prior().cpu()) if run.config.align else predictions


def _main_e_step(run: _Run, rows: Tensor, outlier: Float[np.ndarray, " rows"]) -> _Cleanness:
    """q of these rows by Eq. 4, then gamma by Eq. 6; verified rows are clean."""
    task, memory = run.task, run.memory
    losses, guesses = [], []
    for chunk, logits in task.row_chunks(run.main.module, rows):
        label = task.label[chunk].to(logits.device)
        losses.append(functional.cross_entropy(logits, label, reduction="none").cpu())
        guesses.append(logits.argmax(dim=1).cpu())
    loss, guess = torch.cat(losses).double().numpy(), torch.cat(guesses)
    known = task.known(rows)
    if memory.gamma is None:
        memory.gamma = _accuracy(guess, task.label[rows], known)
    clean = np.where(known.numpy(), 1.0, cleanness_of_own(memory.gamma, np.exp(-loss), outlier))  # Eq. (4)
    unsure = clean[~known.numpy()]
    memory.gamma = bounded_gamma(clean_share(unsure) if len(unsure) else 1.0)  # Eq. (6)
    return _Cleanness(clean=clean, loss=loss, guess=guess)


def _accuracy(guess: Tensor, label: Tensor, known: Tensor) -> float:
    """The first gamma: training accuracy after the warm-up (Sec. 4.1), of the rows that are not verified."""
    right = (guess == label)[~known]
    return bounded_gamma(float(right.double().mean()) if len(right) else 1.0)


def _train_main(run: _Run, rows: Tensor, epoch: int, resampled: Tensor | None, clean: Tensor) -> Record:
    """Eq. 8 on resampled labels [rows] with weights of 1; or without them Eq. 7 on the rows' own labels."""
    task, config = run.task, run.config
    generator = task.generator(NAME, "main", epoch)
    shares = label_shares(task.label[rows] if resampled is None else resampled, task.classes, clean)
    strength = config.confidence_regulariser * linear_ramp(float(epoch), config.warmup_epochs, config.regulariser_ramp)
    if config.cap_regulariser:
        strength = capped_weight(strength, shares)
    network, shares = run.main.module.train(), shares.to(task.runtime.device)
    batches = shuffled_batches(torch.arange(len(rows)), config.batch_size, generator)
    sums = MeanRecord(len(batches))
    for step, places in enumerate(batches):
        batch, weights = rows[places], clean[places].to(task.runtime.device)
        logits = task.forward(network, task.weak(batch, generator)[0])
        if resampled is None:
            loss = weighted_cross_entropy(logits, task.targets(batch), weights * task.weights(batch))  # Eq. (7)
        else:
            labels = functional.one_hot(resampled[places], task.classes).float().to(task.runtime.device)
            loss = weighted_cross_entropy(logits, labels, weights)  # the first term of Eq. (8)
        regulariser = confidence_regulariser(logits, shares, config.confidence_floor)
        run.main.updates.step(loss + strength * regulariser, config.lr_at(epoch, step / len(batches)))  # Eq. (8)
        sums.add(main_loss=loss, regulariser=regulariser)
    return {**sums.means(), "regulariser_weight": strength}


def _train_auxiliary(
    run: _Run, auxiliary: _Network, rows: Tensor, epoch: int, clean: Tensor, predictions: Tensor, predicted: Tensor
) -> Record:
    """Eq. 13 with mixup, plus alpha times the contrastive loss (Sec. 4.1); all of `rows`' length."""
    task, config = run.task, run.config
    generator = task.generator(NAME, "auxiliary", epoch)
    device = task.runtime.device
    auxiliary.module.train()
    batches = shuffled_batches(torch.arange(len(rows)), config.batch_size, generator)
    sums = MeanRecord(len(batches))
    for step, places in enumerate(batches):
        batch = rows[places]
        targets = auxiliary_targets(
            clean[places].to(device), task.targets(batch), predictions[places].to(device), task.weights(batch)
        )
        logits, targets, projections = _auxiliary_pass(run, auxiliary, batch, targets, generator)
        terms = {"auxiliary_loss": functional.cross_entropy(logits, targets)}  # Eq. (13)
        loss = terms["auxiliary_loss"]
        if projections is not None:
            classes = predicted[places].to(device) if config.positives == "predicted" else None
            terms["contrastive_loss"] = contrastive_loss(projections, config.temperature, classes)
            loss = loss + config.contrastive * terms["contrastive_loss"]
        auxiliary.updates.step(loss, config.lr_at(epoch, step / len(batches)))
        sums.add(loss=loss, **terms)
    return sums.means()


def _auxiliary_pass(
    run: _Run, auxiliary: _Network, batch: Tensor, targets: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor | None]:
    """(logits of the mixed weak views, their targets, projections [2, batch, 128] of two strong views)."""
    task, config = run.task, run.config
    lam = draw_lambda(1, config.mixup_alpha, generator)
    mixed, targets = mix(task.weak(batch, generator)[0], targets, lam, generator)
    if config.contrastive == 0:
        return _outputs(task, auxiliary, mixed)[0], targets, None
    strong = [task.strong(batch, generator) for _ in range(2)]
    size = len(batch)
    if config.joined_views:
        logits, projections = _outputs(task, auxiliary, join_views([mixed, *strong]))
        return logits[:size], targets, projections[size:].view(2, size, -1)
    logits, _ = _outputs(task, auxiliary, mixed)
    _, projections = _outputs(task, auxiliary, join_views(strong))
    return logits, targets, projections.view(2, size, -1)


def _remember(run: _Run, rows: Tensor, epoch: int, found: _Cleanness, predicted: Tensor) -> None:
    run.task.remember(
        epoch,
        run.config.epochs,
        rows,
        selected=found.clean > 0.5,
        clean=found.clean,
        predicted=predicted,
        loss=found.loss,
    )


def _shares(run: _Run, found: _Cleanness) -> Record:
    return {"gamma": run.memory.gamma, "clean_share": float((found.clean > 0.5).mean())}
