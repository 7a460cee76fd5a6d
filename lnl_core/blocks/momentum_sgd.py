"""SGD with momentum whose state can be saved, with the loss scaling that float16 needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lnl_core.runtime import Runtime


class MomentumSGD:
    """`step(loss, lr)` is one update; float16 losses are scaled so that small gradients survive."""

    def __init__(self, network: nn.Module, runtime: Runtime, *, momentum: float, weight_decay: float) -> None:
        self._optimizer = torch.optim.SGD(network.parameters(), lr=0.0, momentum=momentum, weight_decay=weight_decay)
        self._scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.precision == "float16")

    def step(self, loss: Tensor, lr: float) -> None:
        """Backward pass and update at this learning rate."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._scaler.step(self._optimizer)
        self._scaler.update()

    def state(self) -> dict[str, Any]:
        """What `load` needs to go on exactly."""
        return {"optimizer": self._optimizer.state_dict(), "scaler": self._scaler.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
