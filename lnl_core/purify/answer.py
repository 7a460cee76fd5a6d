"""From a purifier's posterior to the table of purified labels: the one place where a label is decided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lnl_core import __version__
from lnl_core.config import Settings
from lnl_core.contracts import Ids, Purified
from lnl_core.purify import PURIFIERS
from lnl_core.purify.check import checked
from lnl_core.purify.task import PurifyTask
from lnl_core.runtime import seed_for


def purify(
    method: str, config: Settings, task: PurifyTask, ids: Ids, class_names: tuple[str, ...], seed: int
) -> tuple[Purified, dict[str, Any]]:
    """Run a purifier and decide: the purified label is the mode of the posterior, its confidence the posterior there.

    Returns:
        The rows of purified.parquet and the metrics.
    """
    generator = np.random.default_rng(seed_for(seed, "purify", method))
    entry = PURIFIERS.get(method)
    task = checked(method, task, ids, needs_trusted=entry.needs_trusted)
    found = entry.make(task, config, generator)
    label = found.posterior.argmax(axis=1).astype(np.int32)
    about = {"method": method, "settings": config.model_dump(mode="json"), "seed": seed, "version": __version__}
    purified = Purified(
        ids=ids,
        label=task.observed,
        purified_label=label,
        confidence=np.minimum(found.posterior[np.arange(len(label)), label], 1.0).astype(np.float32),
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
    return purified, {**summary, **found.metrics, "curve": list(found.curve)}
