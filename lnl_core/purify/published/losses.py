"""Losses of the published DMLP on linear scores, with closed-form gradients. Classes come first: [K, rows]."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]
_LEAST = 1e-30  # least probability inside a logarithm or a quotient


@dataclass(frozen=True, kw_only=True)
class TargetLoss:
    """Cross-entropy with soft targets, squared error, prior and entropy terms of p = softmax(...softmax(scores)).

    loss = mean_i CE(y_i, p_i) + squared_error * sum_i ||s_i - y_i||^2 + prior_weight * KL(prior || mean_i p_i)
           + entropy * mean_i H(p_i)

    The squared error reads the scores themselves (Eq. 8 on y'_v of Eq. 7), all other terms read p.
    """

    prior: Array  # [K]
    softmaxes: int  # how often softmax is applied; 1 is right
    squared_error: float = 0.0
    prior_weight: float = 0.0
    entropy: float = 0.0  # above 0 sharpens, below 0 is the weight of the negative entropy

    def __call__(self, scores: Array, targets: Array) -> tuple[float, Array]:
        """Scores and targets [K, rows] -> the loss and its gradient by the scores [K, rows]."""
        rows = scores.shape[1]
        stages = _softmaxes(scores, self.softmaxes)
        last, logs = stages[-1], np.log(np.maximum(stages[-1], _LEAST))
        loss = -float((targets * logs).sum()) / rows
        # of CE by what goes into the last softmax; targets need not sum to one
        gradient = (last * targets.sum(axis=0) - targets) / rows
        by_output = np.zeros_like(last)
        if self.prior_weight:
            mean = np.maximum(last.mean(axis=1), _LEAST)
            loss += self.prior_weight * float((self.prior * np.log(np.maximum(self.prior, _LEAST) / mean)).sum())
            by_output -= (self.prior_weight / rows) * (self.prior / mean)[:, None]
        if self.entropy:
            loss -= self.entropy * float((last * logs).sum()) / rows
            by_output -= (self.entropy / rows) * (logs + 1)
        gradient += _through(last, by_output)
        for stage in reversed(stages[:-1]):
            gradient = _through(stage, gradient)
        if self.squared_error:
            loss += self.squared_error * float(np.square(scores - targets).sum())
            gradient = gradient + 2 * self.squared_error * (scores - targets)
        return loss, gradient


def class_softmax(scores: Array) -> Array:
    """Softmax over the classes, the first axis."""
    exponents = np.exp(scores - scores.max(axis=0))
    return np.asarray(exponents / exponents.sum(axis=0))


def _softmaxes(scores: Array, times: int) -> list[Array]:
    stages = [class_softmax(scores)]
    for _ in range(times - 1):
        stages.append(class_softmax(stages[-1]))
    return stages


def _through(probabilities: Array, gradient: Array) -> Array:
    """Gradient by the input of a softmax from that by its output: p (g - sum_k p_k g_k)."""
    return np.asarray(probabilities * (gradient - (probabilities * gradient).sum(axis=0)))
