"""Linear discriminant analysis from moments: a multinomial linear classifier that takes one pass over the features.

Fisher 1936; Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, Sec. 4.3: classes are Gaussians with
means m_k and one covariance S within classes, so log p(k | x) = x' S^-1 m_k - m_k' S^-1 m_k / 2 + log prior_k + const.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lnl_core.statistics.moments import Moments
from lnl_core.statistics.softmax_link import softmax

Array = npt.NDArray[np.float64]
NEVER = -1e9  # log prior of a class without rows


@dataclass(frozen=True, kw_only=True)
class Discriminant:
    """Scores are (features - centre) @ weight + bias."""

    centre: Array  # [d]
    weight: Array  # [d, K]
    bias: Array  # [K]

    def probabilities(self, features: npt.NDArray[np.floating]) -> Array:
        """p(class | features) [n, K] of features [n, d]."""
        return softmax((features - self.centre) @ self.weight + self.bias)


def fit_discriminant(moments: Moments, shrinkage: float) -> Discriminant:
    """The classifier of the rows that were summed.

    Args:
        shrinkage: what is added to each variance within classes, in units of their mean; keeps S invertible.
    Raises:
        ValueError: no rows.
    """
    if not moments.rows:
        raise ValueError("a discriminant needs at least one row")
    centre, counts = moments.total / moments.rows, np.maximum(moments.counts, 1)
    means = moments.cross / counts - np.outer(centre, moments.counts > 0)  # [d, K], of centred features
    gram = moments.gram - moments.rows * np.outer(centre, centre)
    within = (gram - (means * moments.counts) @ means.T) / moments.rows
    within[np.diag_indices_from(within)] += max(shrinkage * np.trace(within) / len(within), 1e-12)
    weight: Array = np.linalg.solve(within, means).astype(np.float64)
    prior = np.log(counts / moments.rows) - 0.5 * (means * weight).sum(axis=0)
    return Discriminant(centre=centre, weight=weight, bias=np.where(moments.counts > 0, prior, NEVER))
