"""From scores to calibrated probabilities: p(y | s) = softmax(beta s + b), fitted on rows with verified labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

Array = npt.NDArray[np.float64]
BIAS_PENALTY = 0.005  # keeps the class biases finite where a fold has few rows of a class


@dataclass(frozen=True)
class SoftmaxLink:
    """Scale `beta` > 0 and class biases `bias` [K]."""

    beta: float
    bias: Array

    def __call__(self, scores: Array) -> Array:
        """Scores [n, K] -> probabilities [n, K]."""
        return softmax(self.beta * scores + self.bias)


def softmax(scores: npt.NDArray[np.floating]) -> npt.NDArray[Any]:
    """Softmax over the last axis, in the precision of `scores`."""
    exponents = np.exp(scores - scores.max(axis=-1, keepdims=True))
    exponents /= exponents.sum(axis=-1, keepdims=True)
    return np.asarray(exponents)


def log_loss(probabilities: Array, labels: npt.NDArray[np.integer]) -> float:
    """Mean of `row_losses`."""
    return float(row_losses(probabilities, labels).mean())


def row_losses(probabilities: Array, labels: npt.NDArray[np.integer]) -> Array:
    """-log p(label) of each row [n]; probabilities below 1e-12 count as 1e-12."""
    picked = probabilities[np.arange(len(labels)), labels]
    return np.asarray(-np.log(np.maximum(picked, 1e-12)))


def fit_link(scores: Array, labels: npt.NDArray[np.integer]) -> SoftmaxLink:
    """(log beta, b) by maximum likelihood of smoothed targets with a small ridge on b, by L-BFGS.

    The targets are (1 + n y) / (n + K): Platt (1999), Sec. 2.2, for K classes. Rows that the scores set apart without
    an error would else make beta as large as it may be, and every later row as good as certain.
    """
    classes = scores.shape[1]
    target = (len(labels) * np.eye(classes)[labels] + 1) / (len(labels) + classes)

    def objective(parameters: Array) -> tuple[float, Array]:
        beta, bias = np.exp(parameters[0]), parameters[1:]
        logits = beta * scores + bias
        residual = (softmax(logits) - target) / len(labels)
        top = logits.max(axis=1)
        log_sum = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
        loss = (log_sum - (target * logits).sum(axis=1)).mean() + BIAS_PENALTY * (bias**2).sum()
        gradient = np.concatenate([[beta * (residual * scores).sum()], residual.sum(axis=0) + 2 * BIAS_PENALTY * bias])
        return float(loss), gradient

    start = np.concatenate([[-np.log(scores.std() + 1e-12)], np.zeros(classes)])
    bounds = [(start[0] - 7, start[0] + 7), *[(None, None)] * classes]  # beta within e^7 of 1/std: separable folds
    best = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return SoftmaxLink(float(np.exp(best[0])), best[1:])
