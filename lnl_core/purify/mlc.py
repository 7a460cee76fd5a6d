"""MLC: meta label correction, a baseline of EMLC's.

Zheng, Hassan Awadallah, Dumais, "Meta Label Correction for Noisy Label Learning", AAAI 2021. The label correction
network reads the student's own representation and the observed label, and writes a whole new label:

    q = softmax(g(h_student(x), embedding(observed)))

It learns from the student's loss on trusted rows alone, one step ahead, by finite differences.

Departures: on cached features, so h is the features or the student's hidden layer; one look-ahead step; the student's
optimiser, the folds and the choice of the posterior are those of EMLC here, its epochs are more.
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
from lnl_core.purify.meta.teacher import LABEL_EMBEDDING, Student
from lnl_core.purify.meta.training import NoisyBatch, TrustedBatch
from lnl_core.purify.task import Purification, PurifyTask


class MLCConfig(MetaBaselineConfig):
    """Settings of MLC."""

    correction_hidden: int = Field(default=128, ge=1)  # width of the correction network's hidden layers


class LabelCorrectionNetwork(nn.Module):
    """Representation [batch, width] and observed label to a soft label, through two hidden layers."""

    def __init__(self, width: int, classes: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, LABEL_EMBEDDING)
        self.layers = nn.Sequential(
            nn.Linear(width + LABEL_EMBEDDING, hidden),
            nn.Tanh(),
            nn.Linear(hidden, hidden),
            nn.Tanh(),
            nn.Linear(hidden, classes),
        )

    def forward(
        self, representation: Float[Tensor, "batch width"], observed: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch classes"]:
        scores: Tensor = self.layers(torch.cat([representation, self.embedding(observed)], dim=1))
        return scores.softmax(dim=1)

    def soft_label(self, batch: NoisyBatch, student: nn.Module) -> Float[Tensor, "batch classes"]:
        """q of a noisy batch."""
        return self.predict(batch.inputs, batch.observed, student)

    def supervised_loss(self, trusted: TrustedBatch, generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:  # noqa: ARG002
        """None: MLC's correction network has the meta loss alone."""
        return {}

    def predict(
        self, inputs: Tensor, observed: Int[Tensor, " batch"], student: nn.Module
    ) -> Float[Tensor, "batch classes"]:
        """q of any rows; the student's representation is taken as it is."""
        assert isinstance(student, Student)
        with torch.no_grad():
            representation = student.backbone(inputs)
        soft_label: Tensor = self(representation, observed)
        return soft_label


@PURIFIERS.register(
    "mlc",
    config=MLCConfig,
    summary="meta label correction: a network rewrites labels for its student (a baseline; needs trusted rows)",
    source="Zheng, Hassan Awadallah, Dumais, AAAI 2021",
    needs_trusted=True,
)
def mlc(task: PurifyTask, config: MLCConfig, generator: np.random.Generator) -> Purification:
    """Purify the observed labels of `task`."""

    def build(rows: int, features: int, classes: int) -> Heads:  # noqa: ARG001
        student = new_student(config, features, classes)
        network = LabelCorrectionNetwork(config.hidden or features, classes, config.correction_hidden)
        return with_adam(student, network, config)

    return purify_on_features(task, baseline_settings("mlc", config, "finite_difference"), build, generator)
