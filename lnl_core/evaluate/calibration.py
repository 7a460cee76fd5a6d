"""Is a confidence of 0.8 right in 80 % of the cases? Reliability bins and the expected calibration error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """One bin (low, high]; confidence and accuracy are None where it is empty."""

    low: float
    high: float
    count: int
    confidence: float | None  # mean
    accuracy: float | None


def reliability(
    confidence: Float[np.ndarray, " rows"], right: Bool[np.ndarray, " rows"], bins: int
) -> list[ReliabilityBin]:
    """Equal-width bins over 0..1, closed above (Guo et al. 2017, Sec. 2); a confidence of 0 falls into the first."""
    index = np.clip(np.ceil(confidence.astype(np.float64) * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    confidences = np.bincount(index, weights=confidence, minlength=bins)
    hits = np.bincount(index, weights=right, minlength=bins)
    return [
        ReliabilityBin(
            low=bin_ / bins,
            high=(bin_ + 1) / bins,
            count=int(count),
            confidence=float(confidences[bin_] / count) if count else None,
            accuracy=float(hits[bin_] / count) if count else None,
        )
        for bin_, count in enumerate(counts)
    ]


def expected_calibration_error(bins: list[ReliabilityBin]) -> float | None:
    """Mean over rows of |accuracy - confidence| of their bin (Guo et al. 2017, Eq. (3)); None without rows."""
    total = sum(bin_.count for bin_ in bins)
    gaps = [
        bin_.count * abs(bin_.accuracy - bin_.confidence)
        for bin_ in bins
        if bin_.accuracy is not None and bin_.confidence is not None
    ]
    return sum(gaps) / total if total else None


def overconfidence(bins: list[ReliabilityBin]) -> float | None:
    """Mean confidence minus accuracy: positive where the confidences promise too much; None without rows."""
    total = sum(bin_.count for bin_ in bins)
    gaps = [
        bin_.count * (bin_.confidence - bin_.accuracy)
        for bin_ in bins
        if bin_.accuracy is not None and bin_.confidence is not None
    ]
    return sum(gaps) / total if total else None
