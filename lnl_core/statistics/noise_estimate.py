"""How many labels are wrong, and how: by counting trusted rows, or without any from neighbours that should agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from lnl_core.contracts import NO_LABEL, FloatArray, IntArray
from lnl_core.statistics.hoc import consensus, fit_consensus, two_nearest

Array = npt.NDArray[np.float64]
BOOTSTRAP = 10  # draws of the rows behind HOC's interval

PRIOR_STEPS = 20  # settles under little noise; under much, where a counted T says little, it stops near uniform


@dataclass(frozen=True, kw_only=True)
class NoiseEstimate:
    """Rate, prior and matrix of the noise of some labels."""

    rate: float  # share of wrong labels
    source: str  # trusted | hoc; what a trainer is given: trusted | purifier | neighbours | residual | set | assumed
    prior: Array  # [K] share of each true class
    transition: Array  # [K, K] T[true, label], rows sum to 1

    @property
    def classes(self) -> int:
        return len(self.prior)

    @property
    def kind(self) -> Literal["symmetric", "asymmetric"]:
        """Asymmetric where a class's wrong labels mostly go to one other class: on average more than half of them.

        With fewer than four classes there is nothing that sets the two apart, and the noise counts as symmetric.
        """
        off = self.transition * (1 - np.eye(self.classes))
        wrong = self.prior * off.sum(axis=1)
        if self.classes < 4 or wrong.sum() <= 0:
            return "symmetric"
        commonest = float((self.prior * off.max(axis=1)).sum() / wrong.sum())
        return "asymmetric" if commonest > max(0.5, 2 / (self.classes - 1)) else "symmetric"

    def prior_of_balanced(self) -> Array:
        """[K] the shares of the true classes among rows drawn so that each label is equally often: mean_j p(y | j)."""
        joint = self.prior[:, None] * self.transition  # p(y, j)
        share = joint.sum(axis=0)
        seen = share > 0
        return np.asarray((joint[:, seen] / share[seen]).mean(axis=1))

    def as_metrics(self) -> dict[str, Any]:
        """Plain JSON for metrics.json."""
        return {
            "rate": round(self.rate, 5),
            "source": self.source,
            "type": self.kind,
            "prior": [round(float(share), 5) for share in self.prior],
            "transition": [[round(float(share), 5) for share in row] for row in self.transition],
        }


@dataclass(frozen=True, kw_only=True)
class MeasuredNoise(NoiseEstimate):
    """An estimate from counted trusted rows (`trusted`) or agreeing neighbours (`hoc`), with its intervals."""

    rate_low: float  # 95 % interval; of HOC it holds the luck of the draw alone, not neighbours of another class
    rate_high: float
    transition_low: Array | None  # [K, K] 95 % a cell; None without trusted rows
    transition_high: Array | None
    rows: int  # rows that were counted

    def as_metrics(self) -> dict[str, Any]:
        """Plain JSON for metrics.json."""
        return {
            "rate": round(self.rate, 5),
            "rate_low": round(self.rate_low, 5),
            "rate_high": round(self.rate_high, 5),
            "source": self.source,
            "rows": self.rows,
            "prior": [round(float(share), 5) for share in self.prior],
            "transition": [[round(float(share), 5) for share in row] for row in self.transition],
        }


def noise_of_posterior(
    posterior: npt.NDArray[np.float32], label: npt.NDArray[np.integer], source: str
) -> NoiseEstimate:
    """From calibrated posteriors p(true class) [n, K] of rows with these labels [n].

    rate = mean(1 - p[label]); prior = mean p; T[y, j] proportional to the sum of p[y] over the rows labelled j.
    """
    rows, classes = posterior.shape
    joint = np.zeros((classes, classes))
    np.add.at(joint.T, label, posterior)
    mass = joint.sum(axis=1, keepdims=True)
    transition = np.where(mass > 0, joint / np.where(mass > 0, mass, 1.0), np.eye(classes))
    return NoiseEstimate(
        rate=float(1 - np.trace(joint) / rows), source=source, prior=joint.sum(axis=1) / rows, transition=transition
    )


def clopper_pearson(hits: Array, rows: Array, confidence: float = 0.95) -> tuple[Array, Array]:
    """Exact interval of a share (Clopper and Pearson 1934), cell by cell; 0 to 1 where there are no rows."""
    tail = (1 - confidence) / 2
    low = np.where(hits > 0, beta.ppf(tail, np.maximum(hits, 1), rows - hits + 1), 0.0)
    high = np.where(hits < rows, beta.ppf(1 - tail, hits + 1, np.maximum(rows - hits, 1)), 1.0)
    return low, high


def count_noise(trusted_label: IntArray, trusted_observed: IntArray, observed: IntArray, classes: int) -> MeasuredNoise:
    """The estimate of trusted rows with a known observed label (one at least).

    The rate is the share of wrong ones among them, as far as they are a fair sample of the rows. A class gets one
    further row with a right label, so that one without trusted rows has a row in T. The prior is the one that
    reproduces the shares of the observed labels of the noisy rows under T.

    Args:
        observed: [n] of the noisy rows.
    """
    known = trusted_observed != NO_LABEL
    label, seen = trusted_label[known], trusted_observed[known]
    counts = np.zeros((classes, classes))
    np.add.at(counts, (label, seen), 1.0)
    wrong = int((label != seen).sum())
    low, high = clopper_pearson(np.array([float(wrong)]), np.array([float(len(label))]))
    cell_low, cell_high = clopper_pearson(counts, np.repeat(counts.sum(axis=1, keepdims=True), classes, axis=1))
    filled = counts + np.eye(classes)
    transition = filled / filled.sum(axis=1, keepdims=True)
    return MeasuredNoise(
        rate=wrong / len(label),
        rate_low=float(low[0]),
        rate_high=float(high[0]),
        transition=transition,
        transition_low=cell_low,
        transition_high=cell_high,
        prior=true_prior(np.bincount(observed, minlength=classes) / max(len(observed), 1), transition, PRIOR_STEPS),
        source="trusted",
        rows=len(label),
    )


def true_prior(observed_share: Array, transition: Array, steps: int = 500) -> Array:
    """p [K] with p T nearest to the observed shares in likelihood, by EM: never negative, as T^-1 may be."""
    prior = np.full(len(transition), 1 / len(transition))
    for _ in range(steps):
        joint = prior[:, None] * transition
        updated = (joint / np.maximum(joint.sum(axis=0), 1e-30) * observed_share).sum(axis=1)
        moved = float(np.abs(updated - prior).max())
        prior = updated / max(float(updated.sum()), 1e-30)
        if moved < 1e-9:
            break
    return np.asarray(prior)


def hoc_noise(features: FloatArray, observed: IntArray, classes: int, generator: np.random.Generator) -> MeasuredNoise:
    """The estimate of a uniform sample of rows (three at least) without any trusted one, see `hoc`.

    Args:
        features: [s, d].  observed: [s].
    """
    triples = np.concatenate([observed[:, None], observed[two_nearest(features)]], axis=1).astype(np.int32)
    prior, transition = fit_consensus(consensus(triples, classes))
    rates = []
    for _ in range(BOOTSTRAP):
        drawn = triples[generator.integers(0, len(triples), len(triples))]
        rates.append(wrong_share(*fit_consensus(consensus(drawn, classes), (prior, transition), steps=20)))
    rate = wrong_share(prior, transition)
    # the draws' deviation around the estimate: with few of them their quantiles are rougher than their deviation
    half = 1.959964 * float(np.std(rates))
    return MeasuredNoise(
        rate=rate,
        rate_low=max(rate - half, 0.0),
        rate_high=min(rate + half, 1.0),
        transition=transition,
        transition_low=None,
        transition_high=None,
        prior=prior,
        source="hoc",
        rows=len(triples),
    )


def wrong_share(prior: Array, transition: Array) -> float:
    """sum_y p_y (1 - T_yy)."""
    return float(prior @ (1 - np.diag(transition)))
