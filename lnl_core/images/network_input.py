"""Stored bytes to what networks take."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def as_input(
    pixels: UInt8[Tensor, "batch channels height width"], device: torch.device
) -> Float[Tensor, "batch channels height width"]:
    """Float32 in [0, 1] on `device`, channels last; the bytes travel, a quarter of what floats would be."""
    return pixels.to(device).to(torch.float32, memory_format=torch.channels_last) / 255
