"""The folds of meta label correction on cached features: networks, rows, training, and what is kept to choose from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lnl_core.contracts import NO_LABEL, FloatArray, IntArray
from lnl_core.progress import progress_bar
from lnl_core.purify.meta.training import Corrector, EpochEnd, FeatureInputs, MetaRows, MetaSchedule, MetaTrainer
from lnl_core.purify.row_sample import row_sample
from lnl_core.purify.task import PurifyTask
from lnl_core.runtime import drawn_from
from lnl_core.statistics.folds import stratified_folds

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]
KEPT = 12  # states of a fold's networks that are kept to choose from
FLOOR = 1e-6  # a soft label below counts as this where its logarithm is taken


@runtime_checkable
class FeatureCorrector(Corrector, Protocol):
    """A corrector that also predicts rows outside training."""

    def predict(
        self, inputs: Float[Tensor, "batch features"], observed: Int[Tensor, " batch"], student: nn.Module
    ) -> Float[Tensor, "batch classes"]:
        """The corrected label."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Heads:
    """The networks of one fold."""

    student: nn.Module
    corrector: FeatureCorrector
    optimizer: torch.optim.Optimizer | None


Build = Callable[[int, int, int], Heads]  # (rows learnt from, features, classes) with torch's generator seeded


@dataclass(frozen=True, kw_only=True)
class FeatureSettings:
    """What the feature mode of every such method needs."""

    name: str
    schedule: MetaSchedule
    min_steps: int  # epochs are repeated until so many steps are taken
    sample_rows: int
    folds: int  # 0: nothing is held out, as published
    posterior: Literal["best", "student", "teacher"]
    trusted_in_noisy: bool = False  # trusted rows are also learnt from with their observed labels


@dataclass(kw_only=True)
class Fold:
    """One fold's networks, what they said of held-out trusted rows, and copies of them."""

    heads: Heads
    held: Rows  # trusted rows that were not learnt from; all of them where nothing is held out
    student_logits: list[Array] = field(default_factory=list)  # [h, K] for each kept state
    teacher_logs: list[Array] = field(default_factory=list)  # [h, K] log q; NaN where the observed label is unknown
    states: list[tuple[Any, Any]] = field(default_factory=list)
    records: list[dict[str, float]] = field(default_factory=list)

    def load(self, number: int) -> None:
        """Put kept state `number` back into the networks."""
        student, corrector = self.states[number]
        self.heads.student.load_state_dict(student)
        self.heads.corrector.load_state_dict(corrector)


@dataclass(frozen=True, kw_only=True)
class Standardised:
    """A sample of noisy rows and the trusted rows, each feature with mean 0 and variance 1 over the sample."""

    rows: Rows  # [s] numbers of the sampled rows, ascending
    noisy: Float[Tensor, "rows features"]
    trusted: Float[Tensor, "trusted features"]
    mean: FloatArray
    scale: FloatArray

    def of(self, features: FloatArray) -> Float[Tensor, "batch features"]:
        """Any rows in the same measure."""
        return torch.from_numpy((features - self.mean) * self.scale)


def standardised_sample(task: PurifyTask, most: int, generator: np.random.Generator) -> Standardised:
    """One pass over the noisy features; a feature that hardly varies over the sample is left out (scale 0)."""
    rows, values = row_sample(task.noisy, most, generator)
    mean = values.mean(axis=0, dtype=np.float64)
    std = values.std(axis=0, dtype=np.float64)
    alive = std > 1e-5 * max(float(std.max(initial=0.0)), 1e-30)
    scale = np.where(alive, 1 / np.where(alive, std, 1.0), 0.0).astype(np.float32)
    mean = mean.astype(np.float32)
    values -= mean
    values *= scale
    trusted = torch.from_numpy((task.trusted.astype(np.float32) - mean) * scale)
    return Standardised(rows=rows, noisy=torch.from_numpy(values), trusted=trusted, mean=mean, scale=scale)


def assign_folds(task: PurifyTask, sampled: int, folds: int, generator: np.random.Generator) -> tuple[Rows, Rows]:
    """Fold numbers of the trusted rows and of the sampled noisy rows; -1 throughout where nothing is held out."""
    if not folds:
        return np.full(len(task.trusted_label), -1), np.full(sampled, -1)
    trusted = stratified_folds(task.trusted_label, folds, generator.permutation(len(task.trusted_label)))
    return trusted, generator.permutation(sampled) % folds


def fit(
    task: PurifyTask,
    data: Standardised,
    learnt: Rows,
    held: Rows,
    seen: Rows,
    settings: FeatureSettings,
    build: Build,
    seed: int,
    title: str,
) -> Fold:
    """Train one fold's networks and look at them about `KEPT` times."""
    rows = meta_rows(task, data, learnt, seen, trusted_in_noisy=settings.trusted_in_noisy)
    steps = math.ceil(len(rows.noisy) / settings.schedule.batch_size)
    epochs = max(settings.schedule.epochs, math.ceil(settings.min_steps / steps))
    schedule = replace(settings.schedule, epochs=epochs)
    with drawn_from(seed):
        heads = build(len(rows.noisy), data.noisy.shape[1], task.classes)
    trainer = MetaTrainer(heads.student, heads.corrector, heads.optimizer, schedule)
    fold = Fold(heads=heads, held=held)
    every = math.ceil(epochs / KEPT)
    with progress_bar(title, epochs, "epochs") as advance:
        for end in trainer.run(rows, torch.Generator().manual_seed(seed)):
            if (epochs - end.epoch) % every == 0:
                _look(fold, end, task, data)
            advance(note=f"student loss {end.losses['student_loss']:.3f}")
    return fold


def meta_rows(
    task: PurifyTask, data: Standardised, learnt: Rows, seen: Rows, *, trusted_in_noisy: bool = False
) -> MetaRows:
    """The tensors of a fit on the trusted rows `learnt` and the sampled noisy rows `seen`."""
    noisy, observed = data.noisy[torch.from_numpy(seen)], task.observed[data.rows[seen]]
    if trusted_in_noisy:
        again = learnt[task.trusted_observed[learnt] != NO_LABEL]
        noisy = torch.cat([noisy, data.trusted[torch.from_numpy(again)]])
        observed = np.concatenate([observed, task.trusted_observed[again]])
    return MetaRows(
        noisy=FeatureInputs(values=noisy),
        observed=torch.from_numpy(observed.astype(np.int64)),
        trusted=FeatureInputs(values=data.trusted),
        trusted_label=torch.from_numpy(task.trusted_label.astype(np.int64)),
        trusted_observed=torch.from_numpy(task.trusted_observed.astype(np.int64)),
        learnt=torch.from_numpy(learnt),
    )


@torch.no_grad()
def _look(fold: Fold, end: EpochEnd, task: PurifyTask, data: Standardised) -> None:
    """What the networks say of the held-out trusted rows now, and a copy of them."""
    inputs, label = data.trusted[torch.from_numpy(fold.held)], task.trusted_label[fold.held]
    observed = task.trusted_observed[fold.held]
    known = observed != NO_LABEL
    student, corrector = fold.heads.student, fold.heads.corrector
    logits = student(inputs).double().numpy()
    logs = np.full(logits.shape, np.nan)
    if known.any():
        logs[known] = log_corrected(corrector, inputs[torch.from_numpy(known)], observed[known], student)
    fold.student_logits.append(logits)
    fold.teacher_logs.append(logs)
    fold.states.append((_copied(student), _copied(corrector)))
    record = {"epoch": float(end.epoch), **end.losses, "student_accuracy": float((logits.argmax(1) == label).mean())}
    gate = getattr(corrector, "gate", None)
    for name, which in (("gate_right", observed == label), ("gate_wrong", known & (observed != label))):
        if gate is not None and which.any():
            picked = torch.from_numpy(observed[which].astype(np.int64))
            record[name] = float(gate(inputs[torch.from_numpy(which)], picked, student).mean())
    fold.records.append(record)


def log_corrected(corrector: FeatureCorrector, inputs: Tensor, observed: IntArray, student: nn.Module) -> Array:
    with torch.no_grad():
        found = corrector.predict(inputs, torch.from_numpy(observed.astype(np.int64)), student)
    return np.asarray(np.log(np.maximum(found.double().numpy(), FLOOR)))


def _copied(network: Any) -> dict[str, Any]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}
