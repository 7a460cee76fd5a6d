"""From a purifier's posterior to the table of purified labels: the one place where a label is decided.

The purified label is the mode of the posterior, which is kept as the soft label. The confidence is a number of its own:
the probability that the purified label is right, calibrated on trusted rows that the method answered out of fold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lnl_core import __version__
from lnl_core.config import Settings
from lnl_core.contracts import FloatArray, Ids, Purified
from lnl_core.purify import PURIFIERS
from lnl_core.purify.check import checked
from lnl_core.purify.cross_fit import TrustedAnswers, trusted_answers
from lnl_core.purify.task import PurifyTask
from lnl_core.runtime import seed_for

CROSS_FITS = 3  # further fits of a method that gives no out-of-fold answers itself


def purify(
    method: str,
    config: Settings,
    task: PurifyTask,
    ids: Ids,
    class_names: tuple[str, ...],
    seed: int,
    *,
    cross_fits: int = CROSS_FITS,
) -> tuple[Purified, dict[str, Any]]:
    """Run a purifier and decide.

    Args:
        cross_fits: further fits for out-of-fold answers where the method gives none; below 2: none, and the
            confidence is then the method's own.
    Returns:
        The rows of purified.parquet and the metrics.
    """
    generator = np.random.default_rng(seed_for(seed, "purify", method))
    entry = PURIFIERS.get(method)
    task = checked(method, task, ids, needs_trusted=entry.needs_trusted)
    found = entry.make(task, config, generator)
    folds_generator = np.random.default_rng(seed_for(seed, "purify", method, "trusted"))
    trusted = trusted_answers(entry.make, config, task, found, folds_generator, folds=cross_fits)
    label = found.posterior.argmax(axis=1).astype(np.int32)
    about = {"method": method, "settings": config.model_dump(mode="json"), "seed": seed, "version": __version__}
    purified = Purified(
        ids=ids,
        label=task.observed,
        purified_label=label,
        confidence=_of_mode(found.posterior),
        soft_label=found.posterior,
        class_names=class_names,
        about=about,
    )
    changed = int(purified.changed.sum())
    summary: Mapping[str, Any] = {
        "method": method,
        "settings": about["settings"],
        "rows": len(label),
        "changed": changed,
        "changed_share": round(changed / max(len(label), 1), 6),
        "mean_confidence": round(float(purified.confidence.mean()), 6) if len(label) else None,
    }
    metrics = {**summary, **_trusted_metrics(trusted), **found.metrics, "curve": list(found.curve)}
    return purified, metrics


def _of_mode(posterior: FloatArray) -> FloatArray:
    """[n] the posterior at its mode."""
    return np.asarray(np.minimum(posterior.max(axis=1), 1.0), dtype=np.float32)


def _trusted_metrics(trusted: TrustedAnswers | None) -> dict[str, Any]:
    if trusted is None:
        return {}
    return {
        "trusted_rows_judged": len(trusted),
        "trusted_rows_with_drawn_observed": int(trusted.simulated.sum()),
        "trusted_right": round(float(trusted.right.mean()), 5),
    }
