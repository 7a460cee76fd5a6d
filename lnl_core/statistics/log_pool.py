"""Several classifiers' probabilities pooled on the log scale: p(y) ~ exp(sum_v a_v log p_v(y) + b_y).

The weights a_v >= 0 and class biases b are fitted on rows with verified labels. Weights that sum to more than one
sharpen members that err independently; a weight near zero leaves a member out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from lnl_core.statistics.softmax_link import BIAS_PENALTY, softmax

Array = npt.NDArray[np.float64]
FLOOR = 1e-4  # a member may not rule a class out: log p >= -9.2
PRIOR_DEVIATION = 0.5  # standard deviation of a weight around an even share; matters below some hundred rows


@dataclass(frozen=True)
class LogPool:
    """Weights [V] and class biases [K]."""

    weights: Array
    bias: Array

    def __call__(self, members: npt.NDArray[np.floating]) -> Array:
        """Probabilities [V, n, K] -> [n, K]."""
        return softmax(np.tensordot(self.weights, _logs(members), axes=1) + self.bias)


def fit_log_pool(members: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> LogPool:
    """Maximum a posteriori of (a, b) with a ~ N(1 / V, PRIOR_DEVIATION^2) cut at 0, by L-BFGS.

    Args:
        members: [V, m, K] probabilities that were not fitted to `labels` [m].
    """
    logs, (count, rows, classes) = _logs(members), members.shape
    onehot = np.eye(classes)[labels]
    even = 1.0 / count

    def objective(parameters: Array) -> tuple[float, Array]:
        weights, bias = parameters[:count], parameters[count:]
        found = softmax(np.tensordot(weights, logs, axes=1) + bias)
        loss = -np.log(np.maximum(found[np.arange(rows), labels], 1e-300)).mean()
        loss += ((weights - even) ** 2).sum() / (2 * PRIOR_DEVIATION**2 * rows) + BIAS_PENALTY * (bias**2).sum()
        residual = (found - onehot) / rows
        by_weight = np.einsum("vmk,mk->v", logs, residual) + (weights - even) / (PRIOR_DEVIATION**2 * rows)
        return float(loss), np.concatenate([by_weight, residual.sum(axis=0) + 2 * BIAS_PENALTY * bias])

    start = np.concatenate([np.full(count, even), np.zeros(classes)])
    bounds = [(0.0, None)] * count + [(None, None)] * classes
    best = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return LogPool(best[:count], best[count:])


def _logs(members: npt.NDArray[np.floating]) -> Array:
    return np.asarray(np.log(np.maximum(members, FLOOR, dtype=np.float64)))
