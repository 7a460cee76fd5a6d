"""Optimiser steps whose state can be saved, with the loss scaling that float16 needs and gradients of all processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lnl_core.runtime import Runtime
from lnl_core.training.sgd_settings import SGDSettings
from lnl_core.world import sum_gradients


class Updates:
    """`step(loss, lr)` is one update of all parameters of the optimiser.

    A loss must reach the parameters through `world.run_shared` alone where several processes train.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, runtime: Runtime) -> None:
        self.optimizer = optimizer
        self._scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.precision == "float16")

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Every parameter that a step changes."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def step(self, loss: Tensor, lr: float, before_update: Callable[[], None] | None = None) -> None:
        """Backward pass and update at this learning rate; `before_update` may change the gradients (CDR)."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        sum_gradients(self.parameters)
        if before_update is not None:
            self._scaler.unscale_(self.optimizer)
            before_update()
        self._scaler.step(self.optimizer)
        self._scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on exactly."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self._scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Go on from a saved state."""
        self.optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])


class MomentumSGD(Updates):
    """SGD with momentum and weight decay."""

    def __init__(self, network: nn.Module, runtime: Runtime, *, momentum: float, weight_decay: float) -> None:
        sgd = torch.optim.SGD(network.parameters(), lr=0.0, momentum=momentum, weight_decay=weight_decay)
        super().__init__(sgd, runtime)


def momentum_sgd(network: nn.Module, runtime: Runtime, settings: SGDSettings) -> MomentumSGD:
    """As a method's settings have it; the rate is given step by step."""
    return MomentumSGD(network, runtime, momentum=settings.momentum, weight_decay=settings.weight_decay)


class Adam(Updates):
    """Adam (arXiv 1412.6980)."""

    def __init__(self, network: nn.Module, runtime: Runtime, *, weight_decay: float = 0.0) -> None:
        super().__init__(torch.optim.Adam(network.parameters(), lr=0.0, weight_decay=weight_decay), runtime)
