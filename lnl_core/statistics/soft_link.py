"""From scores to calibrated probabilities and the transition matrix at once, where the labels are noisy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from lnl_core.contracts import NO_LABEL, IntArray
from lnl_core.statistics.softmax_link import BIAS_PENALTY, SoftmaxLink, softmax

Array = npt.NDArray[np.float64]
LARGEST_SCALE = 7.0  # beta stays within e^7 of 1/std of the scores, also where they separate the targets


Structure = Literal["uniform", "full"]


@dataclass(frozen=True, kw_only=True)
class NoisyLink:
    """p(observed = j | s) = sum_y softmax(beta s + b)[y] T[y, j], fitted to observed labels."""

    link: SoftmaxLink
    transition: Array  # [K, K] T, rows sum to 1

    def joint(self, scores: Array, observed: IntArray) -> Array:
        """p(y, observed | s) [n, K]; p(y | s) where the observed label is NO_LABEL."""
        return np.asarray(self.link(scores) * _columns(self.transition, observed))


def fit_noisy_link(
    scores: Array,
    observed: IntArray,
    verified: IntArray,
    anchor_weight: float,
    structure: Structure,
    prior: Array,
    start: NoisyLink | None = None,
    steps: int = 400,
) -> NoisyLink:
    """Scale, biases and T that make the labels likeliest, all at once by L-BFGS.

    EM climbs the same likelihood, but where most labels are wrong a larger T[y, y] with a smaller scale is nearly as
    likely, and EM creeps along that ridge: 60 cycles at 80 % noise had gone a third of the way.

    Args:
        scores: [n, K], none of a regression that saw the row's own label.
        observed: [n], NO_LABEL where there is none.
        verified: [n], NO_LABEL where there is none; such a row's likelihood is f[verified] T[verified, observed].
        anchor_weight: how much a row with a verified label counts.
        structure: `uniform`: T = gamma I + (1 - gamma) / K; `full`: any T.
        prior: [K, K] rows (true, observed) added to the count of T: without some, few rows leave the noise open.
        start: where the search starts; else at the T of `prior`.
    """
    classes = scores.shape[1]
    evidence = _Evidence.of(observed, verified, anchor_weight, prior)
    neutral = -np.log(scores.std() + 1e-12)
    scale, bias, matrix = neutral + 0.5, np.zeros(classes), prior / prior.sum(axis=1, keepdims=True)
    if start is not None:
        scale, bias, matrix = np.log(start.link.beta), start.link.bias, start.transition
    tail = np.log(0.99 * matrix + 0.01 / classes).ravel()
    if structure == "uniform":
        share = (float(np.diag(matrix).mean()) - 1 / classes) / (1 - 1 / classes)
        gamma = np.clip(share, 0.02, 0.9)  # at 1 no gradient would lead away
        tail = np.array([np.log(gamma / (1 - gamma))])

    def objective(parameters: Array) -> tuple[float, Array]:
        return _objective(parameters, scores, evidence, structure)

    bounds = [(neutral - LARGEST_SCALE, neutral + LARGEST_SCALE), *[(-30.0, 30.0)] * (classes + len(tail))]
    first = np.concatenate([[np.clip(scale, *bounds[0])], bias, tail])
    best = minimize(objective, first, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": steps}).x
    link = SoftmaxLink(float(np.exp(best[0])), best[1 : 1 + classes])
    return NoisyLink(link=link, transition=_matrix(best[1 + classes :], classes, structure))


@dataclass(frozen=True, kw_only=True)
class _Evidence:
    """What the labels say, as arrays."""

    observed: IntArray  # [n]
    weights: Array  # [n] sum to 1
    possible: Array  # [n, K] likelihood of the verified label, if there is one
    seen: Array  # [n, K] one-hot observed label; zeros where there is none
    added: Array  # [K, K] prior counts, in the unit of the weights

    @classmethod
    def of(cls, observed: IntArray, verified: IntArray, anchor_weight: float, prior: Array) -> _Evidence:
        classes, anchored = len(prior), verified != NO_LABEL
        weights = np.where(anchored, anchor_weight, 1.0)
        total = float(weights.sum())
        possible = np.ones((len(observed), classes))
        count = int(anchored.sum())  # as in `fit_link`: a few rows set apart without an error do not make f certain
        possible[anchored] = (1 + count * np.eye(classes)[verified[anchored]]) / (count + classes)
        seen = np.eye(classes + 1)[observed][:, :classes]  # NO_LABEL: the last column, dropped
        return cls(observed=observed, weights=weights / total, possible=possible, seen=seen, added=prior / total)


def _matrix(tail: Array, classes: int, structure: Structure) -> Array:
    """T of its parameters: the logits of its rows, or the logit of gamma."""
    if structure == "full":
        return softmax(tail.reshape(classes, classes))
    gamma = 1 / (1 + np.exp(-tail[0]))
    return np.asarray(gamma * np.eye(classes) + (1 - gamma) / classes)


def _objective(parameters: Array, scores: Array, evidence: _Evidence, structure: Structure) -> tuple[float, Array]:
    """-log posterior of (log beta, b, T's parameters) a row, and its gradient: q of the E-step against f."""
    classes = scores.shape[1]
    beta, bias, tail = np.exp(parameters[0]), parameters[1 : 1 + classes], parameters[1 + classes :]
    transition = _matrix(tail, classes, structure)
    f = softmax(beta * scores + bias)
    joint = f * _columns(transition, evidence.observed) * evidence.possible
    mass = np.maximum(joint.sum(axis=1), 1e-300)
    q = joint / mass[:, None]
    safe = np.maximum(transition, 1e-300)
    loss = -(evidence.weights @ np.log(mass)) - (evidence.added * np.log(safe)).sum() + BIAS_PENALTY * (bias**2).sum()
    residual = evidence.weights[:, None] * (f - q)
    counts = (evidence.weights[:, None] * q).T @ evidence.seen + evidence.added
    if structure == "full":
        slope = (counts.sum(axis=1, keepdims=True) * transition - counts).ravel()
    else:
        gamma = 1 / (1 + np.exp(-tail[0]))
        slope = np.array([-(counts / safe * (np.eye(classes) - 1 / classes)).sum() * gamma * (1 - gamma)])
    scale = [beta * (residual * scores).sum()]
    return float(loss), np.concatenate([scale, residual.sum(axis=0) + 2 * BIAS_PENALTY * bias, slope])


def _columns(transition: Array, observed: IntArray) -> Array:
    """T[:, observed] [n, K]; 1 where no label was observed."""
    return np.asarray(np.concatenate([transition, np.ones((len(transition), 1))], axis=1).T[observed])
