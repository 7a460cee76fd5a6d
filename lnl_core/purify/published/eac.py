"""EAC of the published DMLP (Eq. 10): one linear classifier that learns the current soft labels by Adam."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lnl_core.contracts import FloatArray
from lnl_core.purify.published.ipc import EPSILON
from lnl_core.purify.published.losses import Array, TargetLoss, class_softmax
from lnl_core.purify.published.settings import DMLPConfig

BETAS = (0.9, 0.999)  # Adam's own; none are published


@dataclass(kw_only=True)
class Classifier:
    """C(x) = softmax(W x + b) from a zero start, so that no seed enters."""

    weights: Array  # [K, d + 1]; the last column is b
    first: Array  # Adam's moments
    second: Array
    steps: int = 0

    @classmethod
    def zero(cls, classes: int, width: int, precision: str) -> Classifier:
        weights, first, second = np.zeros((3, classes, width + 1), dtype=precision)
        return cls(weights=weights, first=first, second=second)

    def scores(self, features: FloatArray) -> Array:
        """[b, d] -> [K, b]."""
        return np.asarray((features @ self.weights[:, :-1].T + self.weights[:, -1]).T)

    def __call__(self, features: FloatArray) -> Array:
        """[b, d] -> probabilities [K, b]."""
        return class_softmax(self.scores(features))

    def learn(
        self,
        features: FloatArray,
        labels: Array,
        loss: TargetLoss,
        settings: DMLPConfig,
        epoch: int,
        generator: np.random.Generator,
    ) -> float:
        """One pass over a minibatch of IPC in its own smaller ones, shuffled: features [b, d], labels [K, b].

        Returns:
            The mean loss.
        """
        rate = settings.eac_lr if epoch < settings.eac_high_epochs else settings.eac_later_lr
        parts = np.array_split(generator.permutation(len(features)), max(round(len(features) / settings.eac_batch), 1))
        labels = labels.astype(self.weights.dtype)
        values = []
        for part in parts:
            taken = features[part]
            value, gradient = loss(self.scores(taken), labels[:, part])
            self._adam(gradient.astype(self.weights.dtype, copy=False), taken, rate, settings.eac_weight_decay)
            values.append(value)
        return float(np.mean(values))

    def _adam(self, gradient: Array, features: FloatArray, rate: float, weight_decay: float) -> None:
        by_weights = np.concatenate([gradient @ features, gradient.sum(axis=1, keepdims=True)], axis=1)
        by_weights += weight_decay * self.weights
        slow, fast = BETAS
        self.steps += 1
        self.first += (1 - slow) * (by_weights - self.first)
        self.second += (1 - fast) * (np.square(by_weights) - self.second)
        size = np.sqrt(self.second / (1 - fast**self.steps)) + EPSILON
        self.weights -= (rate / (1 - slow**self.steps)) * self.first / size
