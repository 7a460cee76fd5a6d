"""EMLC's two networks: the teacher that corrects labels (two kinds), and the student that learns from them.

Keren Taraday, Baskin, "Enhanced Meta Label Correction for Coping with Label Corruption", ICCV 2023, Sec. 3.6, Fig. 3.
Neither knows what its backbone reads: `nn.Identity` (or one hidden layer) for cached features, an encoder for images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lnl_core.purify.meta.training import NoisyBatch, TrustedBatch

Corruption = Literal["random", "adversarial", "observed"]

LABEL_EMBEDDING = 128  # width of the label embedding and of the gate's hidden layer: released code


@dataclass(frozen=True, kw_only=True)
class Correction:
    """What the teacher says of a batch of observed labels."""

    logits: Float[Tensor, "batch classes"]  # of its own classifier, which does not see the observed label
    gate_logit: Float[Tensor, " batch"]  # log-odds that the observed label is right
    soft_label: Float[Tensor, "batch classes"]  # q; rows sum to 1

    @property
    def gate(self) -> Float[Tensor, " batch"]:
        """w in (0, 1): how far the observed label is trusted."""
        return self.gate_logit.sigmoid()


class Teacher(nn.Module):
    """q(y | x, observed) = w onehot(observed) + (1 - w) softmax(classifier(h)), w = gate(h, embedding(observed)).

    Args:
        backbone: inputs [batch, ...] to representations h [batch, width].
        width: of the representation.
    """

    def __init__(self, backbone: nn.Module, width: int, classes: int, embedding: int = LABEL_EMBEDDING) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Linear(width, classes)
        self.embedding = nn.Embedding(classes, embedding)
        self.gate = nn.Sequential(nn.Linear(width + embedding, embedding), nn.ReLU(), nn.Linear(embedding, 1))

    def forward(self, inputs: Tensor, observed: Int[Tensor, " batch"]) -> Correction:
        """The correction of the observed labels of `inputs`."""
        representation = self.backbone(inputs)
        logits = self.classifier(representation)
        return self.correct(representation, logits, observed)

    def gate_log_odds(
        self,
        representation: Float[Tensor, "batch width"],
        logits: Float[Tensor, "batch classes"],  # noqa: ARG002
        observed: Int[Tensor, " batch"],
    ) -> Float[Tensor, " batch"]:
        """What w is the sigmoid of."""
        log_odds: Tensor = self.gate(torch.cat([representation, self.embedding(observed)], dim=1)).squeeze(1)
        return log_odds

    def correct(
        self,
        representation: Float[Tensor, "batch width"],
        logits: Float[Tensor, "batch classes"],
        observed: Int[Tensor, " batch"],
    ) -> Correction:
        """The gate's part alone: other observed labels of the same rows cost no second pass through the backbone."""
        gate_logit = self.gate_log_odds(representation, logits, observed)
        weight = gate_logit.float().sigmoid().unsqueeze(1)
        onehot = nn.functional.one_hot(observed, logits.shape[1]).to(weight.dtype)
        soft_label = weight * onehot + (1 - weight) * logits.float().softmax(dim=1)
        return Correction(logits=logits, gate_logit=gate_logit, soft_label=soft_label)


class ReadingTeacher(Teacher):
    """A teacher that also reads what its student predicts: no part of the paper, for heads on cached features.

        logits = classifier(h) + a log p_student(y | x)                 the classifier learns what the student lacks
        log-odds of w = gate(h, embedding) + b (log-odds of the observed label under softmax(logits) - those of chance)

    The paper's classifier knows the trusted rows alone. Where observed labels are many and half of them right, a
    student of the observed labels knows more, and one that learns this teacher's labels forgets it. And whether a label
    is right depends on how probable it is, which a gate on (h, embedding) has to find out from a few trusted rows.
    """

    def __init__(self, backbone: nn.Module, width: int, classes: int, embedding: int = LABEL_EMBEDDING) -> None:
        super().__init__(backbone, width, classes, embedding)
        self.student_weight = nn.Parameter(torch.ones(()))  # a
        self.odds_weight = nn.Parameter(torch.ones(()))  # b
        nn.init.zeros_(self.classifier.weight)  # at first it says what the student says
        nn.init.zeros_(self.classifier.bias)

    def read(
        self, representation: Float[Tensor, "batch width"], student_says: Float[Tensor, "batch classes"]
    ) -> Float[Tensor, "batch classes"]:
        """The logits, from the student's logits, which are taken as they are."""
        logits: Tensor = self.classifier(representation) + self.student_weight * student_says.detach().log_softmax(1)
        return logits

    def forward(  # type: ignore[override]
        self,
        inputs: Tensor,
        observed: Int[Tensor, " batch"],
        student_says: Float[Tensor, "batch classes"],
    ) -> Correction:
        """The correction of the observed labels of `inputs`."""
        representation = self.backbone(inputs)
        return self.correct(representation, self.read(representation, student_says), observed)

    def gate_log_odds(
        self,
        representation: Float[Tensor, "batch width"],
        logits: Float[Tensor, "batch classes"],
        observed: Int[Tensor, " batch"],
    ) -> Float[Tensor, " batch"]:
        """What w is the sigmoid of; the classifier does not learn through it."""
        found = super().gate_log_odds(representation, logits, observed)
        log_prob = logits.detach().log_softmax(1).gather(1, observed.unsqueeze(1)).squeeze(1)
        odds = log_prob - torch.log1p(-log_prob.exp().clamp_max(1 - 1e-6))  # the logarithm stays finite
        return found + self.odds_weight * (odds + math.log(max(logits.shape[1] - 1, 1)))


class Student(nn.Module):
    """A backbone with a linear classifier; `forward` gives logits [batch, classes]."""

    def __init__(self, backbone: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Linear(width, classes)

    def forward(self, inputs: Tensor) -> Float[Tensor, "batch classes"]:
        logits: Tensor = self.classifier(self.backbone(inputs))
        return logits


def feature_backbone(features: int, hidden: int) -> tuple[nn.Module, int]:
    """(backbone, width) for cached features [batch, features]: the identity, or one hidden layer where `hidden` > 0."""
    if hidden == 0:
        return nn.Identity(), features
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU()), hidden


def gate_loss(teacher_says: Correction, corrupted: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    """L_BCE of Eq. 12: the gate must be open where the label it was fed is right, shut where it was corrupted (1)."""
    return nn.functional.binary_cross_entropy_with_logits(teacher_says.gate_logit.float(), 1 - corrupted)


def corrupt_half(
    label: Int[Tensor, " batch"],
    logits: Float[Tensor, "batch classes"],
    how: str,
    generator: torch.Generator,
) -> tuple[Int[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Artificial noise on half of a trusted batch (Sec. 3.6): (labels to feed the gate, 1 where they are wrong).

    `random`: a class drawn uniformly and independently, which hits the true one once in K times: such a row is not
    corrupted and counts as clean. `adversarial`: the strongest wrong prediction of the teacher's classifier.
    """
    rows = len(label)
    if how == "random":
        drawn = torch.randint(logits.shape[1], (rows,), generator=generator).to(label.device)
    else:
        wrong = logits.detach().scatter(1, label.unsqueeze(1), float("-inf"))
        drawn = wrong.argmax(dim=1)
    picked = torch.zeros(rows, dtype=torch.bool)
    picked[torch.randperm(rows, generator=generator)[: rows // 2]] = True
    fed = torch.where(picked.to(label.device), drawn, label)
    return fed, (fed != label).float()


class EMLCCorrector(nn.Module):
    """The teacher with its losses on trusted rows (Eq. 12), as the training loop asks for them.

    Args:
        corruption: what the gate learns from: `random` and `adversarial` as `corrupt_half`; `observed`: the labels that
            the source had given the trusted rows, where known, and `random` corruption of the others.
        gate_supervision: L_BCE at all.
    """

    def __init__(self, teacher: Teacher, corruption: Corruption, *, gate_supervision: bool) -> None:
        super().__init__()
        self.teacher = teacher
        self.corruption = corruption
        self.gate_supervision = gate_supervision

    def soft_label(self, batch: NoisyBatch, student: nn.Module) -> Float[Tensor, "batch classes"]:
        """q of a noisy batch."""
        return self._correction(batch.inputs, batch.observed, student).soft_label

    def supervised_loss(self, trusted: TrustedBatch, generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        """L_CE of the teacher's classifier and, where it is set, L_BCE of its gate."""
        representation = self.teacher.backbone(trusted.inputs)
        if isinstance(self.teacher, ReadingTeacher):
            assert trusted.student_says is not None
            logits = self.teacher.read(representation, trusted.student_says)
        else:
            logits = self.teacher.classifier(representation)
        losses = {"teacher_ce": nn.functional.cross_entropy(logits.float(), trusted.label)}
        if self.gate_supervision:
            fed, corrupted = self._corrupted(trusted, logits, generator)
            losses["gate_bce"] = gate_loss(self.teacher.correct(representation, logits, fed), corrupted)
        return losses

    def predict(
        self, inputs: Tensor, observed: Int[Tensor, " batch"], student: nn.Module
    ) -> Float[Tensor, "batch classes"]:
        """q of any rows."""
        return self._correction(inputs, observed, student).soft_label

    def gate(self, inputs: Tensor, observed: Int[Tensor, " batch"], student: nn.Module) -> Float[Tensor, " batch"]:
        """w of any rows."""
        return self._correction(inputs, observed, student).gate

    def _correction(self, inputs: Tensor, observed: Int[Tensor, " batch"], student: nn.Module) -> Correction:
        """A teacher of the paper's kind gives the student no say."""
        read = isinstance(self.teacher, ReadingTeacher)
        correction: Correction = self.teacher(inputs, observed, *([_said(student, inputs)] if read else []))
        return correction

    def _corrupted(
        self, trusted: TrustedBatch, logits: Float[Tensor, "batch classes"], generator: torch.Generator
    ) -> tuple[Int[Tensor, " batch"], Float[Tensor, " batch"]]:
        how = "random" if self.corruption == "observed" else self.corruption
        fed, corrupted = corrupt_half(trusted.label, logits, how, generator)
        if self.corruption != "observed":
            return fed, corrupted
        fed = torch.where(trusted.known, trusted.observed, fed)
        return fed, (fed != trusted.label).float()


@torch.no_grad()
def _said(student: nn.Module, inputs: Tensor) -> Tensor:
    logits: Tensor = student(inputs)
    return logits
