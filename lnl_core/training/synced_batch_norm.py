"""Batch normalisation whose statistics are those of the global batch, on any device.

torch's own SyncBatchNorm does this on GPUs alone. The statistics are sums over rows, so they add up over processes;
names of weights and buffers are those of `BatchNorm2d`, so saved models do not know the difference.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lnl_core.world import sum_over_world, world_size


class SyncedBatchNorm(nn.BatchNorm2d):
    """Training: mean and variance over all processes; evaluation: running statistics, as ever."""

    def forward(self, maps: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(maps)
        axes = [axis for axis in range(maps.dim()) if axis != 1]
        values = maps.float()
        count = values.numel() / values.shape[1]
        local = torch.cat([values.sum(axes), values.square().sum(axes), values.new_tensor([count])])
        total, squares, rows = sum_over_world(local).split([self.num_features, self.num_features, 1])  # type: ignore[no-untyped-call]
        mean = total / rows
        variance = (squares / rows - mean.square()).clamp_min(0)
        self._remember(mean.detach(), variance.detach() * (rows / (rows - 1)).detach())
        scale = (variance + self.eps).rsqrt() * self.weight
        shape = (1, -1, *[1] * (maps.dim() - 2))
        out: Tensor = values * scale.view(shape) + (self.bias - mean * scale).view(shape)
        return out.to(maps.dtype)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 0.1 if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)


def synced(network: nn.Module) -> nn.Module:
    """`network` with each `BatchNorm2d` turned into one of the global batch; a single process keeps what it has."""
    if world_size() > 1:
        for layer in network.modules():
            if type(layer) is nn.BatchNorm2d:
                layer.__class__ = SyncedBatchNorm  # same weights, buffers and names
    return network
