"""Early-learning regularisation: per-row targets from earlier predictions, and the penalty that keeps a network near.

Liu, Niles-Weed, Razavian, Fernandez-Granda: Early-Learning Regularization Prevents Memorization of Noisy Labels,
NeurIPS 2020 (arXiv 2007.00151). A network learns right labels first. Its early predictions are remembered as targets
t; raising <p, t> keeps the gradients of wrongly labelled rows small when a network would begin to learn them by heart.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from lnl_core.training.method_settings import AutoRate, AutoWeight
from lnl_core.training.sgd_settings import SGDSettings

LEAST = 1e-4  # probabilities lie in LEAST..1 - LEAST, so that log(1 - <p, t>) is finite
ON_DEVICE = 2**30  # bytes of targets up to which they live on the device, where no step waits for them
PRECISIONS = {"float32": torch.float32, "float16": torch.float16}


class ELRSettings(SGDSettings):
    """What ELR and ELR+ share. (beta, lambda) "auto": the paper's for this kind of noise and number of classes."""

    beta: AutoRate = "auto"  # share of a target that stays at each visit of its row
    lambda_: AutoWeight = "auto"  # weight of the penalty
    target_precision: Literal["float32", "float16"] = "float32"  # 1,000 classes, a million rows: 4 GB or 2 GB

    def constants(self, auto: tuple[float, float]) -> tuple[float, float]:
        """(beta, lambda) as set, or else of `auto`."""
        return auto[0] if self.beta == "auto" else self.beta, auto[1] if self.lambda_ == "auto" else self.lambda_

    def new_targets(
        self, label: Int[Tensor, " rows"], classes: int, *, verified: Tensor | None, device: torch.device
    ) -> TargetStore:
        """Targets of every row before the first epoch."""
        return TargetStore(label, classes, verified=verified, precision=self.target_precision, device=device)


def clamped_softmax(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, "batch classes"]:
    """p, cut to LEAST..1 - LEAST."""
    return logits.softmax(dim=1).clamp(LEAST, 1 - LEAST)


def moved_targets(
    targets: Float[Tensor, "batch classes"], probabilities: Float[Tensor, "batch classes"], beta: float
) -> Float[Tensor, "batch classes"]:
    """Temporal ensembling: t <- beta t + (1 - beta) p, with p scaled to sum 1."""
    return torch.lerp(probabilities / probabilities.sum(dim=1, keepdim=True), targets, beta)


def elr_penalty(
    probabilities: Float[Tensor, "batch classes"], targets: Float[Tensor, "batch classes"]
) -> Float[Tensor, ""]:
    """1/n sum log(1 - <p, t>): nats, at most 0, the lower the nearer p is to t."""
    return (1 - (probabilities * targets).sum(dim=1)).log().mean()


class TargetStore:
    """t of every row of the task [rows, classes], 0 at first; saved and loaded like a network.

    A verified row's target is its label from the start, and stays. On the device up to ON_DEVICE bytes, else on the
    CPU.
    """

    def __init__(
        self,
        label: Int[Tensor, " rows"],
        classes: int,
        *,
        verified: Tensor | None,
        precision: Literal["float32", "float16"],
        device: torch.device,
    ) -> None:
        kind = PRECISIONS[precision]
        small = len(label) * classes * kind.itemsize <= ON_DEVICE
        self._fixed = None if verified is None else verified.to(device)
        self._device = device
        self._held = torch.zeros(len(label), classes, dtype=kind, device=device if small else "cpu")
        if verified is not None:
            known = functional.one_hot(label[verified], classes).to(self._held)
            self._held[verified.to(self._held.device)] = known

    def move(
        self, rows: Int[Tensor, " batch"], probabilities: Float[Tensor, "batch classes"], beta: float
    ) -> Float[Tensor, "batch classes"]:
        """Update the targets of these rows by these predictions, and give them, on the device."""
        place = rows.to(self._held.device)
        old = self._held[place].to(self._device, torch.float32)
        new = moved_targets(old, probabilities.detach(), beta)
        if self._fixed is not None:
            new = torch.where(self._fixed[rows.to(self._device)][:, None], old, new)
        self._held[place] = new.to(self._held)
        return new

    def predicted(
        self, rows: Int[Tensor, " rows"], label: Int[Tensor, " rows"]
    ) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
        """Each row's likeliest class by its target, and the share that the target gives this label; on the CPU.

        A share of 0 where a row has not been seen.
        """
        targets = self._held[rows.to(self._held.device)]
        own = targets.gather(1, label.to(targets.device)[:, None])[:, 0].float()
        share = own / targets.sum(dim=1, dtype=torch.float32).clamp_min(1e-12)
        return targets.argmax(dim=1).cpu(), share.cpu()

    def state_dict(self) -> dict[str, Any]:
        """The targets."""
        return {"targets": self._held}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Go on from saved targets."""
        self._held.copy_(state["targets"])
