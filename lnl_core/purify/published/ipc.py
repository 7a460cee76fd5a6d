"""IPC by minibatches (Eq. 6 to 9) without an inverse per step.

With the minibatch fixed, the trusted scores F_v (F'F + lambda I)^-1 F'Y are a constant linear map M of its labels Y.
M is computed once; a step then costs P = M Y, the gradient G of L_val by P in closed form, and M'G: two thin products.
Classes come first in all arrays, [K, rows], which makes both products run along contiguous memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve
from scipy.linalg.lapack import dpocon, spocon

from lnl_core.config import ConfigError
from lnl_core.contracts import FloatArray
from lnl_core.purify.published.losses import Array, TargetLoss
from lnl_core.purify.published.settings import DMLPConfig

EPSILON = 1e-8  # Adam's, as in torch


@dataclass(frozen=True, kw_only=True)
class TrustedMap:
    """M [m, b], whole or, where there are fewer features than trusted rows, as left [m, d] times right [d, b]."""

    right: Array
    left: Array | None = None

    def scores(self, labels: Array) -> Array:
        """Y' [K, b] -> P' [K, m]."""
        found = labels @ self.right.T
        return np.asarray(found if self.left is None else found @ self.left.T)

    def pull(self, gradient: Array) -> Array:
        """G' [K, m] -> (M'G)' [K, b]."""
        return np.asarray((gradient if self.left is None else gradient @ self.left) @ self.right)

    def curvature(self) -> float:
        """The largest eigenvalue of M M'."""
        if self.left is None:
            return float(np.linalg.eigvalsh(self.right @ self.right.T)[-1])
        product = (self.left.T @ self.left) @ (self.right @ self.right.T)  # its eigenvalues but for zeros
        return float(np.linalg.eigvals(product).real.max())


def trusted_map(features: FloatArray, trusted: FloatArray, settings: DMLPConfig, number: int) -> TrustedMap:
    """M of one minibatch: features [b, d], trusted features [m, d].

    Raises:
        ConfigError: F'F has no inverse (constant, repeated or too many features for the rows) and there is no ridge.
    """
    kind = np.dtype(settings.precision)
    batch = features.astype(kind, copy=False)
    gram = batch.T @ batch
    gram[np.diag_indices_from(gram)] += settings.ridge * len(batch)
    solved = _solve(gram, trusted.astype(kind), settings, f"minibatch {number} of {len(batch)} rows")
    if len(trusted) > batch.shape[1]:
        return TrustedMap(left=solved, right=np.ascontiguousarray(batch.T))
    return TrustedMap(right=solved @ batch.T)


def _solve(gram: Array, trusted: Array, settings: DMLPConfig, what: str) -> Array:
    """F_v A^-1 [m, d] by a Cholesky factor, whose reciprocal condition number shows whether A has an inverse."""
    size = float(np.abs(gram).sum(axis=0).max())
    try:
        factor = cho_factor(gram, lower=True)
        condition, _ = (dpocon if gram.dtype == np.float64 else spocon)(factor[0], size, uplo="L")
    except np.linalg.LinAlgError:
        condition = 0.0
    if condition < 10 * np.finfo(gram.dtype).eps:
        raise ConfigError(
            f"dmlp: F'F of {what} and {len(gram)} features has no inverse, and purify.dmlp.ridge = {settings.ridge:g} "
            "adds too little (constant or repeated features, or fewer rows than features); set purify.dmlp.ridge, "
            "e.g. 1e-3, drop such features, or use ipc_ensemble"
        )
    return np.asarray(cho_solve(factor, trusted.T).T, order="C")


@dataclass(kw_only=True)
class LabelSteps:
    """Moves the labels of one minibatch: Eq. 9 as printed, or Adam with its state."""

    settings: DMLPConfig
    rate: float
    first: Array | None = None
    second: Array | None = None
    steps: int = 0

    def __call__(self, labels: Array, gradient: Array) -> None:
        """Change labels [K, b] in place."""
        if self.settings.optimizer == "gradient":
            labels -= self.rate * (gradient + self.settings.label_weight_decay * labels)
        else:
            self._adam(labels, gradient)
        if self.settings.keep_simplex:
            labels[:] = onto_simplex(labels)

    def _adam(self, labels: Array, gradient: Array) -> None:
        slow, fast = self.settings.label_betas
        if self.first is None or self.second is None:
            self.first, self.second = np.zeros_like(labels), np.zeros_like(labels)
        gradient = gradient + self.settings.label_weight_decay * labels
        self.steps += 1
        self.first += (1 - slow) * (gradient - self.first)
        self.second += (1 - fast) * (np.square(gradient) - self.second)
        size = np.sqrt(self.second / (1 - fast**self.steps)) + EPSILON
        labels -= (self.rate / (1 - slow**self.steps)) * self.first / size


@dataclass(kw_only=True)
class Minibatch:
    """The rows start:stop of the working order with their labels and the map to the trusted scores."""

    rows: slice
    labels: Array  # [K, b] soft labels, changed in place
    map: TrustedMap
    step: LabelSteps
    losses: list[float] = field(default_factory=list)

    def purify(self, loss: TargetLoss, verified: Array) -> Array:
        """One IPC step; returns the trusted scores [K, m] before it."""
        scores = self.map.scores(self.labels)
        value, gradient = loss(scores, verified)
        self.step(self.labels, self.map.pull(gradient))
        self.losses.append(value)
        return scores


def step_size(settings: DMLPConfig, found: TrustedMap, loss: TargetLoss, trusted_rows: int) -> float:
    """eta_I: as set, else the inverse of a bound on the curvature of L_val by the labels of the batch."""
    if settings.label_lr is not None:
        return settings.label_lr
    by_scores = 2 * loss.squared_error + (0.5 + loss.prior_weight) / trusted_rows  # CE of one softmax: at most 1/2
    return 1.0 / max(by_scores * found.curvature(), 1e-30)


def onto_simplex(labels: Array) -> Array:
    """The nearest points whose entries are at least 0 and sum to one, column by column: [K, rows] -> [K, rows]."""
    falling = -np.sort(-labels, axis=0)
    excess = np.cumsum(falling, axis=0) - 1
    counts = np.arange(1, len(labels) + 1)[:, None]
    last = (falling * counts > excess).sum(axis=0) - 1
    shift: npt.NDArray[np.floating] = np.take_along_axis(excess, last[None], axis=0) / (last + 1)
    return np.asarray(np.maximum(labels - shift, 0.0))
