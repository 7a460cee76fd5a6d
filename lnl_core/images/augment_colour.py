"""Colour changes of a whole batch with factors of its own for each sample, in the manner of Pillow, on kornia.

Images with one channel keep brightness and contrast; saturation, hue and grey mean nothing there and are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from kornia.color import rgb_to_grayscale
from kornia.enhance import (
    adjust_brightness_accumulative,
    adjust_contrast_with_mean_subtraction,
    adjust_hue,
    adjust_saturation_with_gray_subtraction,
)
from kornia.filters import gaussian_blur2d
from torch import Tensor

from lnl_core.images.augment_geometry import chance, uniform

Recolour = Callable[[Tensor, Tensor], Tensor]
_JITTERS: dict[str, Recolour] = {
    "brightness": adjust_brightness_accumulative,
    "contrast": adjust_contrast_with_mean_subtraction,
    "saturation": adjust_saturation_with_gray_subtraction,
    "hue": adjust_hue,
}


@dataclass(frozen=True, kw_only=True)
class Jitter:
    """Factors of a colour jitter. 1 leaves brightness, contrast and saturation as they are, 0 the hue (radians)."""

    applies: Bool[Tensor, " batch"]
    brightness: Float[Tensor, " batch"]
    contrast: Float[Tensor, " batch"]
    saturation: Float[Tensor, " batch"]
    hue: Float[Tensor, " batch"]
    order: tuple[str, ...]  # one random order a batch: an order a sample would need a loop over samples


def draw_jitter(
    batch: int, strength: tuple[float, float, float, float], probability: float, generator: torch.Generator
) -> Jitter:
    """SimCLR's jitter: brightness, contrast and saturation uniform in 1 +- strength, hue in +- its share of a turn.

    Source: SimCLR (arXiv 2002.05709), appendix A; the order is drawn anew for each batch.
    """
    names = tuple(_JITTERS)
    factors = {
        name: uniform(batch, max(0.0, 1 - size), 1 + size, generator)
        for name, size in zip(names[:3], strength[:3], strict=True)
    }
    hue = uniform(batch, -strength[3], strength[3], generator) * 2 * torch.pi
    order = tuple(names[i] for i in torch.randperm(len(names), generator=generator).tolist())
    return Jitter(applies=chance(batch, probability, generator), hue=hue, order=order, **factors)


def jitter_images(
    images: Float[Tensor, "batch channels height width"], jitter: Jitter
) -> Float[Tensor, "batch channels height width"]:
    """Apply each image's own factors; images that `applies` leaves out come back untouched."""
    changed = images
    for name in jitter.order:
        if images.shape[1] == 3 or name in ("brightness", "contrast"):
            changed = _JITTERS[name](changed, getattr(jitter, name).to(images.device, images.dtype))
    return _where(jitter.applies, changed, images)


def grey_images(
    images: Float[Tensor, "batch channels height width"], applies: Bool[Tensor, " batch"]
) -> Float[Tensor, "batch channels height width"]:
    """Turn the chosen colour images grey, keeping three channels; one channel is grey already."""
    if images.shape[1] != 3:
        return images
    return _where(applies, rgb_to_grayscale(images).expand_as(images), images)


def blur_images(
    images: Float[Tensor, "batch channels height width"],
    sigma: Float[Tensor, " batch"],
    applies: Bool[Tensor, " batch"],
) -> Float[Tensor, "batch channels height width"]:
    """Blur by a Gaussian, each image with its own sigma in pixels; the kernel spans a tenth of the side (SimCLR, A)."""
    side = max(3, min(images.shape[-2:]) // 10 | 1)
    sigmas = sigma.to(images.device, images.dtype)[:, None].expand(-1, 2)
    return _where(applies, gaussian_blur2d(images, (side, side), sigmas), images)


def _where(applies: Tensor, changed: Tensor, images: Tensor) -> Tensor:
    return torch.where(applies.to(images.device)[:, None, None, None], changed, images)
