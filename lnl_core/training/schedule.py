"""Learning-rate schedules as plain functions of the step."""

from __future__ import annotations

import math
from collections.abc import Sequence


def cosine_lr(step: int, total: int, base: float, warmup: int = 0) -> float:
    """Linear warm-up over `warmup` steps from base/warmup to base, then half a cosine down to 0 at `total`."""
    if step < warmup:
        return base * (step + 1) / warmup
    share = (step - warmup) / max(total - warmup, 1)
    return base * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def step_lr(epoch: int, base: float, milestones: Sequence[int], factor: float = 0.1) -> float:
    """`base`, multiplied by `factor` at each milestone epoch that has been reached."""
    return float(base * factor ** sum(epoch >= milestone for milestone in milestones))
