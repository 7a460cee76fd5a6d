"""The noise estimate that training is given: from the purification, never from the truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from lnl_core.contracts import Purified
from lnl_core.statistics.noise_estimate import NoiseEstimate, noise_of_posterior

ASSUMED_RATE = 0.2  # where nothing is known: what crawled sets are said to have, 8 to 38.5 %


def estimated_noise(
    purified: Purified, learns_purified: bool, purifier: Mapping[str, Any], rate: float | None
) -> NoiseEstimate:
    """The estimate for the labels that are learned from.

    Purified labels: the rest of noise that their own posteriors admit. Observed labels: the rate by counting trusted
    rows where there are enough; else the purifier's posteriors; without a purifier the agreement of neighbours (HOC).

    Args:
        rate: what the user has set instead; prior and matrix are estimated all the same.
    """
    informed = purifier.get("method", purified.about.get("method")) != "none"
    estimate = purifier.get("noise_estimate") or {}
    if learns_purified and informed:
        noise = noise_of_posterior(purified.soft_label, purified.applied_label, "residual")
    elif informed:
        noise = noise_of_posterior(purified.soft_label, purified.label, "purifier")
        if estimate.get("source") == "trusted":
            noise = dataclasses.replace(noise, rate=float(estimate["rate"]), source="trusted")
    else:
        noise = _by_estimate(purified, estimate)
    return noise if rate is None else dataclasses.replace(noise, rate=rate, source="set")


def _by_estimate(purified: Purified, estimate: Mapping[str, Any]) -> NoiseEstimate:
    """HOC's or the trusted rows' matrix and prior; where there are none, an assumption that says so."""
    classes = len(purified.class_names)
    if estimate.get("transition") is not None:
        return NoiseEstimate(
            rate=float(estimate["rate"]),
            source="trusted" if estimate["source"] == "trusted" else "neighbours",
            prior=np.asarray(estimate["prior"], dtype=np.float64),
            transition=np.asarray(estimate["transition"], dtype=np.float64),
        )
    even = ASSUMED_RATE / max(classes - 1, 1)
    transition = np.full((classes, classes), even) + (1 - ASSUMED_RATE - even) * np.eye(classes)
    counts = np.bincount(purified.label, minlength=classes)
    return NoiseEstimate(rate=ASSUMED_RATE, source="assumed", prior=counts / counts.sum(), transition=transition)
