"""Bi-level training of a student on noisy rows whose labels a corrector writes: the loop of EMLC, MLC and MSLC.

EMLC Alg. 1: in each step the student descends the loss on the corrector's soft labels; after every k-th step the
corrector descends the student's loss on trusted rows, differentiated through these steps (`meta_gradient`).
What a batch holds is not looked at: `Inputs` hands out feature rows as well as images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lnl_core.purify.meta.meta_gradient import (
    StudentStep,
    copied_weights,
    finite_difference,
    fpmg,
    gradient,
    log_probabilities,
    soft_cross_entropy,
)
from lnl_core.training.row_batches import EndlessRows, shuffled_batches
from lnl_core.training.schedule import cosine_lr


@runtime_checkable
class Inputs(Protocol):
    """What the networks read, by row number: cached features, or images that training augments."""

    def __len__(self) -> int: ...

    def drawn(self, rows: Int[Tensor, " batch"], generator: torch.Generator) -> Tensor:
        """[batch, ...] for a training step."""
        ...


@dataclass(frozen=True, kw_only=True)
class FeatureInputs:
    """Feature rows in memory."""

    values: Float[Tensor, "rows features"]

    def __len__(self) -> int:
        return len(self.values)

    def drawn(self, rows: Int[Tensor, " batch"], generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """The rows as they are; features are not augmented."""
        return self.values[rows]


@dataclass(frozen=True, kw_only=True)
class MetaRows:
    """The rows that training sees: noisy ones with observed labels, trusted ones with verified labels."""

    noisy: Inputs
    observed: Int[Tensor, " rows"]
    trusted: Inputs
    trusted_label: Int[Tensor, " trusted"]
    trusted_observed: Int[Tensor, " trusted"]  # NO_LABEL (-1) where unknown
    learnt: Int[Tensor, " learnt"]  # the trusted rows that may be learnt from


@dataclass(frozen=True, kw_only=True)
class NoisyBatch:
    """Noisy rows with their observed labels."""

    rows: Int[Tensor, " batch"]  # row numbers
    inputs: Tensor  # [batch, ...]
    observed: Int[Tensor, " batch"]


@dataclass(frozen=True, kw_only=True)
class TrustedBatch:
    """Trusted rows with their verified labels."""

    inputs: Tensor  # [batch, ...]
    label: Int[Tensor, " batch"]
    observed: Int[Tensor, " batch"]  # what the source had said; NO_LABEL (-1) where unknown
    student_says: Float[Tensor, "batch classes"] | None = None  # the student's logits, detached, when it is scored

    @property
    def known(self) -> Bool[Tensor, " batch"]:
        """Rows whose observed label is known."""
        return self.observed >= 0


@runtime_checkable
class Corrector(Protocol):
    """The teacher's side of a method; an `nn.Module` whose parameters are alpha."""

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def soft_label(self, batch: NoisyBatch, student: nn.Module) -> Float[Tensor, "batch classes"]:
        """Targets for the student, attached to alpha."""
        ...

    def supervised_loss(self, trusted: TrustedBatch, generator: torch.Generator) -> Mapping[str, Float[Tensor, ""]]:
        """Losses on trusted rows that need no student, by name; may be empty."""
        ...


@dataclass(frozen=True, kw_only=True)
class MetaSchedule:
    """The settings of the loop; each method's config has them with their sources."""

    epochs: int
    batch_size: int  # noisy rows a step
    trusted_batch_size: int
    steps: int  # k: student steps for one of the teacher
    student_lr: float
    momentum: float
    weight_decay: float
    cosine: bool  # both learning rates fall to 0 over the run; else they stay
    mix: bool  # half of each trusted batch trains the student, the other half scores it
    meta_weight: float  # of the meta loss beside the supervised ones
    undo_lr: bool  # the meta-gradient without its factor eta_w, which makes it vanish beside the supervised losses
    method: Literal["fpmg", "finite_difference"]
    joined: Literal["matched", "reversed"] = "matched"


@dataclass(frozen=True, kw_only=True)
class EpochEnd:
    """What was seen in an epoch: means over its steps."""

    epoch: int  # 1 is the first
    losses: Mapping[str, float]


class MetaTrainer:
    """A student, a corrector and their optimizers; `run` trains them and stops to be looked at after each epoch.

    Args:
        teacher_optimizer: None where the corrector has nothing to learn; then this is plain training on its labels.
    """

    def __init__(
        self,
        student: nn.Module,
        corrector: Corrector,
        teacher_optimizer: torch.optim.Optimizer | None,
        schedule: MetaSchedule,
    ) -> None:
        self.student, self.corrector, self.schedule = student, corrector, schedule
        self._teacher_optimizer = teacher_optimizer
        self._teacher_rates = [group["lr"] for group in teacher_optimizer.param_groups] if teacher_optimizer else []
        self._student_optimizer = torch.optim.SGD(
            student.parameters(), lr=schedule.student_lr, momentum=schedule.momentum, weight_decay=schedule.weight_decay
        )
        self._past: list[StudentStep] = []

    def run(self, rows: MetaRows, generator: torch.Generator) -> Iterator[EpochEnd]:
        """Train; yields after each epoch with the networks as they then are."""
        trusted_rows = EndlessRows(rows.learnt, generator)
        every = torch.arange(len(rows.noisy))
        per_epoch = len(shuffled_batches(every, self.schedule.batch_size, torch.Generator().manual_seed(0)))
        step = 0
        for epoch in range(1, self.schedule.epochs + 1):
            sums: dict[str, list[float]] = {}
            for picked in self._batches(every, generator):
                self._set_rates(step / (per_epoch * self.schedule.epochs))
                trusted = self._trusted_batch(rows, trusted_rows, generator)
                batch = NoisyBatch(
                    rows=picked, inputs=rows.noisy.drawn(picked, generator), observed=rows.observed[picked]
                )
                step += 1
                losses = self.step(batch, trusted, generator, teach=step % self.schedule.steps == 0)
                for name, value in losses.items():
                    sums.setdefault(name, []).append(value)
            yield EpochEnd(epoch=epoch, losses={name: sum(seen) / len(seen) for name, seen in sums.items()})

    def step(
        self, batch: NoisyBatch, trusted: TrustedBatch, generator: torch.Generator, *, teach: bool
    ) -> dict[str, float]:
        """One step of the student (Alg. 1, line 4) and, where `teach`, one of the teacher (lines 6 to 9)."""
        half = len(trusted.label) // 2 if self.schedule.mix else 0
        soft_label = self.corrector.soft_label(batch, self.student)
        rate = float(self._student_optimizer.param_groups[0]["lr"])
        if self._teacher_optimizer is not None:
            before = copied_weights(self.student)
            self._past.append(StudentStep(weights=before, inputs=batch.inputs, soft_label=soft_label, lr=rate))
        loss = soft_cross_entropy(log_probabilities(self.student(batch.inputs)), soft_label.detach())
        if half:
            loss = loss + F.cross_entropy(self.student(trusted.inputs[:half]), trusted.label[:half])
        _descend(self._student_optimizer, loss)
        losses = {"student_loss": loss.item()}
        if teach and self._teacher_optimizer is not None:
            losses |= self._teach(trusted, half, generator)
        return losses

    def _teach(self, trusted: TrustedBatch, half: int, generator: torch.Generator) -> dict[str, float]:
        """Eq. 12: the meta-gradient and the gradients of the supervised losses in one backward pass."""
        says = self.student(trusted.inputs)
        meta_loss = F.cross_entropy(says[half:], trusted.label[half:])
        direction = gradient(meta_loss, self.student)
        weight = self.schedule.meta_weight / (max(self._past[-1].lr, 1e-12) if self.schedule.undo_lr else 1.0)
        total = weight * self._meta_surrogate(direction)
        supervised = self.corrector.supervised_loss(replace(trusted, student_says=says.detach()), generator)
        for value in supervised.values():
            total = total + value
        self._past.clear()
        assert self._teacher_optimizer is not None
        _descend(self._teacher_optimizer, total)
        return {"meta_loss": meta_loss.item(), **{name: value.item() for name, value in supervised.items()}}

    def _meta_surrogate(self, direction: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        if self.schedule.method == "finite_difference":
            return finite_difference(self.student, self._past[-1], direction)
        return fpmg(self.student, self._past, direction, joined=self.schedule.joined)

    def _batches(self, rows: Int[Tensor, " rows"], generator: torch.Generator) -> list[Int[Tensor, " batch"]]:
        """An epoch; of one size where products meet another step's labels, at the cost of a row a batch."""
        batches = shuffled_batches(rows, self.schedule.batch_size, generator)
        if self.schedule.joined == "matched":
            return batches
        smallest = min(len(batch) for batch in batches)
        return [batch[:smallest] for batch in batches]

    def _trusted_batch(self, rows: MetaRows, order: EndlessRows, generator: torch.Generator) -> TrustedBatch:
        picked = order.take(self.schedule.trusted_batch_size)
        return TrustedBatch(
            inputs=rows.trusted.drawn(picked, generator),
            label=rows.trusted_label[picked],
            observed=rows.trusted_observed[picked],
        )

    def _set_rates(self, progress: float) -> None:
        if not self.schedule.cosine:
            return
        factor = cosine_lr(round(progress * 1_000_000), 1_000_000, 1.0)
        for group in self._student_optimizer.param_groups:
            group["lr"] = factor * self.schedule.student_lr
        if self._teacher_optimizer is not None:
            for group, rate in zip(self._teacher_optimizer.param_groups, self._teacher_rates, strict=True):
                group["lr"] = factor * rate


def _descend(optimizer: torch.optim.Optimizer, loss: Float[Tensor, ""]) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
