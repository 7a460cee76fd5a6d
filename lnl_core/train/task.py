"""What a training method gets and gives. Nothing here holds a true label of a noisy row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from lnl_core.contracts import Ids
from lnl_core.runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Rows that choose the checkpoint: trusted rows, or noisy validation rows; never test rows."""

    pixels: UInt8[Tensor, "rows channels height width"]
    label: Int[Tensor, "rows"]
    kind: str  # "trusted" | "val" | "none"


@dataclass(frozen=True, kw_only=True)
class TrainTask:
    """The training rows, sorted by id, with the labels to learn from (observed or purified)."""

    ids: Ids
    pixels: UInt8[Tensor, "rows channels height width"]  # in memory or memory-mapped
    label: Int[Tensor, "rows"]
    soft_label: Float[Tensor, "rows classes"] | None  # purified soft labels, where there are some
    held_out: HeldOut
    classes: int
    flip: bool  # may weak augmentation mirror?
    make_model: Callable[[int], nn.Module]  # seed -> Classifier, from scratch or from the encoder
    runtime: Runtime
    checkpoint: Path  # file for the state of an unfinished run
    fingerprint: str  # settings and data that the checkpoint belongs to
    purpose: str  # "model" | "yardstick"; salts the generators and names the progress bar

    def new_network(self, seed: int) -> nn.Module:
        """A new classifier on the runtime's device, channels last."""
        network: nn.Module = self.make_model(seed).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network.to(self.runtime.device)

    def targets(self, rows: Int[Tensor, " batch"]) -> Float[Tensor, "batch classes"]:
        """What the given rows are trained on, on the runtime's device: the soft label, or the label as one-hot."""
        if self.soft_label is not None:
            return self.soft_label[rows].to(self.runtime.device)
        return functional.one_hot(self.label[rows], self.classes).float().to(self.runtime.device)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The networks (their averaged softmax is the prediction) at the best held-out epoch and at the last."""

    best: tuple[Mapping[str, Tensor], ...]  # state dicts
    last: tuple[Mapping[str, Tensor], ...]
    best_epoch: int
    curve: tuple[Mapping[str, int | float], ...]  # an epoch: epoch, loss, held_out_accuracy, the method's own
    metrics: Mapping[str, Any]


class Trainer(Protocol):
    """`(task, config) -> Trained`; resumes from `task.checkpoint` exactly."""

    def __call__(self, task: TrainTask, config: Any) -> Trained: ...
