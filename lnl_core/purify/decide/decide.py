"""From features and observed labels to purified labels: the one place where a label is decided, read from the top.

    checked      what no method can work with is refused
    fitted       posterior of every noisy row, and out-of-fold predictions on trusted rows
    calibrated   posterior -> confidence, the probability that the label is right
    decided      the mode of the posterior, unless an earlier version's decision is held
    routed       keep, relabel or review, under a promise about wrong changes

The posterior itself is kept as the soft label. Every step is a function of data that returns data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lnl_core import __version__
from lnl_core.config import Settings
from lnl_core.contracts import BoolArray, FloatArray, Ids, IntArray, Purified
from lnl_core.purify import PURIFIERS
from lnl_core.purify.decide.calibrate import Calibrated, confidence_of
from lnl_core.purify.decide.check import checked
from lnl_core.purify.decide.cross_fit import Fitted, fit
from lnl_core.purify.decide.decisions import Past, with_margin
from lnl_core.purify.decide.routes import RouteSettings, rows_for_review
from lnl_core.purify.task import PurifyTask
from lnl_core.runtime import seed_for

CROSS_FITS = 3  # further fits of a method that gives no out-of-fold predictions itself


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
        cross_fits: further fits for out-of-fold predictions where the method gives none; below 2: none, and the
            confidence is then the method's own.
        routes: what is promised about the applied changes; None: nothing, all are applied.
        past: what the version before decided; None: there is none.
    Returns:
        The rows of purified.parquet and the metrics.
    """
    entry, routes = PURIFIERS.get(method), routes or RouteSettings()
    for_folds, for_routes = _generator(seed, entry.draws_as, "trusted"), _generator(seed, entry.draws_as, "routes")
    task = checked(method, task, ids, needs_trusted=entry.needs_trusted)
    fitted = fit(
        entry.make,
        config,
        task,
        _generator(seed, entry.draws_as),
        folds=cross_fits,
        for_folds=for_folds,
        hidden_share=routes.hidden_share,
        for_hidden=for_routes,
    )
    decision = decide(fitted, task.observed, past, routes, for_folds, for_routes)
    settings = config.model_dump(mode="json")
    about = {"method": method, "settings": settings, "seed": seed, "version": __version__}
    if past is not None and past.settings.flip_margin:  # without a margin the past decides nothing
        about["update"] = past.settings.model_dump(mode="json")
    purified = Purified(
        ids=ids,
        label=task.observed,
        purified_label=decision.label,
        confidence=decision.confidence,
        soft_label=fitted.found.posterior,
        class_names=class_names,
        about=about | ({"promise": routes.model_dump(mode="json")} if routes.promise else {}),
        review=decision.review,
    )
    summary = {"method": method, "settings": settings, **_counts(purified)}
    curve = list(fitted.found.curve)
    return purified, {**summary, **decision.metrics, **fitted.found.metrics, "curve": curve}


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What is decided on each noisy row."""

    label: IntArray  # [n]
    confidence: FloatArray  # [n] probability that the label is right
    review: BoolArray | None  # [n] too uncertain to apply; None where nothing is promised
    metrics: dict[str, Any]


def decide(
    fitted: Fitted,
    observed: IntArray,
    past: Past | None,
    routes: RouteSettings,
    for_calibration: np.random.Generator,
    for_routes: np.random.Generator,
) -> Decision:
    """posterior -> calibrated -> decision -> route, of all noisy rows [n]."""
    posterior = fitted.found.posterior
    calibrated = Calibrated.on(fitted.trusted, posterior, for_calibration)
    label = with_margin(posterior, past)
    confidence = confidence_of(label, posterior, observed, calibrated)
    review, promised = rows_for_review(posterior, label, observed, fitted.tested, routes, for_routes)
    said = {"calibrated_on": 0} if calibrated is None else calibrated.as_metrics()
    return Decision(label=label, confidence=confidence, review=review, metrics={**promised, **said})


def _counts(purified: Purified) -> dict[str, Any]:
    rows, changed = len(purified), int(purified.changed.sum())
    return {
        "rows": rows,
        "changed": changed,
        "changed_share": round(changed / max(rows, 1), 6),
        "mean_confidence": round(float(purified.confidence.mean()), 6) if rows else None,
    }


def _generator(seed: int, *purpose: str) -> np.random.Generator:
    return np.random.default_rng(seed_for(seed, "purify", *purpose))
