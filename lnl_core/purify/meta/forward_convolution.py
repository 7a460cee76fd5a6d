"""Convolutions for forward-mode differentiation that do not compute again what a training step has computed.

The product J_w g at w(t) follows a training step on the same batch with the same weights, whose convolutions gave the
same outputs. `recording` keeps them (batch normalisation keeps them for the backward pass anyhow) and `replaying` puts
them in: of three convolutions a layer, x*w, dx*w and x*dw, the first is saved, a third of the pass.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.autograd.function import Function

Record = dict[nn.Module, list[tuple[Tensor, int]]]  # outputs of each layer in the order of its calls, with version


@contextlib.contextmanager
def recording(network: nn.Module) -> Iterator[Record]:
    """Keep the outputs of all convolutions of `network` in the record that is given, while this lasts."""
    record: Record = {}

    def keep(layer: nn.Module, _: Any, output: Tensor) -> None:
        record.setdefault(layer, []).append((output.detach(), output._version))

    hooks = [layer.register_forward_hook(keep) for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    try:
        yield record
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def replaying(network: nn.Module, record: Record) -> Iterator[None]:
    """Convolutions give the recorded outputs, in order, with the derivative of what is put in.

    A layer whose output was overwritten since (by an activation in place), or that has none left, computes as usual.
    The caller sees to it that input and weights are those of the recorded pass.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d) and layer in record]
    for layer in layers:
        layer.forward = functools.partial(_replay, layer, iter(record[layer]), layer.forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _replay(
    layer: nn.Conv2d, outputs: Iterator[tuple[Tensor, int]], usual: Callable[[Tensor], Tensor], maps: Tensor
) -> Tensor:
    output, version = next(outputs, (None, 0))
    if output is None or output._version != version:
        return usual(maps)
    replayed: Tensor = _KnownConvolution.apply(maps, layer.weight, layer.bias, output, layer)  # type: ignore[no-untyped-call]
    return replayed


class _KnownConvolution(Function):
    """(x, w, b, x*w + b, layer) -> x*w + b."""

    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        output: Tensor = inputs[3]
        return output.view_as(output)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        maps, weight, _, _, ctx.layer = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_forward(maps, weight)

    @staticmethod
    def jvp(ctx: Any, d_maps: Tensor | None, d_weight: Tensor | None, d_bias: Tensor | None, *_: None) -> Tensor | None:
        maps, weight = ctx.saved_tensors
        convolve: Callable[..., Tensor] = ctx.layer._conv_forward
        by_input = None if d_maps is None else convolve(d_maps, weight, None)
        by_weight = None if d_weight is None else convolve(maps, d_weight, d_bias)
        if by_input is None or by_weight is None:
            return by_weight if by_input is None else by_input
        return by_weight.add_(by_input)
