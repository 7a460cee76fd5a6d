"""Ridge regression on the trusted rows alone: what the verified labels say without the others. A yardstick.

    s_i   = ybar + x_i' (X'X + lambda I)^-1 X'Y                       X centred, labels one-hot
    s_-i  = y_i - (y_i - s_i) / (1 - h_i),  h_i = 1/m + x_i' (X'X + lambda I)^-1 x_i

The second line is the score of row i by the regression on all other rows, exactly (Cook, Residuals and Influence in
Regression, 1982, Sec. 2.2, with the penalty kept). Penalty and feature transform are chosen by the log-loss of these
scores behind a softmax link. With `use_observed`, the observed label is evidence too: p(y | x) T[y, observed].

Held: U [m, min(m, d)] of the trusted rows, n x K probabilities. The features stream once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import Field

from lnl_core.config import Settings
from lnl_core.contracts import NO_LABEL, FloatArray, IntArray
from lnl_core.purify import PURIFIERS
from lnl_core.purify.task import Purification, PurifyTask
from lnl_core.statistics.folds import stratified_folds
from lnl_core.statistics.moments import Transform
from lnl_core.statistics.softmax_link import SoftmaxLink, fit_link, log_loss
from lnl_core.statistics.transition import estimate_transition, posterior

Array = npt.NDArray[np.float64]
LINK_FOLDS = 5  # the link of a row is fitted without it: K + 1 numbers, but they have seen its label otherwise


class TrustedOnlyConfig(Settings):
    """Settings of trusted_only; lists are searched."""

    use_observed: bool = False  # True: with the observed label as evidence, by an estimated transition matrix
    transforms: tuple[Transform, ...] = Field(default=("centre", "standardise"), min_length=1)
    ridge: tuple[float, ...] = Field(
        default=(0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0), min_length=1
    )  # exact leave-one-out chooses


@dataclass(frozen=True, kw_only=True)
class TrustedRidge:
    """The trusted rows, transformed and decomposed: any penalty costs thin products."""

    shift: Array  # [d]
    scale: Array  # [d]
    rows: Array  # [m, d] transformed
    left: Array  # [m, r] U
    spectrum: Array  # [r] squared singular values, all above 0
    onehot: Array  # [m, K]

    @classmethod
    def of(cls, features: FloatArray, label: IntArray, classes: int, transform: Transform) -> TrustedRidge:
        """Decompose the smaller of X'X and XX'."""
        shift, scale = _affine(features.astype(np.float64), transform)
        rows = (features - shift) * scale
        tall = len(rows) > rows.shape[1]
        spectrum, vectors = np.linalg.eigh(rows.T @ rows if tall else rows @ rows.T)
        kept = spectrum > 1e-9 * max(float(spectrum.max(initial=0.0)), 1e-30)
        spectrum, vectors = spectrum[kept], vectors[:, kept]
        left = rows @ vectors / np.sqrt(spectrum) if tall else vectors
        return cls(shift=shift, scale=scale, rows=rows, left=left, spectrum=spectrum, onehot=np.eye(classes)[label])

    def leave_one_out(self, penalty: float) -> Array:
        """s_-i [m, K]."""
        shrink = self.spectrum / (self.spectrum + penalty)
        mean = self.onehot.mean(axis=0)
        fitted = mean + (self.left * shrink) @ (self.left.T @ (self.onehot - mean))
        leverage = 1 / len(self.rows) + np.square(self.left) @ shrink
        return np.asarray(self.onehot - (self.onehot - fitted) / np.maximum(1 - leverage, 1e-3)[:, None])

    def weights(self, penalty: float) -> tuple[Array, Array]:
        """(weights [d, K], bias [K]) on raw features."""
        mean = self.onehot.mean(axis=0)
        inner = self.left.T @ (self.onehot - mean) / (self.spectrum + penalty)[:, None]
        weights = self.scale[:, None] * (self.rows.T @ (self.left @ inner))
        return weights, mean - self.shift @ weights


@PURIFIERS.register(
    "trusted_only",
    config=TrustedOnlyConfig,
    summary="ridge regression on the trusted rows alone, penalty by leave-one-out (a yardstick; needs trusted rows)",
    needs_trusted=True,
)
def trusted_only(task: PurifyTask, config: TrustedOnlyConfig, generator: np.random.Generator) -> Purification:
    """Label the noisy rows by a classifier of the trusted ones."""
    label = task.trusted_label
    ridges = {
        transform: TrustedRidge.of(task.trusted, label, task.classes, transform)
        for transform in dict.fromkeys(config.transforms)
    }
    tried = {
        (transform, each): ridge.leave_one_out(each * len(label))
        for transform, ridge in ridges.items()
        for each in config.ridge
    }
    losses = {key: log_loss(fit_link(scores, label)(scores), label) for key, scores in tried.items()}
    transform, each = min(losses, key=lambda key: losses[key])
    scores = tried[transform, each]
    weights, bias = ridges[transform].weights(each * len(label))
    probabilities = _predict(task, weights, bias, fit_link(scores, label))
    held_out = _held_out(scores, label, generator)
    metrics = {
        "candidates": [
            {"transform": key[0], "ridge": key[1], "held_out_loss": round(loss, 5)} for key, loss in losses.items()
        ],
        "chosen": {"transform": transform, "ridge": each},
        "trusted_rows": len(label),
        "held_out_accuracy": round(float((held_out.argmax(axis=1) == label).mean()), 5),
    }
    return _purification(probabilities, held_out, task, config, metrics)


def _purification(
    probabilities: FloatArray, held_out: Array, task: PurifyTask, config: TrustedOnlyConfig, metrics: dict[str, object]
) -> Purification:
    trusted = held_out.astype(np.float32)
    if not config.use_observed:
        return Purification(posterior=probabilities, metrics=metrics, trusted_posterior=trusted)
    nobody = np.empty(0, dtype=np.int32)  # no anchors: T must not have counted a row that it is evidence for
    transition = estimate_transition(probabilities, task.observed, anchor_label=nobody, anchor_observed=nobody)
    known = task.trusted_observed != NO_LABEL
    trusted[known] = posterior(trusted[known], transition, task.trusted_observed[known])
    purified = posterior(probabilities, transition, task.observed)
    metrics["transition"] = [[round(float(value), 5) for value in row] for row in transition]
    return Purification(posterior=purified, metrics=metrics, trusted_posterior=trusted)


def _held_out(scores: Array, label: IntArray, generator: np.random.Generator) -> Array:
    """p(y | x) [m, K] of leave-one-out scores, each by a link fitted to the other folds."""
    folds = min(LINK_FOLDS, len(label))
    fold = stratified_folds(label, folds, generator.permutation(len(label)))
    found = np.full_like(scores, 1 / scores.shape[1])
    for number in range(folds if folds > 1 else 0):
        out = fold == number
        found[out] = fit_link(scores[~out], label[~out])(scores[out])
    return found


def _predict(task: PurifyTask, weights: Array, bias: Array, link: SoftmaxLink) -> FloatArray:
    probabilities = np.empty((task.noisy.shape[0], task.classes), dtype=np.float32)
    narrow = weights.astype(np.float32)
    for rows, features in task.noisy.batches():
        probabilities[rows] = link(features @ narrow + bias)
    return probabilities


def _affine(features: Array, transform: Transform) -> tuple[Array, Array]:
    """(shift, scale) as `Moments.affine`, from rows in memory; constant features get scale 0."""
    mean, variance = features.mean(axis=0), features.var(axis=0)
    alive = variance > 1e-10 * max(float(variance.max(initial=0.0)), 1e-30)
    if not alive.any():
        return mean, np.zeros_like(mean)
    if transform == "centre":
        return mean, alive / np.sqrt(variance[alive].mean())
    return mean, np.where(alive, 1.0 / np.sqrt(np.where(alive, variance, 1.0)), 0.0)
