"""The transition matrix T[y, j] = p(observed = j | true = y): estimate, and the posterior that uses it as evidence."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lnl_core.contracts import NO_LABEL, FloatArray, IntArray

Array = npt.NDArray[np.float64]


def posterior(probabilities: npt.NDArray[np.floating], transition: Array, observed: IntArray) -> FloatArray:
    """p(y | x, observed) proportional to p(y | x) T[y, observed]; [n, K] -> [n, K] float32, rows sum to 1."""
    joint = probabilities * transition.T[observed]
    mass = joint.sum(axis=1, keepdims=True)
    safe = np.where(mass > 0, joint / np.where(mass > 0, mass, 1.0), probabilities)
    return np.asarray(safe, dtype=np.float32)


def estimate_transition(
    probabilities: npt.NDArray[np.floating],
    observed: IntArray,
    *,
    anchor_label: IntArray,
    anchor_observed: IntArray,
    iterations: int = 30,
    smoothing: float = 1.0,
) -> Array:
    """T by expectation-maximisation over the noisy rows, with the trusted rows as anchors.

    E-step: r_i = p(y | x_i, observed_i) under the current T. M-step: T[y, j] proportional to the sum of r_i[y] over
    rows observed as j, plus the anchors' counts, plus a Dirichlet prior of weight `smoothing` shared out over each row
    (four fifths on the diagonal, so that T starts and stays closer to the identity where data are few).

    Args:
        probabilities: p(y | x) [n, K], calibrated.
        anchor_label, anchor_observed: [m]; anchors whose observed label is `NO_LABEL` do not count.
    Returns:
        [K, K], rows sum to 1.
    """
    classes = probabilities.shape[1]
    known = anchor_observed != NO_LABEL
    prior = smoothing * (0.8 * np.eye(classes) + 0.2 / classes)
    np.add.at(prior, (anchor_label[known], anchor_observed[known]), 1.0)
    transition = prior / prior.sum(axis=1, keepdims=True)
    order = np.argsort(observed, kind="stable")
    sorted_probabilities, sorted_observed = probabilities[order], observed[order]
    starts = np.searchsorted(sorted_observed, np.arange(classes))
    ends = np.searchsorted(sorted_observed, np.arange(classes), side="right")
    for _ in range(iterations):
        counts = prior.copy()
        for label in range(classes):  # rows observed as `label`: their responsibilities share one column of T
            joint = sorted_probabilities[starts[label] : ends[label]] * transition[:, label]
            counts[:, label] += (joint / np.maximum(joint.sum(axis=1, keepdims=True), 1e-30)).sum(axis=0)
        updated = counts / counts.sum(axis=1, keepdims=True)
        moved = float(np.abs(updated - transition).max())
        transition = updated
        if moved < 1e-5:
            break
    return np.asarray(transition)
