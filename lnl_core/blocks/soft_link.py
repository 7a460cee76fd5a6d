"""From scores to calibrated probabilities where the labels are themselves only probable."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from lnl_core.blocks.softmax_link import BIAS_PENALTY, SoftmaxLink, softmax

Array = npt.NDArray[np.float64]
LARGEST_SCALE = 7.0  # beta stays within e^7 of 1/std of the scores, also where they separate the targets


def fit_soft_link(
    scores: Array, targets: Array, weights: Array, start: SoftmaxLink | None = None, steps: int = 30
) -> SoftmaxLink:
    """The (beta, b) that minimise the weighted cross-entropy of softmax(beta s + b) against soft targets.

    Args:
        scores, targets: [n, K]; rows of `targets` sum to 1.
        weights: [n] how much a row counts.
        start: where the search starts, e.g. the link of the EM cycle before.
        steps: most L-BFGS steps; a few are enough within an EM cycle.
    """
    weights = weights / weights.sum()
    neutral = -np.log(scores.std() + 1e-12)

    def objective(parameters: Array) -> tuple[float, Array]:
        beta, bias = np.exp(parameters[0]), parameters[1:]
        logits = beta * scores + bias
        logs = logits - logits.max(axis=1, keepdims=True)
        logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True))
        loss = -(weights @ (targets * logs).sum(axis=1)) + BIAS_PENALTY * (bias**2).sum()
        residual = weights[:, None] * (softmax(logits) - targets)
        gradient = np.concatenate([[beta * (residual * scores).sum()], residual.sum(axis=0) + 2 * BIAS_PENALTY * bias])
        return float(loss), gradient

    first = np.concatenate([[neutral], np.zeros(scores.shape[1])])
    if start is not None:
        first = np.concatenate([[np.log(start.beta)], start.bias])
    bounds = [(neutral - LARGEST_SCALE, neutral + LARGEST_SCALE), *[(None, None)] * scores.shape[1]]
    first[0] = np.clip(first[0], *bounds[0])
    best = minimize(objective, first, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": steps}).x
    return SoftmaxLink(float(np.exp(best[0])), best[1:])
