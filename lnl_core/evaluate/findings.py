"""What the parts of the stage evaluate have found so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lnl_core.evaluate.tables import Cell


@dataclass(kw_only=True)
class Findings:
    """Filled part by part; becomes the stage's metrics and the tables that several parts share."""

    scores: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)  # topic -> why it is not there
    per_class: dict[str, np.ndarray] = field(default_factory=dict)
    reliability: list[tuple[Cell, ...]] = field(default_factory=list)
