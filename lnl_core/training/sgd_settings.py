"""The optimiser's settings that training methods share; each method redeclares what its paper sets otherwise."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from lnl_core.config import Settings
from lnl_core.training.schedule import cosine_lr, step_lr

_SCALE = 10_000  # cosine_lr counts whole steps; the epochs of a method's phases have different numbers of them


class SGDSettings(Settings):
    """SGD with momentum, and the course of its learning rate over the epochs."""

    epochs: int = Field(default=300, ge=1)
    batch_size: int = Field(default=128, ge=2)
    lr: float = Field(default=0.02, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    schedule: Literal["cosine", "step"] = "cosine"
    lr_warmup_epochs: int = Field(default=0, ge=0)  # cosine: linear rise at the start
    milestones: tuple[int, ...] | None = None  # step: epochs after which lr falls; none: half-way
    lr_factor: float = Field(default=0.1, gt=0, lt=1)  # step: what it is multiplied by

    def lr_at(self, epoch: int, share: float) -> float:
        """The rate at `share` (0..1) of an epoch (0 is the first); `step` changes it at epochs only."""
        if self.schedule == "step":
            milestones = (math.ceil(self.epochs / 2),) if self.milestones is None else self.milestones
            return step_lr(epoch, self.lr, milestones, self.lr_factor)
        now = round((epoch + share) * _SCALE)
        return cosine_lr(now, self.epochs * _SCALE, self.lr, self.lr_warmup_epochs * _SCALE)
