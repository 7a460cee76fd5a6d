"""What a method that needs a trusted row of each class asks of its task."""

from __future__ import annotations

import numpy as np

from lnl_core.config import ConfigError
from lnl_core.purify.task import PurifyTask
from lnl_core.statistics.moments import check_finite


def check_trusted_set(method: str, task: PurifyTask) -> None:
    """Raise ConfigError for a task in which `method` would have a class without a trusted row."""
    if task.classes < 2:
        raise ConfigError(f"{method}: labels have {task.classes} class; there is nothing to purify with fewer than two")
    if task.noisy.shape[0] == 0:
        raise ConfigError(f"{method}: there are no noisy rows; every train row is trusted")
    counts = np.bincount(task.trusted_label, minlength=task.classes)
    missing = np.flatnonzero(counts == 0)
    if len(missing):
        raise ConfigError(
            f"{method}: {len(missing)} of {task.classes} classes have no trusted row (first: class {missing[0]}); "
            "add verified rows of these classes to the trusted set"
        )
    check_finite(task.trusted, 0)
