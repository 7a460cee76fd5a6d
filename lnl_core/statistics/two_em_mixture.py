"""The mixture of clean and corrupted labels of the LNL-flywheel, as functions of a batch.

Kim et al., "Learning with Noisy Labels: Interconnection of Two Expectation-Maximizations" (LNL-flywheel):

    p(observed | x) = gamma g(x)[observed] + (1 - gamma) eps(x)                                   Eq. 1, 2

Shapes: probabilities [n, K], observed labels [n], cleanness [n], T_c [K, K].
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lnl_core.contracts import IntArray

Array = npt.NDArray[np.floating]


def cleanness(gamma: float, main: Array, outlier: Array, observed: IntArray) -> Array:
    """q(s = 1) [n]: the probability that an observed label comes from the clean part.

    Args:
        main: g(x) [n, K].  outlier: eps_i [n], the corrupted part's probability of the observed label.
    """
    return cleanness_of_own(gamma, main[np.arange(len(observed)), observed], outlier)


def cleanness_of_own(gamma: float, own: Array, outlier: Array) -> Array:
    """The same from g(x)[observed] [n] alone, where the other classes need not be held."""
    clean = gamma * own
    return np.asarray(clean / np.maximum(clean + (1 - gamma) * outlier, 1e-30))  # Eq. (4)


def clean_share(clean: Array) -> float:
    """gamma: the mean cleanness."""
    return float(clean.mean())  # Eq. (6)


def refurbished(clean: Array, auxiliary: Array, observed: IntArray) -> Array:
    """q(y) [n, K]: the observed label where it is clean, the prediction f(x) where it is not."""
    target = (1 - clean)[:, None] * auxiliary  # Eq. (11)
    target[np.arange(len(observed)), observed] += clean
    return np.asarray(target)


def corruption_matrix(clean: Array, auxiliary: Array, observed: IntArray, smoothing: float = 0.0) -> Array:
    """T_c [K, K], rows sum to 1: where the labels of a true class go when they are corrupted (before Eq. 14).

    Args:
        smoothing: rows of uniform labels that are added to each class, so that a class without any has a row.
    """
    classes = auxiliary.shape[1]
    corrupted = ((1 - clean)[:, None] * auxiliary).astype(np.float64)
    counts = np.stack([corrupted[observed == label].sum(axis=0) for label in range(classes)], axis=1)
    counts += smoothing / classes + 1e-12
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def outlier_probability(auxiliary: Array, corruption: Array, observed: IntArray) -> Array:
    """eps_i [n]: the corrupted part's probability of the observed label."""
    return np.asarray((auxiliary * corruption.T[observed]).sum(axis=1))  # Eq. (14)
