"""No purification: every row keeps its observed label. The start for data without a trusted set, and a yardstick."""

from __future__ import annotations

import numpy as np

from lnl_core.config import Settings
from lnl_core.contracts import NO_LABEL
from lnl_core.purify import PURIFIERS
from lnl_core.purify.task import Purification, PurifyTask


class NoneConfig(Settings):
    """Nothing to set."""


@PURIFIERS.register("none", config=NoneConfig, summary="keep the observed labels (needs no trusted rows)")
def none(task: PurifyTask, config: NoneConfig, generator: np.random.Generator) -> Purification:  # noqa: ARG001
    """One-hot observed labels as posterior; a trusted row of unknown observed label has no prediction (NaN)."""
    onehot = np.eye(task.classes, dtype=np.float32)
    known = (task.trusted_observed != NO_LABEL)[:, None]
    trusted = np.where(known, onehot[task.trusted_observed], np.float32(np.nan))
    return Purification(posterior=onehot[task.observed], metrics={}, trusted_posterior=trusted)
