"""Meta label correction on cached features: folds, the choice of epoch and answer, and one pass that writes labels.

Trusted rows are dealt into folds, and so are the noisy rows that are learnt from. Each fold has a student and a
corrector of its own that see neither its trusted nor its noisy rows, so everything that is asked of them is out of
sample: the epoch and the kind of answer are chosen on trusted rows that were held out, and no label is corrected by a
network that learned it. Rows outside the sample are answered by the mean over the folds.

Held in memory: a uniform sample of at most `sample_rows` rows in float32, twice while a fold learns, and n x K scores.
Features stream two or three times: sample, student's answers, teacher's answers where these are chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lnl_core.blocks.folds import stratified_folds
from lnl_core.blocks.softmax_link import SoftmaxLink, fit_link, log_loss
from lnl_core.blocks.transition import estimate_transition, posterior
from lnl_core.contracts import NO_LABEL, FloatArray, IntArray
from lnl_core.progress import progress_bar
from lnl_core.purify.meta_training import Corrector, EpochEnd, FeatureInputs, MetaRows, MetaSchedule, MetaTrainer
from lnl_core.purify.task import Purification, PurifyTask

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]
AnswerKind = Literal["student", "teacher"]
KEPT = 12  # states of a fold's networks that are kept to choose from
FLOOR = 1e-6  # a soft label below counts as this where its logarithm is taken


@runtime_checkable
class FeatureCorrector(Corrector, Protocol):
    """A corrector that also answers for rows outside training."""

    def answer(
        self, inputs: Float[Tensor, "batch features"], observed: Int[Tensor, " batch"], student: nn.Module
    ) -> Float[Tensor, "batch classes"]:
        """The corrected label."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Heads:
    """The networks of one fold."""

    student: nn.Module
    corrector: FeatureCorrector
    optimizer: torch.optim.Optimizer | None


Build = Callable[[int, int, int], Heads]  # (rows learnt from, features, classes) with torch's generator seeded


@dataclass(frozen=True, kw_only=True)
class FeatureSettings:
    """What the feature mode of every such method needs."""

    name: str
    schedule: MetaSchedule
    min_steps: int  # epochs are repeated until so many steps are taken
    sample_rows: int
    folds: int  # 0: nothing is held out, as published
    answer: Literal["best", "student", "teacher"]
    trusted_in_noisy: bool = False  # trusted rows are also learnt from with their observed labels


@dataclass(kw_only=True)
class Fold:
    """One fold's networks, what they said of held-out trusted rows, and copies of them."""

    heads: Heads
    held: Rows  # trusted rows that were not learnt from; all of them where nothing is held out
    student_logits: list[Array] = field(default_factory=list)  # [h, K] for each kept state
    teacher_logs: list[Array] = field(default_factory=list)  # [h, K] log q; NaN where the observed label is unknown
    states: list[tuple[Any, Any]] = field(default_factory=list)
    records: list[dict[str, float]] = field(default_factory=list)

    def load(self, number: int) -> None:
        """Put kept state `number` back into the networks."""
        student, corrector = self.states[number]
        self.heads.student.load_state_dict(student)
        self.heads.corrector.load_state_dict(corrector)


@dataclass(frozen=True, kw_only=True)
class Standardised:
    """A sample of noisy rows and the trusted rows, each feature with mean 0 and variance 1 over the sample."""

    rows: Rows  # [s] numbers of the sampled rows, ascending
    noisy: Float[Tensor, "rows features"]
    trusted: Float[Tensor, "trusted features"]
    mean: FloatArray
    scale: FloatArray

    def of(self, features: FloatArray) -> Float[Tensor, "batch features"]:
        """Any rows in the same measure."""
        return torch.from_numpy((features - self.mean) * self.scale)


def purify_on_features(
    task: PurifyTask, settings: FeatureSettings, build: Build, generator: np.random.Generator
) -> Purification:
    """Train the folds, choose, and answer for every noisy row."""
    data = standardised_sample(task, settings.sample_rows, generator)
    if min(len(task.trusted_label), len(data.rows)) < 2 * settings.folds:
        settings = replace(settings, folds=0)  # too few rows to hold any out
    fold_of_trusted, fold_of_noisy = _deal(task, len(data.rows), settings.folds, generator)
    split = np.full(task.noisy.shape[0], -1, dtype=np.int8)  # -1: learnt by no fold, so all may answer
    folds = []
    for number in range(max(settings.folds, 1)):
        learnt = np.flatnonzero(fold_of_trusted != number)
        held = np.flatnonzero(fold_of_trusted == number) if settings.folds else np.arange(len(fold_of_trusted))
        seen = np.flatnonzero(fold_of_noisy != number)
        seed = int(generator.integers(2**62))
        title = f"{settings.name}: fit {number + 1} of {max(settings.folds, 1)}"
        folds.append(_fit(task, data, learnt, held, seen, settings, build, seed, title))
    if settings.folds:
        split[data.rows] = fold_of_noisy
    chosen = _choose(folds, task, settings)
    for fold in folds:
        fold.load(chosen.state)
    return _answer(folds, chosen, split, data, task, settings)


def standardised_sample(task: PurifyTask, most: int, generator: np.random.Generator) -> Standardised:
    """One pass over the noisy features; a feature that hardly varies over the sample is left out (scale 0)."""
    total, width = task.noisy.shape
    rows = np.sort(generator.choice(total, size=min(most, total), replace=False))
    values = np.empty((len(rows), width), dtype=np.float32)
    for block, batch in task.noisy.batches():
        start, stop = np.searchsorted(rows, [block.start, block.stop])
        values[start:stop] = batch[rows[start:stop] - block.start]
    mean = values.mean(axis=0, dtype=np.float64)
    std = values.std(axis=0, dtype=np.float64)
    alive = std > 1e-5 * max(float(std.max(initial=0.0)), 1e-30)
    scale = np.where(alive, 1 / np.where(alive, std, 1.0), 0.0).astype(np.float32)
    mean = mean.astype(np.float32)
    values -= mean
    values *= scale
    trusted = torch.from_numpy((task.trusted.astype(np.float32) - mean) * scale)
    return Standardised(rows=rows, noisy=torch.from_numpy(values), trusted=trusted, mean=mean, scale=scale)


def _deal(task: PurifyTask, sampled: int, folds: int, generator: np.random.Generator) -> tuple[Rows, Rows]:
    """Fold numbers of the trusted rows and of the sampled noisy rows; -1 throughout where nothing is held out."""
    if not folds:
        return np.full(len(task.trusted_label), -1), np.full(sampled, -1)
    trusted = stratified_folds(task.trusted_label, folds, generator.permutation(len(task.trusted_label)))
    return trusted, generator.permutation(sampled) % folds


def _fit(
    task: PurifyTask,
    data: Standardised,
    learnt: Rows,
    held: Rows,
    seen: Rows,
    settings: FeatureSettings,
    build: Build,
    seed: int,
    title: str,
) -> Fold:
    """Train one fold's networks and look at them about `KEPT` times."""
    rows = meta_rows(task, data, learnt, seen, trusted_in_noisy=settings.trusted_in_noisy)
    steps = math.ceil(len(rows.noisy) / settings.schedule.batch_size)
    epochs = max(settings.schedule.epochs, math.ceil(settings.min_steps / steps))
    schedule = replace(settings.schedule, epochs=epochs)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        heads = build(len(rows.noisy), data.noisy.shape[1], task.classes)
    trainer = MetaTrainer(heads.student, heads.corrector, heads.optimizer, schedule)
    fold = Fold(heads=heads, held=held)
    every = math.ceil(epochs / KEPT)
    with progress_bar(title, epochs, "epochs") as advance:
        for end in trainer.run(rows, torch.Generator().manual_seed(seed)):
            if (epochs - end.epoch) % every == 0:
                _look(fold, end, task, data)
            advance(note=f"student loss {end.losses['student_loss']:.3f}")
    return fold


def meta_rows(
    task: PurifyTask, data: Standardised, learnt: Rows, seen: Rows, *, trusted_in_noisy: bool = False
) -> MetaRows:
    """The tensors of a fit on the trusted rows `learnt` and the sampled noisy rows `seen`."""
    noisy, observed = data.noisy[torch.from_numpy(seen)], task.observed[data.rows[seen]]
    if trusted_in_noisy:
        again = learnt[task.trusted_observed[learnt] != NO_LABEL]
        noisy = torch.cat([noisy, data.trusted[torch.from_numpy(again)]])
        observed = np.concatenate([observed, task.trusted_observed[again]])
    return MetaRows(
        noisy=FeatureInputs(values=noisy),
        observed=torch.from_numpy(observed.astype(np.int64)),
        trusted=FeatureInputs(values=data.trusted),
        trusted_label=torch.from_numpy(task.trusted_label.astype(np.int64)),
        trusted_observed=torch.from_numpy(task.trusted_observed.astype(np.int64)),
        learnt=torch.from_numpy(learnt),
    )


@torch.no_grad()
def _look(fold: Fold, end: EpochEnd, task: PurifyTask, data: Standardised) -> None:
    """What the networks say of the held-out trusted rows now, and a copy of them."""
    inputs, label = data.trusted[torch.from_numpy(fold.held)], task.trusted_label[fold.held]
    observed = task.trusted_observed[fold.held]
    known = observed != NO_LABEL
    student, corrector = fold.heads.student, fold.heads.corrector
    logits = student(inputs).double().numpy()
    logs = np.full(logits.shape, np.nan)
    if known.any():
        logs[known] = _log_answer(corrector, inputs[torch.from_numpy(known)], observed[known], student)
    fold.student_logits.append(logits)
    fold.teacher_logs.append(logs)
    fold.states.append((_copied(student), _copied(corrector)))
    record = {"epoch": float(end.epoch), **end.losses, "student_accuracy": float((logits.argmax(1) == label).mean())}
    gate = getattr(corrector, "gate", None)
    for name, which in (("gate_right", observed == label), ("gate_wrong", known & (observed != label))):
        if gate is not None and which.any():
            picked = torch.from_numpy(observed[which].astype(np.int64))
            record[name] = float(gate(inputs[torch.from_numpy(which)], picked).mean())
    fold.records.append(record)


def _log_answer(corrector: FeatureCorrector, inputs: Tensor, observed: IntArray, student: nn.Module) -> Array:
    with torch.no_grad():
        found = corrector.answer(inputs, torch.from_numpy(observed.astype(np.int64)), student)
    return np.asarray(np.log(np.maximum(found.double().numpy(), FLOOR)))


def _copied(network: Any) -> dict[str, Any]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


# --- choosing ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A kind of answer by the networks at a kept state."""

    kind: AnswerKind
    state: int
    epoch: float
    loss: float  # what decides: the smaller the better
    accuracy: float  # of the held-out answers


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The kind of answer and the state of the networks, with the table that they were chosen from."""

    kind: AnswerKind
    state: int
    candidates: list[Candidate]


def _choose(folds: list[Fold], task: PurifyTask, settings: FeatureSettings) -> Chosen:
    """By the loss of calibrated held-out answers; without folds by the student's accuracy on all trusted rows."""
    kinds = _kinds(task, settings)
    states = range(len(folds[0].states))
    table = [_candidate(folds, kind, state, task, settings) for kind in kinds for state in states]
    best = min(table, key=lambda candidate: (candidate.loss, -candidate.state))
    return Chosen(kind=best.kind, state=best.state, candidates=table)


def _kinds(task: PurifyTask, settings: FeatureSettings) -> list[AnswerKind]:
    if settings.answer != "best":
        return [settings.answer]
    seen = np.unique(task.trusted_label[task.trusted_observed != NO_LABEL])
    judgeable = len(seen) == len(
        np.unique(task.trusted_label)
    )  # else nothing tells what the teacher's answers are worth
    return ["student", "teacher"] if judgeable else ["student"]


def _candidate(
    folds: list[Fold], kind: AnswerKind, state: int, task: PurifyTask, settings: FeatureSettings
) -> Candidate:
    student = gathered([fold.student_logits[state] for fold in folds], folds, task)
    if not settings.folds:  # the paper: the trusted rows validate the student, though they were learnt from
        accuracy = float((student.argmax(axis=1) == task.trusted_label).mean())
        loss = 1 - accuracy
    else:
        teacher = gathered([fold.teacher_logs[state] for fold in folds], folds, task)
        loss, accuracy = _judged(teacher if kind == "teacher" else student, task, evidence=kind == "student")
    epoch = folds[0].records[state]["epoch"]
    return Candidate(kind=kind, state=state, epoch=epoch, loss=loss, accuracy=accuracy)


def gathered(parts: list[Array], folds: list[Fold], task: PurifyTask) -> Array:
    """[m, K] from the folds' parts [h, K]."""
    scores = np.empty((len(task.trusted_label), task.classes))
    for part, fold in zip(parts, folds, strict=True):
        scores[fold.held] = part
    return scores


def _judged(scores: Array, task: PurifyTask, *, evidence: bool) -> tuple[float, float]:
    """(log-loss, accuracy) of calibrated scores on the trusted rows whose observed label is known (else on all)."""
    known = task.trusted_observed != NO_LABEL
    use = known if known.any() else np.ones(len(known), dtype=bool)
    found = fit_link(scores[use], task.trusted_label[use])(scores[use])
    if evidence and known.any():
        transition = estimate_transition(
            found,
            task.trusted_observed[use],
            anchor_label=task.trusted_label[use],
            anchor_observed=task.trusted_observed[use],
        )
        found = posterior(found, transition, task.trusted_observed[use]).astype(np.float64)
    label = task.trusted_label[use]
    return log_loss(found, label), float((found.argmax(axis=1) == label).mean())


# --- answering ---------------------------------------------------------------------------------------------------


def _answer(
    folds: list[Fold],
    chosen: Chosen,
    split: npt.NDArray[np.int8],
    data: Standardised,
    task: PurifyTask,
    settings: FeatureSettings,
) -> Purification:
    """The posterior of every noisy row, and of every trusted row out of fold."""
    logits = gathered([fold.student_logits[chosen.state] for fold in folds], folds, task)
    scores = _all_scores(folds, split, data, task, "student")
    link = fit_link(logits, task.trusted_label) if settings.folds else SoftmaxLink(1.0, np.zeros(task.classes))
    probabilities = link(scores)
    transition = estimate_transition(
        probabilities, task.observed, anchor_label=task.trusted_label, anchor_observed=task.trusted_observed
    )
    if chosen.kind == "student":
        answer = posterior(probabilities, transition, task.observed)
    else:
        answer = _teacher_answer(folds, chosen, split, data, task, settings)
    trusted = _trusted_posterior(folds, chosen, data, task) if settings.folds else None
    metrics = _metrics(chosen, folds, answer, logits, transition, task)
    return Purification(posterior=answer, metrics=metrics, curve=_curve(folds), trusted_posterior=trusted)


def _teacher_answer(
    folds: list[Fold],
    chosen: Chosen,
    split: npt.NDArray[np.int8],
    data: Standardised,
    task: PurifyTask,
    settings: FeatureSettings,
) -> FloatArray:
    logs = gathered([fold.teacher_logs[chosen.state] for fold in folds], folds, task)
    known = np.isfinite(logs).all(axis=1)
    calibrated = settings.folds and known.any()
    link = fit_link(logs[known], task.trusted_label[known]) if calibrated else SoftmaxLink(1.0, np.zeros(task.classes))
    return link(_all_scores(folds, split, data, task, "teacher")).astype(np.float32)


def _all_scores(
    folds: list[Fold], split: npt.NDArray[np.int8], data: Standardised, task: PurifyTask, kind: AnswerKind
) -> Array:
    """[n, K] student logits or log q, each row by the fold that did not learn it; by the mean where none did."""
    scores = np.empty((task.noisy.shape[0], task.classes), dtype=np.float64)
    with progress_bar("labels", task.noisy.shape[0], "rows") as advance:
        for rows, features in task.noisy.batches():
            inputs = data.of(features)
            found = np.stack([_scores(fold, inputs, task.observed[rows], kind) for fold in folds])
            part = split[rows]
            own = found[np.maximum(part, 0), np.arange(len(part))]
            scores[rows] = np.where((part < 0)[:, None], found.mean(axis=0), own)
            advance(len(part))
    return scores


@torch.no_grad()
def _scores(fold: Fold, inputs: Tensor, observed: IntArray, kind: AnswerKind) -> Array:
    if kind == "teacher":
        return _log_answer(fold.heads.corrector, inputs, observed, fold.heads.student)
    logits: Array = fold.heads.student(inputs).double().numpy()
    return logits


def _trusted_posterior(folds: list[Fold], chosen: Chosen, data: Standardised, task: PurifyTask) -> FloatArray:
    """Out of fold: the fold's networks; calibration and transition matrix from the other folds' trusted rows."""
    logits = gathered([fold.student_logits[chosen.state] for fold in folds], folds, task)
    logs = gathered([fold.teacher_logs[chosen.state] for fold in folds], folds, task)
    answer = np.empty(logits.shape, dtype=np.float32)
    for fold in folds:
        others = np.setdiff1d(np.arange(len(logits)), fold.held)
        link = fit_link(logits[others], task.trusted_label[others])
        answer[fold.held] = link(logits[fold.held])
        known = fold.held[task.trusted_observed[fold.held] != NO_LABEL]
        if not len(known):
            continue
        if chosen.kind == "student":
            transition = _fold_transition(fold, link, others, data, task)
            answer[known] = posterior(link(logits[known]), transition, task.trusted_observed[known])
        else:
            rest = others[np.isfinite(logs[others]).all(axis=1)]
            answer[known] = fit_link(logs[rest], task.trusted_label[rest])(logs[known])
    return answer


def _fold_transition(fold: Fold, link: SoftmaxLink, others: Rows, data: Standardised, task: PurifyTask) -> Array:
    """T by this fold's student on the sampled rows, anchored in the trusted rows of the other folds."""
    observed = task.observed[data.rows]
    return estimate_transition(
        link(_scores(fold, data.noisy, observed, "student")),
        observed,
        anchor_label=task.trusted_label[others],
        anchor_observed=task.trusted_observed[others],
    )


def _curve(folds: list[Fold]) -> tuple[Mapping[str, float], ...]:
    """The mean over the folds of what was seen at each kept epoch."""
    return tuple(_mean_record(records) for records in zip(*(fold.records for fold in folds), strict=True))


def _mean_record(records: tuple[dict[str, float], ...]) -> dict[str, float]:
    names = dict.fromkeys(name for record in records for name in record)
    return {name: round(float(np.mean([record[name] for record in records if name in record])), 6) for name in names}


def _metrics(
    chosen: Chosen, folds: list[Fold], answer: FloatArray, logits: Array, transition: Array, task: PurifyTask
) -> dict[str, Any]:
    epoch = folds[0].records[chosen.state]["epoch"]
    return {
        "candidates": _table(chosen.candidates),
        "chosen": {"answer": chosen.kind, "epoch": epoch},
        "trusted_rows": len(task.trusted_label),
        "held_out_accuracy": round(float((logits.argmax(axis=1) == task.trusted_label).mean()), 5),
        "transition": [[round(float(value), 5) for value in row] for row in transition],
        "noise_rate": round(float(1 - answer[np.arange(len(answer)), task.observed].mean()), 5),
    }


def _table(candidates: list[Candidate]) -> list[dict[str, Any]]:
    """The best dozen, the best first."""
    return [
        {
            "answer": candidate.kind,
            "epoch": candidate.epoch,
            "held_out_loss": round(candidate.loss, 5),
            "held_out_accuracy": round(candidate.accuracy, 5),
        }
        for candidate in sorted(candidates, key=lambda candidate: candidate.loss)[:12]
    ]
