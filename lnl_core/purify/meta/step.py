"""One step of EMLC on images, in as few passes through the networks as it takes.

Alg. 1 of the paper with k = 1, in passes of one batch (a training step is three: forward, and backward for two):

    teacher   forward and backward, noisy and trusted rows as one batch     6
    student   forward and backward on the corrected noisy labels at w(t)    3
    student   forward and backward on the trusted rows at w(t+1)            3
    student   J_w g at w(t), its convolutions taken from the first pass     2

Departures: noisy and trusted rows share the teacher's batch statistics; the student's pass over trusted rows leaves
its running statistics alone, for it is a measurement and no step of training.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from lnl_core.purify.meta.forward_batch_norm import running_statistics_kept
from lnl_core.purify.meta.forward_convolution import recording
from lnl_core.purify.meta.meta_gradient import (
    StudentStep,
    copied_weights,
    fpmg,
    gradient,
    log_probabilities,
    soft_cross_entropy,
)
from lnl_core.purify.meta.teacher import Correction, Student, Teacher, corrupt_half, gate_loss
from lnl_core.runtime import drawn_from
from lnl_core.training.updates import MomentumSGD

Corruption = Literal["none", "random", "adversarial"]


@dataclass(frozen=True, kw_only=True)
class NoisyAndTrusted:
    """A batch of each kind, on the networks' device."""

    noisy: Float[Tensor, "batch channels height width"]
    observed: Int[Tensor, " batch"]
    trusted: Float[Tensor, "trusted channels height width"]
    label: Int[Tensor, " trusted"]


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """What a step is made of; the method's settings have the sources."""

    student_lr: float
    teacher_lr: float
    corruption: Corruption
    joined: Literal["matched", "reversed"]
    mix: bool  # the first half of the trusted batch trains the student too; the second half scores it


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Means over a batch, detached."""

    student: Float[Tensor, ""]  # L~, on the corrected labels
    trusted: Float[Tensor, ""] | None  # L, of the student at w(t+1); None in steps without an update of the teacher
    gate: Float[Tensor, ""]  # mean weight of the observed labels


@dataclass(kw_only=True)
class EMLCNetworks:
    """Teacher, student, their optimisers, and the student's steps since the teacher last moved."""

    teacher: Teacher
    student: Student
    teacher_optimizer: MomentumSGD
    student_optimizer: MomentumSGD
    autocast: Callable[[], contextlib.AbstractContextManager[object]]
    window: list[StudentStep] = field(default_factory=list)

    def step(
        self, batch: NoisyAndTrusted, settings: StepSettings, generator: torch.Generator, *, update_teacher: bool
    ) -> Losses:
        """A step of the student and, at the end of a window, one of the teacher."""
        corrected, supervised = self._teach(batch, settings, generator, supervised=update_teacher)
        trained = len(batch.label) // 2 if settings.mix else 0
        student_loss = self._learn(batch, corrected.soft_label, trained, settings)
        trusted_loss = None
        if update_teacher:
            with self.autocast(), running_statistics_kept(self.student):
                logits = self.student(batch.trusted[trained:])
            trusted_loss = functional.cross_entropy(logits.float(), batch.label[trained:])
            direction = gradient(trusted_loss, self.student)
            with self.autocast():
                meta = fpmg(self.student, self.window, direction, joined=settings.joined)
            self.teacher_optimizer.step(supervised + meta, settings.teacher_lr)  # Eq. 12
            self.window.clear()
        return Losses(
            student=student_loss.detach(),
            trusted=None if trusted_loss is None else trusted_loss.detach(),
            gate=corrected.gate.detach().mean(),
        )

    def _teach(
        self, batch: NoisyAndTrusted, settings: StepSettings, generator: torch.Generator, *, supervised: bool
    ) -> tuple[Correction, Tensor]:
        """Corrected labels of the noisy rows, and L_CE + L_BCE of the trusted ones (0 where they are off)."""
        images = torch.cat([batch.noisy, batch.trusted]) if supervised else batch.noisy
        count = len(batch.noisy)
        with self.autocast():
            features = self.teacher.backbone(images)
            logits = self.teacher.classifier(features)
            corrected = self.teacher.correct(features[:count], logits[:count], batch.observed)
            if not supervised:
                return corrected, torch.zeros((), device=images.device)
            loss = functional.cross_entropy(logits[count:].float(), batch.label)
            if settings.corruption != "none":
                fed, wrong = corrupt_half(batch.label, logits[count:], settings.corruption, generator)
                loss = loss + gate_loss(self.teacher.correct(features[count:], logits[count:], fed), wrong)
        return corrected, loss

    def _learn(
        self, batch: NoisyAndTrusted, soft_label: Float[Tensor, "batch classes"], trained: int, settings: StepSettings
    ) -> Tensor:
        """One step of the student, kept in the window; its loss."""
        images, targets = batch.noisy, soft_label
        if trained:
            verified = functional.one_hot(batch.label[:trained], soft_label.shape[1]).to(soft_label.dtype)
            images, targets = torch.cat([images, batch.trusted[:trained]]), torch.cat([soft_label, verified])
        weights = copied_weights(self.student)
        with recording(self.student) as record, self.autocast():
            log_probs = log_probabilities(self.student(images))
        loss = soft_cross_entropy(log_probs, targets.detach())
        self.student_optimizer.step(loss, settings.student_lr)
        self.window.append(
            StudentStep(weights=weights, inputs=images, soft_label=targets, lr=settings.student_lr, record=record)
        )
        return loss


def new_networks(
    backbone: Callable[[int], nn.Module],
    classes: int,
    seeds: tuple[int, int],
    prepare: Callable[[nn.Module], nn.Module],
    optimizer: Callable[[nn.Module], MomentumSGD],
    autocast: Callable[[], contextlib.AbstractContextManager[object]],
) -> EMLCNetworks:
    """Teacher and student with a backbone each.

    Args:
        backbone: seed -> encoder with its `width`.
        seeds: of the teacher and of the student.
        prepare: puts a network into training mode and where it belongs.
    """
    networks: list[nn.Module] = []
    for kind, seed in zip((Teacher, Student), seeds, strict=True):
        body = backbone(seed)
        with drawn_from(seed):
            networks.append(prepare(kind(body, int(body.width), classes)))  # type: ignore[arg-type]
    teacher, student = networks
    assert isinstance(teacher, Teacher)
    assert isinstance(student, Student)
    return EMLCNetworks(
        teacher=teacher,
        student=student,
        teacher_optimizer=optimizer(teacher),
        student_optimizer=optimizer(student),
        autocast=autocast,
    )
