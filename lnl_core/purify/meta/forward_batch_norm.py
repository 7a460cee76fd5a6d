"""Batch normalisation for forward-mode differentiation at the speed of the kernels that training uses.

torch differentiates it forwards as a dozen elementwise operations, in bfloat16 with a conversion around each, which
costs more than the convolutions. The derivative with respect to the input,

    x -> gamma r (I - 1 1^T / N - xhat xhat^T / N) dx,      r = 1 / sqrt(var + eps), xhat = r (x - mean),

is symmetric, so the kernel of the backward pass computes the forward one as well.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import Function
from torch.nn.modules.batchnorm import _BatchNorm


@contextlib.contextmanager
def forward_mode_batch_norm(network: nn.Module) -> Iterator[None]:
    """Batch normalisation in training mode goes by the batch, fast under forward mode; running statistics stay.

    Layers in evaluation mode, and those without scale and shift, are left to torch (the latter keep their statistics
    too).
    """
    training = [layer for layer in network.modules() if isinstance(layer, _BatchNorm) and layer.training]
    with running_statistics_kept(network):
        own = [layer for layer in training if layer.affine]
        for layer in own:
            layer.forward = functools.partial(_normalise, layer)  # type: ignore[method-assign]
        try:
            yield
        finally:
            for layer in own:
                del layer.forward


@contextlib.contextmanager
def running_statistics_kept(network: nn.Module) -> Iterator[None]:
    """Batch normalisation in training mode goes by the batch, and its running statistics stay as they are."""
    layers = [
        layer
        for layer in network.modules()
        if isinstance(layer, _BatchNorm) and layer.training and layer.track_running_stats
    ]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


def _normalise(layer: _BatchNorm, inputs: Tensor) -> Tensor:
    output: Tensor = _TrainingBatchNorm.apply(inputs, layer.weight, layer.bias, layer.eps)[0]  # type: ignore[no-untyped-call]
    return output


class _TrainingBatchNorm(Function):
    """(x, gamma, beta, eps) -> (normalised x, batch mean, r)."""

    @staticmethod
    def forward(inputs: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        return torch.native_batch_norm(inputs, gamma, beta, None, None, True, 0.0, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        maps, gamma, _, eps = inputs
        _, mean, inverse_std = output
        ctx.mark_non_differentiable(mean, inverse_std)
        ctx.save_for_forward(maps, gamma, mean, inverse_std)
        ctx.eps = eps

    @staticmethod
    def jvp(ctx: Any, d_inputs: Tensor, d_gamma: Tensor, d_beta: Tensor, _: None) -> tuple[Tensor, None, None]:
        maps, gamma, mean, inverse_std = ctx.saved_tensors
        by_input = torch.ops.aten.native_batch_norm_backward(
            d_inputs.to(maps.dtype), maps, gamma, None, None, mean, inverse_std, True, ctx.eps, [True, False, False]
        )[0]
        variance = inverse_std.square().reciprocal() - ctx.eps
        # d_gamma xhat + d_beta, which is normalisation by the batch's statistics with d_gamma and d_beta
        by_affine = torch.nn.functional.batch_norm(maps, mean, variance, d_gamma, d_beta, False, 0.0, ctx.eps)
        return by_input.add_(by_affine), None, None
