"""MSLC: the meta soft label corrector, a baseline of EMLC's.

Wu, Shu, Xie, Zhao, Meng, "Learning to Purify Noisy Labels via Meta Soft Label Corrector", AAAI 2021. The soft label is
a convex combination of the observed label, the student's prediction now, and what it predicted before:

    y* = a onehot(observed) + (1 - a) (b p_now + (1 - b) p_before)

Two small networks read a and b from losses: a from the loss of the observed label under p_now, b from the loss of
p_now under p_before. They learn from the student's loss on trusted rows, one step ahead.

Departures: on cached features; the student's step is the look-ahead step itself, so a new corrector takes effect from
the next batch on (the paper looks ahead first and then steps again); p_before is a moving average over the visits of a
row; a row outside training has no past, so p_before = p_now there. Optimiser, folds and posterior as in EMLC here.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from lnl_core.purify import PURIFIERS
from lnl_core.purify.meta.baselines import MetaBaselineConfig, baseline_settings, new_student, with_adam
from lnl_core.purify.meta.features import purify_on_features
from lnl_core.purify.meta.folds import Heads
from lnl_core.purify.meta.training import NoisyBatch, TrustedBatch
from lnl_core.purify.task import Purification, PurifyTask

FLOOR = 1e-6  # a probability below counts as this in a loss


class MSLCConfig(MetaBaselineConfig):
    """Settings of MSLC."""

    corrector_hidden: int = Field(default=100, ge=1)  # width of the two small networks' hidden layer
    memory: float = Field(default=0.5, ge=0, lt=1)  # share of the past in p_before at each visit; 0: the last visit


class SoftLabelCorrector(nn.Module):
    """The two coefficients and, for the rows of training, p_before (no part of the saved state)."""

    def __init__(self, rows: int, classes: int, hidden: int, memory: float) -> None:
        super().__init__()
        self.observed_share = _coefficient(hidden)
        self.current_share = _coefficient(hidden)
        self.memory = memory
        self.before = torch.full((rows, classes), torch.nan)

    def combine(
        self,
        observed: Int[Tensor, " batch"],
        now: Float[Tensor, "batch classes"],
        before: Float[Tensor, "batch classes"],
    ) -> Float[Tensor, "batch classes"]:
        """y* of the formula above."""
        label_loss = -now.gather(1, observed.unsqueeze(1)).clamp_min(FLOOR).log()
        change_loss = -(before * now.clamp_min(FLOOR).log()).sum(dim=1, keepdim=True)
        share, current = self.observed_share(label_loss), self.current_share(change_loss)
        onehot = nn.functional.one_hot(observed, now.shape[1]).to(now.dtype)
        combined: Tensor = share * onehot + (1 - share) * (current * now + (1 - current) * before)
        return combined

    def soft_label(self, batch: NoisyBatch, student: nn.Module) -> Float[Tensor, "batch classes"]:
        """y* of a noisy batch; remembers what the student predicts."""
        now = _predicted(student, batch.inputs)
        seen = self.before[batch.rows]
        before = torch.where(seen.isnan(), now, seen)
        self.before[batch.rows] = self.memory * before + (1 - self.memory) * now
        return self.combine(batch.observed, now, before)

    def supervised_loss(self, trusted: TrustedBatch, generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:  # noqa: ARG002
        """None: the corrector has the meta loss alone."""
        return {}

    def predict(
        self, inputs: Tensor, observed: Int[Tensor, " batch"], student: nn.Module
    ) -> Float[Tensor, "batch classes"]:
        """y* of any rows, without a past."""
        now = _predicted(student, inputs)
        return self.combine(observed, now, now)


def _coefficient(hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(1, hidden), nn.ReLU(), nn.Linear(hidden, 1), nn.Sigmoid())


@torch.no_grad()
def _predicted(student: nn.Module, inputs: Tensor) -> Float[Tensor, "batch classes"]:
    logits: Tensor = student(inputs)
    return logits.softmax(dim=1)


@PURIFIERS.register(
    "mslc",
    config=MSLCConfig,
    summary="meta soft label corrector: observed labels mixed with predictions (a baseline; needs trusted rows)",
    source="Wu et al., AAAI 2021",
    needs_trusted=True,
)
def mslc(task: PurifyTask, config: MSLCConfig, generator: np.random.Generator) -> Purification:
    """Purify the observed labels of `task`."""

    def build(rows: int, features: int, classes: int) -> Heads:
        corrector = SoftLabelCorrector(rows, classes, config.corrector_hidden, config.memory)
        return with_adam(new_student(config, features, classes), corrector, config)

    return purify_on_features(task, baseline_settings("mslc", config, "fpmg"), build, generator)
