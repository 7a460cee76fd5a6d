"""Meta label correction on cached features: folds, the choice of epoch and posterior, and one pass that writes labels.

Trusted rows are assigned to folds, and so are the noisy rows that are learnt from. Each fold has a student and a
corrector of its own that see neither its trusted nor its noisy rows, so everything that they predict is out of sample:
the epoch and the kind of posterior are chosen on trusted rows that were held out, and no network corrects a label
that it learned. Rows outside the sample are predicted by the mean over the folds.

Held in memory: a uniform sample of at most `sample_rows` rows in float32, twice while a fold learns, and n x K scores.
Features stream two or three times: sample, student's predictions, teacher's where these are chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lnl_core.contracts import NO_LABEL, FloatArray, IntArray
from lnl_core.progress import progress_bar
from lnl_core.purify.meta.folds import (
    Build,
    FeatureSettings,
    Fold,
    Standardised,
    assign_folds,
    fit,
    log_corrected,
    standardised_sample,
)
from lnl_core.purify.task import Purification, PurifyTask
from lnl_core.statistics.evidence import Evidence, fit_evidence
from lnl_core.statistics.softmax_link import SoftmaxLink, fit_link, log_loss
from lnl_core.statistics.transition import estimate_transition

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]
PosteriorKind = Literal["student", "teacher"]


def purify_on_features(
    task: PurifyTask, settings: FeatureSettings, build: Build, generator: np.random.Generator
) -> Purification:
    """Train the folds, choose, and predict every noisy row."""
    data = standardised_sample(task, settings.sample_rows, generator)
    if min(len(task.trusted_label), len(data.rows)) < 2 * settings.folds:
        settings = replace(settings, folds=0)  # too few rows to hold any out
    fold_of_trusted, fold_of_noisy = assign_folds(task, len(data.rows), settings.folds, generator)
    split = np.full(task.noisy.shape[0], -1, dtype=np.int8)  # -1: learnt by no fold, so all may predict it
    folds = []
    for number in range(max(settings.folds, 1)):
        learnt = np.flatnonzero(fold_of_trusted != number)
        held = np.flatnonzero(fold_of_trusted == number) if settings.folds else np.arange(len(fold_of_trusted))
        seen = np.flatnonzero(fold_of_noisy != number)
        seed = int(generator.integers(2**62))
        title = f"{settings.name}: fit {number + 1} of {max(settings.folds, 1)}"
        folds.append(fit(task, data, learnt, held, seen, settings, build, seed, title))
    if settings.folds:
        split[data.rows] = fold_of_noisy
    chosen = _choose(folds, task, settings)
    for fold in folds:
        fold.load(chosen.state)
    return _posterior(folds, chosen, split, data, task, settings)


# --- choosing ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A kind of posterior by the networks at a kept state."""

    kind: PosteriorKind
    state: int
    epoch: float
    loss: float  # what decides: the smaller the better
    accuracy: float  # of the held-out predictions


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The kind of posterior and the state of the networks, with the table that they were chosen from."""

    kind: PosteriorKind
    state: int
    candidates: list[Candidate]


def _choose(folds: list[Fold], task: PurifyTask, settings: FeatureSettings) -> Chosen:
    """By the loss of calibrated held-out predictions; without folds by the student's accuracy on all trusted rows."""
    kinds = _kinds(task, settings)
    states = range(len(folds[0].states))
    table = [_candidate(folds, kind, state, task, settings) for kind in kinds for state in states]
    best = min(table, key=lambda candidate: (candidate.loss, -candidate.state))
    return Chosen(kind=best.kind, state=best.state, candidates=table)


def _kinds(task: PurifyTask, settings: FeatureSettings) -> list[PosteriorKind]:
    if settings.posterior != "best":
        return [settings.posterior]
    seen = np.unique(task.trusted_label[task.trusted_observed != NO_LABEL])
    comparable = len(seen) == len(np.unique(task.trusted_label))  # else nothing shows what the teacher's are worth
    return ["student", "teacher"] if comparable else ["student"]


def _candidate(
    folds: list[Fold], kind: PosteriorKind, state: int, task: PurifyTask, settings: FeatureSettings
) -> Candidate:
    student = gathered([fold.student_logits[state] for fold in folds], folds, task)
    if not settings.folds:  # the paper: the trusted rows validate the student, though they were learnt from
        accuracy = float((student.argmax(axis=1) == task.trusted_label).mean())
        loss = 1 - accuracy
    else:
        teacher = gathered([fold.teacher_logs[state] for fold in folds], folds, task)
        scored_by = (
            kind if np.isfinite(teacher).all(axis=1).any() else "student"
        )  # no observed label: the student stands in
        loss, accuracy = _scored(teacher if scored_by == "teacher" else student, task, evidence=scored_by == "student")
    epoch = folds[0].records[state]["epoch"]
    return Candidate(kind=kind, state=state, epoch=epoch, loss=loss, accuracy=accuracy)


def gathered(parts: list[Array], folds: list[Fold], task: PurifyTask) -> Array:
    """[m, K] from the folds' parts [h, K]."""
    scores = np.empty((len(task.trusted_label), task.classes))
    for part, fold in zip(parts, folds, strict=True):
        scores[fold.held] = part
    return scores


def _scored(scores: Array, task: PurifyTask, *, evidence: bool) -> tuple[float, float]:
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
        weighed = fit_evidence(found, transition, task.trusted_observed[use], task.trusted_label[use])
        found = weighed(found, transition, task.trusted_observed[use]).astype(np.float64)
    label = task.trusted_label[use]
    return log_loss(found, label), float((found.argmax(axis=1) == label).mean())


# --- posterior ---------------------------------------------------------------------------------------------------


def _posterior(
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
    held = np.full(len(logits), bool(settings.folds))
    link = _calibration(logits[held], task.trusted_label[held])
    probabilities = link(scores)
    transition = estimate_transition(
        probabilities, task.observed, anchor_label=task.trusted_label, anchor_observed=task.trusted_observed
    )
    if chosen.kind == "student":
        weighed = _evidence(link(logits[held]), transition, np.flatnonzero(held), task)
        posterior = weighed(probabilities, transition, task.observed)
    else:
        posterior = _teacher_posterior(folds, chosen, split, data, task, settings)
    trusted = _trusted_posterior(folds, chosen, data, task) if settings.folds else None
    metrics = _metrics(chosen, folds, posterior, logits, transition, task)
    return Purification(posterior=posterior, metrics=metrics, curve=_curve(folds), trusted_posterior=trusted)


def _calibration(scores: Array, label: IntArray) -> SoftmaxLink:
    """The link that held-out scores ask for; plain softmax where there are none."""
    return fit_link(scores, label) if len(scores) else SoftmaxLink(1.0, np.zeros(scores.shape[1]))


def _evidence(probabilities: Array, transition: Array, rows: Rows, task: PurifyTask) -> Evidence:
    """How much the observed label counts beside held-out p(y | x) [h, K] of the trusted rows `rows`."""
    known = task.trusted_observed[rows] != NO_LABEL
    of = rows[known]
    return fit_evidence(probabilities[known], transition, task.trusted_observed[of], task.trusted_label[of])


def _teacher_posterior(
    folds: list[Fold],
    chosen: Chosen,
    split: npt.NDArray[np.int8],
    data: Standardised,
    task: PurifyTask,
    settings: FeatureSettings,
) -> FloatArray:
    logs = gathered([fold.teacher_logs[chosen.state] for fold in folds], folds, task)
    known = np.isfinite(logs).all(axis=1)
    link = _calibration(logs[known & bool(settings.folds)], task.trusted_label[known & bool(settings.folds)])
    return link(_all_scores(folds, split, data, task, "teacher")).astype(np.float32)


def _all_scores(
    folds: list[Fold], split: npt.NDArray[np.int8], data: Standardised, task: PurifyTask, kind: PosteriorKind
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
def _scores(fold: Fold, inputs: Tensor, observed: IntArray, kind: PosteriorKind) -> Array:
    if kind == "teacher":
        return log_corrected(fold.heads.corrector, inputs, observed, fold.heads.student)
    logits: Array = fold.heads.student(inputs).double().numpy()
    return logits


def _trusted_posterior(folds: list[Fold], chosen: Chosen, data: Standardised, task: PurifyTask) -> FloatArray:
    """Out of fold: the fold's networks; calibration and transition matrix from the other folds' trusted rows."""
    logits = gathered([fold.student_logits[chosen.state] for fold in folds], folds, task)
    logs = gathered([fold.teacher_logs[chosen.state] for fold in folds], folds, task)
    posterior = np.empty(logits.shape, dtype=np.float32)
    for fold in folds:
        others = np.setdiff1d(np.arange(len(logits)), fold.held)
        link = fit_link(logits[others], task.trusted_label[others])
        posterior[fold.held] = link(logits[fold.held])
        known = fold.held[task.trusted_observed[fold.held] != NO_LABEL]
        if not len(known):
            continue
        if chosen.kind == "student":
            transition = _fold_transition(fold, link, others, data, task)
            weighed = _evidence(link(logits[others]), transition, others, task)
            posterior[known] = weighed(link(logits[known]), transition, task.trusted_observed[known])
        else:
            rest = others[np.isfinite(logs[others]).all(axis=1)]
            posterior[known] = _calibration(logs[rest], task.trusted_label[rest])(logs[known])
    return posterior


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
    chosen: Chosen, folds: list[Fold], posterior: FloatArray, logits: Array, transition: Array, task: PurifyTask
) -> dict[str, Any]:
    epoch = folds[0].records[chosen.state]["epoch"]
    return {
        "candidates": _table(chosen.candidates),
        "chosen": {"posterior": chosen.kind, "epoch": epoch},
        "trusted_rows": len(task.trusted_label),
        "held_out_accuracy": round(float((logits.argmax(axis=1) == task.trusted_label).mean()), 5),
        "transition": [[round(float(value), 5) for value in row] for row in transition],
        "noise_rate": round(float(1 - posterior[np.arange(len(posterior)), task.observed].mean()), 5),
    }


def _table(candidates: list[Candidate]) -> list[dict[str, Any]]:
    """The best dozen, the best first."""
    return [
        {
            "posterior": candidate.kind,
            "epoch": candidate.epoch,
            "held_out_loss": round(candidate.loss, 5),
            "held_out_accuracy": round(candidate.accuracy, 5),
        }
        for candidate in sorted(candidates, key=lambda candidate: candidate.loss)[:12]
    ]
