"""From a purifier's posterior to the table of purified labels: the one place where a label is decided.

The purified label is the mode of the posterior, which is kept as the soft label, except where a decision of the version
before is held (`decisions.py`). The confidence is a number of its own: the probability that the purified
label is right, calibrated on trusted rows that the method answered out of fold; that of a held label is its posterior.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lnl_core import __version__
from lnl_core.config import Settings
from lnl_core.contracts import FloatArray, Ids, IntArray, Purified
from lnl_core.purify import PURIFIERS
from lnl_core.purify.decide.check import checked
from lnl_core.purify.decide.cross_fit import TrustedPredictions, trusted_predictions
from lnl_core.purify.decide.decisions import Past, decide
from lnl_core.purify.decide.noise_metrics import noise_metrics
from lnl_core.purify.decide.routes import RouteSettings, hold_out, rows_for_review
from lnl_core.purify.task import Purification, PurifyTask
from lnl_core.runtime import seed_for
from lnl_core.statistics.calibration import Calibration, calibrate, calibration_error, prior_weights

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
    routes: RouteSettings | None = None,
    past: Past | None = None,
) -> tuple[Purified, dict[str, Any]]:
    """Run a purifier and decide.

    Args:
        cross_fits: further fits for out-of-fold answers where the method gives none; below 2: none, and the
            confidence is then the method's own.
        routes: what is promised about the applied changes; None: nothing, all are applied.
        past: what the version before decided; None: there is none.
    Returns:
        The rows of purified.parquet and the metrics.
    """
    entry = PURIFIERS.get(method)
    generator = np.random.default_rng(seed_for(seed, "purify", entry.draws_as))
    task = checked(method, task, ids, needs_trusted=entry.needs_trusted)
    routes = routes or RouteSettings()
    routes_generator = np.random.default_rng(seed_for(seed, "purify", entry.draws_as, "routes"))
    held = None
    if routes.promise is not None and routes.calibration == "split":
        held = hold_out(task, routes.calibration_share, routes_generator)
    seen = task if held is None else held.task
    found = entry.make(seen, config, generator)
    folds_generator = np.random.default_rng(seed_for(seed, "purify", entry.draws_as, "trusted"))
    trusted = trusted_predictions(entry.make, config, seen, found, folds_generator, folds=cross_fits)
    tested = trusted
    if held is not None:
        found, tested = held.split(found)
    label = decide(found.posterior, past)
    review, promised = rows_for_review(found.posterior, label, task.observed, tested, routes, routes_generator)
    judged = _judged(trusted, found, folds_generator)
    about = {"method": method, "settings": config.model_dump(mode="json"), "seed": seed, "version": __version__}
    if past is not None and past.settings.flip_margin:  # without a margin the past decides nothing
        about["update"] = past.settings.model_dump(mode="json")
    purified = Purified(
        ids=ids,
        label=task.observed,
        purified_label=label,
        confidence=_confidence(found.posterior, label, task.observed, judged),
        soft_label=found.posterior,
        class_names=class_names,
        about=about | ({"promise": routes.model_dump(mode="json")} if routes.promise else {}),
        review=review,
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
    noise = noise_metrics(task, np.random.default_rng(seed_for(seed, "purify", "noise")))
    metrics = {**summary, **noise, **promised, **_trusted_metrics(judged), **found.metrics, "curve": list(found.curve)}
    return purified, metrics


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Out-of-fold answers on trusted rows, and what they say of the confidence."""

    answers: TrustedPredictions
    weight: FloatArray  # [s] mean 1: gives the trusted rows the class prior of the noisy ones
    calibration: Calibration

    @property
    def confidence(self) -> FloatArray:
        """[s] calibrated, by a map that was not fitted to the row."""
        return self.calibration.held_out.astype(np.float32)


def _judged(answers: TrustedPredictions | None, found: Purification, generator: np.random.Generator) -> Judged | None:
    if answers is None:
        return None
    prior = found.posterior.mean(axis=0, dtype=np.float64)
    weight = prior_weights(answers.label, prior)
    changed = answers.purified != answers.observed
    calibration = calibrate(_of_mode(answers.posterior), answers.right, changed, weight, generator)
    return Judged(answers=answers, weight=weight.astype(np.float32), calibration=calibration)


def _confidence(posterior: FloatArray, label: IntArray, observed: IntArray, judged: Judged | None) -> FloatArray:
    """[n] the probability that the label is right: the calibrated one of a mode, where trusted rows can judge it.

    A held label that is not the mode keeps its posterior, for the map was fitted to modes.
    """
    own = _of_mode(posterior)
    if judged is not None and judged.calibration.chosen != "identity":
        own = judged.calibration.map(own, label != observed).astype(np.float32)
    held = label != posterior.argmax(axis=1)
    return np.where(held, posterior[np.arange(len(label)), label], own).astype(np.float32)


def _of_mode(posterior: FloatArray) -> FloatArray:
    """[n] the posterior at its mode."""
    return np.asarray(np.minimum(posterior.max(axis=1), 1.0), dtype=np.float32)


def _trusted_metrics(judged: Judged | None) -> dict[str, Any]:
    """What the trusted rows say; shares are weighted to the class prior of the noisy rows."""
    if judged is None:
        return {"calibrated_on": 0}
    answers, weight = judged.answers, judged.weight
    return {
        "calibrated_on": len(answers),
        "observed_labels_drawn": int(answers.simulated.sum()),
        "held_out_right": round(float(np.average(answers.right, weights=weight)), 5),
        "held_out_confidence": round(float(np.average(judged.confidence, weights=weight)), 5),
        "calibration_error": round(calibration_error(judged.confidence, answers.right, weight), 5),
        "calibration": judged.calibration.chosen,
        "calibrations": judged.calibration.table,
    }
