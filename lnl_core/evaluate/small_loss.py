"""The small-loss picture: do the losses of right and of wrong labels fall into two heaps, as the method's mixture says?

The histogram of DivideMix's and Arazo et al.'s figures. Losses are on the scale 0..1 that the method splits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import norm

BINS = 50
MIXTURE = ("means", "variances", "weights")  # of a split by loss, a value a component


@dataclass(frozen=True, kw_only=True)
class LossHistogram:
    """Rows a bin of one epoch; `right` and `wrong` count the rows with truth and are None where there are none."""

    epoch: int
    rows: Int[np.ndarray, " bins"]
    right: Int[np.ndarray, " bins"] | None
    wrong: Int[np.ndarray, " bins"] | None
    mixture: Mapping[str, Sequence[float]] = field(default_factory=dict)


def scaled_losses(losses: Float[np.ndarray, " rows"], has_mixture: bool) -> Float[np.ndarray, " rows"]:
    """Into 0..1: as they are where a mixture was fitted on that scale, else by their least and largest."""
    if has_mixture or not len(losses):
        return np.asarray(np.clip(losses, 0.0, 1.0))
    low, high = float(np.nanmin(losses)), float(np.nanmax(losses))
    return (losses - low) / (high - low) if high > low else np.zeros_like(losses)


def loss_histogram(
    epoch: int,
    scaled: Float[np.ndarray, " rows"],
    right: Bool[np.ndarray, " rows"],
    known: Bool[np.ndarray, " rows"],
    mixture: Mapping[str, Sequence[float]],
) -> LossHistogram:
    """Count losses in [0, 1]; a bin is closed below, the last one on both sides. A loss that is no number is left out.

    Args:
        right: is the label right; meaningless where the truth is not `known`.
    """
    fair = np.isfinite(scaled)
    bins = np.minimum((scaled[fair].astype(np.float64) * BINS).astype(np.int64), BINS - 1)
    right, known = right[fair], known[fair]
    return LossHistogram(
        epoch=epoch,
        rows=np.bincount(bins, minlength=BINS),
        right=np.bincount(bins[known & right], minlength=BINS) if known.any() else None,
        wrong=np.bincount(bins[known & ~right], minlength=BINS) if known.any() else None,
        mixture=mixture,
    )


def mean_densities(mixture: Mapping[str, Sequence[float]]) -> Float[np.ndarray, "components bins"]:
    """Mean density of each weighted Gaussian over each bin, the one of smaller losses first.

    Times the rows and the width of a bin it is the count that the mixture expects there; the density at the middle
    would miss a Gaussian that is narrower than a bin.
    """
    edges = np.linspace(0.0, 1.0, BINS + 1)
    means, variances, weights = (np.asarray(mixture[name], dtype=np.float64) for name in MIXTURE)
    order = np.argsort(means, kind="stable")
    below = norm.cdf(edges, loc=means[order, None], scale=np.sqrt(variances[order, None]))
    # w * (cdf(high) - cdf(low)) / (high - low)
    return np.asarray(weights[order, None] * np.diff(below, axis=1) * BINS)


def first_and_last(histograms: Sequence[LossHistogram]) -> list[LossHistogram]:
    """The first and the last epoch of those with a mixture, or of all where none has one; one, where they are one."""
    shown = [found for found in histograms if found.mixture] or list(histograms)
    return shown if len(shown) < 2 else [shown[0], shown[-1]]
