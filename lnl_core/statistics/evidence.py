"""The observed label as evidence, weighed: p(y | x, o) ~ p(y | x)^a T[y, o]^b e^(c [y = o]).

With (a, b, c) = (1, 1, 0) this is Bayes' rule for an observed label that depends on the true one alone. People err
where an image is hard, which is where p(y | x) errs as well: the two then say partly the same, and Bayes' rule counts
it twice. The three weights are fitted on trusted rows; few rows leave them at Bayes' rule.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from lnl_core.contracts import FloatArray, IntArray
from lnl_core.statistics.softmax_link import softmax

Array = npt.NDArray[np.float64]
BAYES = (1.0, 1.0, 0.0)
PRIOR_DEVIATION = 0.5  # standard deviation of each weight around Bayes' rule
FLOOR = 1e-4  # neither says never: log >= -9.2
_BLOCK = 65_536  # rows at a time


@dataclass(frozen=True)
class Evidence:
    """How much p(y | x), T and the observed label itself count."""

    of_model: float = BAYES[0]
    of_transition: float = BAYES[1]
    of_observed: float = BAYES[2]

    def __call__(self, probabilities: npt.NDArray[np.floating], transition: Array, observed: IntArray) -> FloatArray:
        """p(y | x) [n, K], T [K, K], observed [n] -> [n, K] float32, rows sum to 1."""
        found = np.empty(probabilities.shape, dtype=np.float32)
        weights = np.array([self.of_model, self.of_transition, self.of_observed])
        for start in range(0, len(found), _BLOCK):
            rows = slice(start, start + _BLOCK)
            parts = _parts(probabilities[rows], transition, observed[rows])
            found[rows] = softmax(np.tensordot(weights, parts, axes=1))
        return found


def fit_evidence(
    probabilities: npt.NDArray[np.floating], transitions: Array, observed: IntArray, labels: IntArray
) -> Evidence:
    """Maximum a posteriori of (a, b, c) with a normal prior around Bayes' rule, by L-BFGS; a, b >= 0.

    Args:
        probabilities: p(y | x) [m, K] of trusted rows, by a model that did not see their labels.
        transitions: [m, K, K], a matrix a row, estimated without the row; or [K, K], one for all.
        observed: [m] none of them missing.
    """
    parts = _parts(probabilities, transitions, observed)
    rows, classes = probabilities.shape
    onehot, prior = np.eye(classes)[labels], np.array(BAYES)

    def objective(weights: Array) -> tuple[float, Array]:
        found = softmax(np.tensordot(weights, parts, axes=1))
        loss = -np.log(np.maximum(found[np.arange(rows), labels], 1e-300)).sum()
        away = (weights - prior) / PRIOR_DEVIATION**2
        gradient = np.einsum("vmk,mk->v", parts, found - onehot) + away
        return float(loss + ((weights - prior) * away).sum() / 2), gradient

    best = minimize(objective, prior, jac=True, method="L-BFGS-B", bounds=[(0, None), (0, None), (None, None)]).x
    return Evidence(*(float(weight) for weight in best))


def _parts(probabilities: npt.NDArray[np.floating], transition: Array, observed: IntArray) -> Array:
    """[3, n, K]: log p(y | x), log T[y, o], [y = o]."""
    one_for_all = transition.ndim == 2
    likelihood = transition.T[observed] if one_for_all else transition[np.arange(len(observed)), :, observed]
    same = np.eye(probabilities.shape[1])[observed]
    return np.stack([*(np.log(np.maximum(one, FLOOR, dtype=np.float64)) for one in (probabilities, likelihood)), same])
