"""Exponential moving averages: of a network's weights, and of per-row targets elsewhere."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * network, weights and buffers; whole numbers are copied.

    Mean teacher, Tarvainen and Valpola, NeurIPS 2017 (arXiv 1703.01780), Eq. 1.
    """
    current = network.state_dict()
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            value.lerp_(current[name], 1 - decay)
        else:
            value.copy_(current[name])
