"""The noise estimate that stands in the metrics of every purification, whatever the method."""

from __future__ import annotations

from typing import Any

import numpy as np

from lnl_core.contracts import NO_LABEL
from lnl_core.purify.row_sample import row_sample
from lnl_core.purify.task import PurifyTask
from lnl_core.runtime import seed_for
from lnl_core.statistics.noise_estimate import MeasuredNoise, count_noise, hoc_noise

LEAST_TRUSTED = 50  # trusted rows with a known observed label from which counting beats neighbours: +-14 points or less
SAMPLE = 10_000  # rows among which neighbours are sought: a second and a half at 512 features, all pairs cost squares
LEAST_ROWS = 30  # fewer rows than this have no neighbours worth the name


def estimate_noise(task: PurifyTask, generator: np.random.Generator) -> MeasuredNoise | None:
    """Trusted rows are counted where there are `LEAST_TRUSTED` with an observed label, else HOC on a sample of rows.

    Held: the sample in float32; the features stream once, and not at all where trusted rows are counted.

    Returns:
        None where there are neither trusted nor enough noisy rows.
    """
    if (task.trusted_observed != NO_LABEL).sum() >= LEAST_TRUSTED:
        return count_noise(task.trusted_label, task.trusted_observed, task.observed, task.classes)
    if task.noisy.shape[0] < LEAST_ROWS:
        return None
    rows, features = row_sample(task.noisy, SAMPLE, generator)
    return hoc_noise(features, task.observed[rows], task.classes, generator)


def noise_metrics(task: PurifyTask, seed: int) -> dict[str, Any]:
    """`noise_estimate` for metrics.json; nothing where there is none. No decision on a label depends on it."""
    found = estimate_noise(task, np.random.default_rng(seed_for(seed, "purify", "noise")))
    return {} if found is None else {"noise_estimate": found.as_metrics()}
