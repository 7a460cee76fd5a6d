"""Input normalisation as part of the network, so that a saved model needs no recipe beside it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lnl_core.images.encoded import Pixels

ROWS_A_CHUNK = 4096  # bounds the float copy that the statistics need


class Normalise(nn.Module):
    """(x - mean) / std per channel; both are buffers and travel with the weights.

    `fixed`: weights from elsewhere brought their own mean and std, and no statistics of the data replace these.
    """

    mean: Tensor
    std: Tensor
    fixed = False

    def __init__(self, channels: int, mean: float = 0.5, std: float = 0.25) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((channels,), mean))
        self.register_buffer("std", torch.full((channels,), std))

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        return (images - self.mean[:, None, None]) / self.std[:, None, None]


def set_normalisation(network: nn.Module, mean: Float[Tensor, " channels"], std: Float[Tensor, " channels"]) -> None:
    """Set mean and std of every `Normalise` layer of `network` that is not fixed, in the scale of its input, [0, 1]."""
    for layer in network.modules():
        if isinstance(layer, Normalise) and not layer.fixed:
            layer.mean.copy_(mean)
            layer.std.copy_(std.clamp_min(1e-3))  # a constant channel would divide by zero


def pixel_statistics(
    pixels: Pixels,
) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]]:
    """Mean and standard deviation per channel in [0, 1]. Holds one chunk of rows as floats at a time."""
    total = torch.zeros(pixels.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for start in range(0, len(pixels), ROWS_A_CHUNK):
        values = pixels[start : start + ROWS_A_CHUNK].to(torch.float64) / 255
        total += values.sum(dim=(0, 2, 3))
        squares += values.square().sum(dim=(0, 2, 3))
    count = max(pixels.shape[0] * pixels.shape[2] * pixels.shape[3], 1)
    mean = total / count
    return mean.float(), (squares / count - mean.square()).clamp_min(0).sqrt().float()
