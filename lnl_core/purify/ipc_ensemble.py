"""An ensemble around closed-form IPC: ridge regression on labels that descend the trusted loss, and cross-fitted heads.

Ours, built on two ideas of Tu et al., "Learning from Noisy Labels with Decoupled Meta Label Purifier", CVPR 2023 (the
method of that paper is `dmlp`): features stay frozen, and the labels are what is learned, by two corrections:

    IPC  w*(Y) = (F'F + lambda I)^-1 F'Y                                   Eq. 6: least squares on the noisy rows
         P(Y) = F_v w*(Y)                                                  Eq. 7: its scores on the trusted rows
         Y <- Y - eta dL_val(P(Y)) / dY                                    Eq. 9: labels descend the trusted loss
    EAC  a linear classifier C learns the corrected labels by SGD          Eq. 10

Everything up to L_val is linear in Y: P(Y - D) = P(Y) - F_v A^-1 F' D with A = F'F + lambda I. A gradient step
D = eta F A^-1 F_v' S therefore moves the trusted scores by eta K S with K = F_v A^-1 F'F A^-1 F_v' [m, m]. The loop
runs on the m x K trusted scores alone; two passes over the features suffice, whatever n is: one for the moments,
one that writes the labels.

What is not the paper's:
  - ridge penalty, feature transform and number of IPC steps are chosen by cross-validation inside the trusted set;
    without them m < d lets IPC fit the trusted rows exactly and move the labels of all others at random;
  - L_val is the cross-entropy of calibrated scores, softmax(beta P + b) with beta and b fitted on trusted rows: one-hot
    targets against raw least-squares scores mostly demand a larger scale (noise shrinks the scores), and
    cross-validation then prefers no step at all; `squared_error` adds the paper's other term;
  - no noisy row is predicted by a classifier that learned its own observed label: IPC by the closed leave-one-out
    formula of ridge regression, EAC by cross-fitting. Else p(y | x) leans to that label, and the noise looks small;
  - EAC does not replace labels every T epochs (Eq. 11). It is up to three kinds of ensemble members beside IPC: linear
    heads, small networks, and the neighbours' vote (which also corrects the labels that the other two learn). They are
    pooled on the log scale, with weights fitted on trusted rows out of fold;
  - the purified label is the mode of p(y | x)^a T[y, observed]^b e^(c [y = observed]): the observed label is evidence,
    with weights fitted on trusted rows (Bayes' rule has 1, 1, 0).

Memory: Gram [d, d] in float64, a sample of at most `eac_rows` rows in float32, and n x K probabilities. Features stream
three times (moments, sample, labels), once less without EAC, and once less where the caller keeps the moments.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lnl_core.contracts import NO_LABEL, FloatArray, IntArray
from lnl_core.purify import PURIFIERS
from lnl_core.purify.ipc_eac.eac import Correction, Ensemble, OfRows, with_eac
from lnl_core.purify.ipc_eac.ipc import Choice, IPCPath, fold_assignments, search, searched, training_rows
from lnl_core.purify.ipc_eac.settings import IPCEnsembleConfig
from lnl_core.purify.task import FeatureRows, Purification, PurifyTask, parts_of
from lnl_core.purify.trusted_set import check_trusted_set
from lnl_core.statistics.evidence import Evidence, fit_evidence
from lnl_core.statistics.softmax_link import log_loss
from lnl_core.statistics.transition import estimate_transition

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]

__all__ = ["IPCEnsembleConfig", "ipc_ensemble"]


@PURIFIERS.register(
    "ipc_ensemble",
    config=IPCEnsembleConfig,
    summary="closed-form IPC on frozen features with cross-fitted heads, pooled (ours, after DMLP; needs trusted rows)",
    source="parts of Tu et al., CVPR 2023",
    needs_trusted=True,
    draws_as="dmlp",  # its name until it got one of its own: the same seed still gives the same labels
)
def ipc_ensemble(task: PurifyTask, config: IPCEnsembleConfig, generator: np.random.Generator) -> Purification:
    """Purify the observed labels of `task`.

    Raises:
        ConfigError: no trusted rows, or a class without one; the message says what to add.
        ContractError: NaN, infinite or all-constant features.
    """
    check_trusted_set("ipc_ensemble", task)
    moments = task.moments()
    some = searched(task, config, generator)
    paths = {transform: IPCPath.of(moments, some, transform) for transform in dict.fromkeys(config.transforms)}
    choices, curve = search(paths, some, config, fold_assignments(some.trusted_label, config, generator))
    best = min(choices, key=lambda choice: choice.loss)
    path = paths[best.transform]
    if some is not task:
        path = path.evaluated_on(task.trusted)
    fold = fold_assignments(task.trusted_label, config, generator)[0]
    ipc = path.heads(task, best, config.squared_error, training_rows(fold))
    correction = with_eac(ipc, path.leverage(best, generator), task, moments, config, fold, generator)
    probabilities = _predict(correction.ensemble, task)
    probabilities = _with_prior(probabilities, task, config.prior)
    transition = estimate_transition(
        probabilities, task.observed, anchor_label=task.trusted_label, anchor_observed=task.trusted_observed
    )
    held_out = _with_prior(correction.held_out.astype(np.float32), task, config.prior)
    evidence, trusted = _evidence(held_out, np.stack(correction.transitions), fold, task)
    posterior = evidence(probabilities, transition, task.observed)
    metrics = _metrics(choices, best, correction, transition, evidence, posterior, task)
    return Purification(posterior=posterior, metrics=metrics, curve=curve, trusted_posterior=trusted)


def _predict(ensemble: Ensemble, task: PurifyTask) -> FloatArray:
    """p(y | x) [n, K], streamed, part by part where the task's execution sees fit."""
    parts = [
        _PartOfRows(place=place, features=features, observed=task.observed[place], known=ensemble.of_rows(place))
        for place, features in parts_of(task.noisy)
    ]
    if len(parts) == 1:
        return _predict_part(ensemble, parts[0])
    predict = functools.partial(_predict_part, ensemble.knowing(ensemble.of_rows(slice(0, 0))))
    probabilities = np.empty((task.noisy.shape[0], task.classes), dtype=np.float32)
    for part, found in zip(parts, task.execution.map(predict, parts, name=_name_of), strict=True):
        probabilities[part.place] = found
    return probabilities


@dataclass(frozen=True, kw_only=True)
class _PartOfRows:
    """Some of the noisy rows and all that their prediction needs beside the ensemble."""

    place: slice  # among all noisy rows
    features: FeatureRows  # [b, d]
    observed: IntArray  # [b]
    known: OfRows


def _name_of(part: _PartOfRows) -> str:
    return f"noisy rows {part.place.start} to {part.place.stop - 1}"


def _predict_part(ensemble: Ensemble, part: _PartOfRows) -> FloatArray:
    """p(y | x) [b, K]."""
    ensemble = ensemble.knowing(part.known)
    found = np.empty((len(part.observed), len(ensemble.pool.bias)), dtype=np.float32)
    for rows, features in part.features.batches():
        found[rows] = ensemble(features, part.observed[rows], rows)
    return found


def _evidence(held_out: FloatArray, transitions: Array, fold: Rows, task: PurifyTask) -> tuple[Evidence, FloatArray]:
    """What the observed label counts, and the trusted rows' predicted [m, K] by all else than their own fold.

    A row whose observed label is unknown is predicted by p(y | x) alone.

    Args:
        held_out: p(y | x) [m, K] out of fold.  transitions: [F, K, K], each without the trusted rows of a fold.
    """
    known = task.trusted_observed != NO_LABEL
    predicted = held_out.copy()

    def fitted(rows: npt.NDArray[np.bool_]) -> Evidence:
        return fit_evidence(
            held_out[rows], transitions[fold[rows]], task.trusted_observed[rows], task.trusted_label[rows]
        )

    for number, transition in enumerate(transitions):
        rows = known & (fold == number)
        evidence = fitted(known & (fold != number))
        predicted[rows] = evidence(held_out[rows], transition, task.trusted_observed[rows])
    return fitted(known), predicted


def _with_prior(probabilities: FloatArray, task: PurifyTask, prior: str) -> FloatArray:
    """Move p(y | x) from the trusted set's class prior to that of the noisy rows.

    `trusted` takes the two to be equal; `uniform` and `observed` (the share of each observed label) reweight.
    """
    if prior == "trusted":
        return probabilities
    source = np.bincount(task.trusted_label, minlength=task.classes) + 1.0
    observed = np.bincount(task.observed, minlength=task.classes) + 1.0
    target = observed if prior == "observed" else np.ones(task.classes)
    ratio = (target / target.sum()) / (source / source.sum())
    weighted = probabilities * ratio
    return np.asarray(weighted / weighted.sum(axis=1, keepdims=True), dtype=np.float32)


def _metrics(
    choices: list[Choice],
    best: Choice,
    correction: Correction,
    transition: Array,
    evidence: Evidence,
    posterior: FloatArray,
    task: PurifyTask,
) -> dict[str, Any]:
    held_out = correction.held_out
    ranked = sorted(choices, key=lambda choice: choice.loss)[:12]
    candidates = [
        {
            "transform": choice.transform,
            "ridge": choice.ridge,
            "steps": choice.steps,
            "held_out_loss": round(choice.loss, 5),
            "held_out_accuracy": round(choice.accuracy, 5),
        }
        for choice in ranked
    ]
    return {
        "candidates": candidates,
        "members": correction.table,
        "chosen": {"transform": best.transform, "ridge": best.ridge, "steps": best.steps},
        "trusted_rows": len(task.trusted_label),
        "held_out_loss": round(log_loss(held_out, task.trusted_label), 5),
        "held_out_accuracy": round(float((held_out.argmax(axis=1) == task.trusted_label).mean()), 5),
        "evidence": {name: round(weight, 4) for name, weight in asdict(evidence).items()},
        "transition": [[round(float(value), 5) for value in row] for row in transition],
        "noise_rate": round(float(1 - posterior[np.arange(len(posterior)), task.observed].mean()), 5),
    }
