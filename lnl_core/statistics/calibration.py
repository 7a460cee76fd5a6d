"""Calibrated confidence: from the posterior of a chosen label to the probability that the label is right.

    p(right) = sigma(a logit(c) + b),  a > 0

Platt, Probabilistic Outputs for Support Vector Machines (1999), on the logit of a probability, so that (a, b) = (1, 0)
is the identity. Maximum a posteriori with log a, b ~ N(0, 1/4): a handful of rows leaves the confidence nearly as it
was. Changed and unchanged labels may get a map each, where cross-validation finds that they need one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize
from scipy.special import expit, logit

from lnl_core.statistics.folds import stratified_folds

PRIOR_STD = 0.5  # of log a and b: twenty rows weigh about as much as the prior
NEVER_SURER = 1e-3  # a posterior within this of 0 or 1 is taken as this far away; a logit must be finite
FOLDS = 10
BINS = 10  # equal width, as in Guo et al. 2017 with a tenth of their rows


@dataclass(frozen=True, kw_only=True)
class ConfidenceMap:
    """sigma(slope[g] logit(c) + shift[g]), g = 1 for changed labels."""

    slope: tuple[float, float]
    shift: tuple[float, float]

    def __call__(
        self, confidence: Float[np.ndarray, " rows"], changed: Bool[np.ndarray, " rows"]
    ) -> Float[np.ndarray, " rows"]:
        """Calibrated confidences in 0..1."""
        group = changed.astype(np.intp)
        return np.asarray(expit(np.array(self.slope)[group] * _logit(confidence) + np.array(self.shift)[group]))


IDENTITY = ConfidenceMap(slope=(1.0, 1.0), shift=(0.0, 0.0))


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The map to use, and what it is worth on rows that it was not fitted to."""

    map: ConfidenceMap
    chosen: str  # identity | one map | two maps
    held_out: Float[np.ndarray, " rows"]  # cross-fitted confidences
    table: list[Mapping[str, Any]]  # a record for each kind of map: cross-fitted log-loss and calibration error


def calibrate(
    confidence: Float[np.ndarray, " rows"],
    right: Bool[np.ndarray, " rows"],
    changed: Bool[np.ndarray, " rows"],
    weight: Float[np.ndarray, " rows"],
    generator: np.random.Generator,
) -> Calibration:
    """Choose between no map, one and two by cross-fitted log-loss, and fit the chosen one to all rows.

    One map is taken where it is better than none, two where they are better than one by more than a standard error.

    Args:
        confidence: posterior of the label of each trusted row, by a fit that did not see its verified label.
        weight: how many noisy rows each stands for, up to a factor; at least one row.
    """
    folds = min(FOLDS, len(right))
    strata = 2 * right.astype(np.int64) + changed
    fold = stratified_folds(strata, folds, generator.permutation(len(right))) if folds > 1 else np.zeros(1, np.intp)
    held_out = {"identity": _logits_back(confidence)}
    for kind in ("one map", "two maps"):
        held_out[kind] = np.empty(len(right))
        for number in range(folds):
            out = fold == number
            fitted = fit_map(confidence[~out], right[~out], changed[~out], weight[~out], split=kind == "two maps")
            held_out[kind][out] = fitted(confidence[out], changed[out])
    losses = {kind: _row_losses(found, right) for kind, found in held_out.items()}
    chosen = _choose(losses, weight)
    if chosen == "identity":
        final = IDENTITY
    else:
        final = fit_map(confidence, right, changed, weight, split=chosen == "two maps")
    table: list[Mapping[str, Any]] = [
        {
            "confidence": kind,
            "held_out_loss": round(float(np.average(losses[kind], weights=weight)), 5),
            "calibration_error": round(calibration_error(found, right, weight), 5),
        }
        for kind, found in held_out.items()
    ]
    return Calibration(map=final, chosen=chosen, held_out=held_out[chosen], table=table)


def fit_map(
    confidence: Float[np.ndarray, " rows"],
    right: Bool[np.ndarray, " rows"],
    changed: Bool[np.ndarray, " rows"],
    weight: Float[np.ndarray, " rows"],
    *,
    split: bool,
) -> ConfidenceMap:
    """Maximum a posteriori; with `split`, the map of changed labels is drawn to that of the others by the same prior.

    The weights are scaled to sum to the effective number of rows, (sum w)^2 / sum w^2 (Kish 1965).
    """
    if len(right) == 0:
        return IDENTITY
    scores = _logit(confidence)
    scaled = weight * weight.sum() / np.square(weight).sum()
    group = changed.astype(np.float64) if split else np.zeros(len(right))

    def objective(parameters: Float[np.ndarray, " four"]) -> tuple[float, Float[np.ndarray, " four"]]:
        log_slope = parameters[0] + parameters[2] * group
        slope = np.exp(log_slope)
        logits = slope * scores + parameters[1] + parameters[3] * group
        loss = (scaled * (np.logaddexp(0.0, logits) - right * logits)).sum()
        residual = scaled * (expit(logits) - right)
        by_slope = residual * scores * slope
        gradient = np.array([by_slope.sum(), residual.sum(), (by_slope * group).sum(), (residual * group).sum()])
        prior = parameters / PRIOR_STD**2
        return float(loss + 0.5 * (parameters * prior).sum()), gradient + prior

    best = minimize(objective, np.zeros(4), jac=True, method="L-BFGS-B", bounds=[(-5.0, 5.0)] * 4).x
    return ConfidenceMap(
        slope=(float(np.exp(best[0])), float(np.exp(best[0] + best[2]))),
        shift=(float(best[1]), float(best[1] + best[3])),
    )


def prior_weights(label: Int[np.ndarray, " rows"], prior: Float[np.ndarray, " classes"]) -> Float[np.ndarray, " rows"]:
    """Weights, mean 1, that give labelled rows the class prior of other rows: a trusted set is often balanced.

    A class without a row is left out; no row counts more than ten times the mean, for it would speak alone.
    """
    counts = np.bincount(label, minlength=len(prior))
    weight = np.asarray(prior / np.maximum(counts, 1), dtype=np.float64)[label]
    weight = np.maximum(weight / weight.mean(), 1e-3)
    weight = np.minimum(weight, 10.0)
    return np.asarray(weight / weight.mean())


def calibration_error(
    confidence: Float[np.ndarray, " rows"], right: Bool[np.ndarray, " rows"], weight: Float[np.ndarray, " rows"]
) -> float:
    """Expected calibration error (Guo et al. 2017, Eq. (3)) of weighted rows, in `BINS` bins of equal width."""
    index = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    gaps = np.bincount(index, weights=weight * (confidence - right), minlength=BINS)
    return float(np.abs(gaps).sum() / weight.sum())


def _choose(losses: Mapping[str, Float[np.ndarray, " rows"]], weight: Float[np.ndarray, " rows"]) -> str:
    share = weight / weight.sum()
    gain = losses["one map"] - losses["two maps"]
    mean = float((share * gain).sum())
    error = float(np.sqrt((np.square(share) * np.square(gain - mean)).sum()))
    if mean > error and (share * (losses["identity"] - losses["two maps"])).sum() > 0:
        return "two maps"
    return "one map" if (share * (losses["identity"] - losses["one map"])).sum() > 0 else "identity"


def _row_losses(confidence: Float[np.ndarray, " rows"], right: Bool[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
    return np.asarray(-np.log(np.maximum(np.where(right, confidence, 1 - confidence), 1e-12)))


def _logit(confidence: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
    return np.asarray(logit(np.clip(confidence.astype(np.float64), NEVER_SURER, 1 - NEVER_SURER)))


def _logits_back(confidence: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
    """What the identity map gives: the confidence, bounded away from 0 and 1."""
    return np.asarray(np.clip(confidence.astype(np.float64), NEVER_SURER, 1 - NEVER_SURER))
