"""Weakly augmented minibatches of stored pixels."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lnl_core.images.augment import weak_view
from lnl_core.images.encoded import Pixels
from lnl_core.images.network_input import as_input


def weak_views(
    pixels: Pixels,
    rows: Int[Tensor, " batch"],
    generator: torch.Generator,
    *,
    views: int,
    flip: bool,
    device: torch.device,
) -> list[Float[Tensor, "batch channels height width"]]:
    """So many independent weak views of the given rows, float32 in 0..1 on `device`, channels last."""
    images = as_input(pixels[rows.to(pixels.device)], device)
    if not len(rows):
        return [images] * views  # resampling refuses an empty batch
    drawn = [weak_view(images, generator, flip=flip) for _ in range(views)]
    return [view.contiguous(memory_format=torch.channels_last) for view in drawn]
