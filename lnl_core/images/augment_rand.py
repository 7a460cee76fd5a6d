"""RandAugment on batches: each image gets its own operations with its own magnitudes.

Cubuk et al., RandAugment (arXiv 1909.13719), in FixMatch's form (arXiv 2001.07685, appendix D): the magnitude is
drawn anew for each image instead of being one tuned number. Deviation: the factors of brightness, contrast, colour
and sharpness reach from 0.1 to 1.9 as in AutoAugment, so images get brighter as well as darker. Images with one
channel leave colour out. The loop runs over operations, never over images.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from kornia.enhance import (
    adjust_brightness_accumulative,
    adjust_contrast_with_mean_subtraction,
    adjust_saturation_with_gray_subtraction,
    equalize,
    posterize,
    sharpness,
    solarize,
)
from torch import Tensor

from lnl_core.images.augment_geometry import identity_warp, uniform, warp_images

Operation = Callable[[Tensor, Tensor], Tensor]  # images [b, C, H, W], magnitudes [b] in -1..1 on the CPU


def rand_augment(
    images: Float[Tensor, "batch channels height width"], layers: int, generator: torch.Generator
) -> Float[Tensor, "batch channels height width"]:
    """Apply `layers` operations drawn with replacement, one after the other, to each image."""
    operations = COLOUR_OPERATIONS if images.shape[1] == 3 else GREY_OPERATIONS
    images = images.clone()
    for _ in range(layers):
        chosen = torch.randint(len(operations), (len(images),), generator=generator)
        magnitude = uniform(len(images), -1.0, 1.0, generator)
        for number, operation in enumerate(operations):
            rows = torch.nonzero(chosen == number).flatten()
            if len(rows):
                there = rows.to(images.device)
                images[there] = operation(images[there], magnitude[rows]).to(images.dtype)
    return images.clamp(0, 1)


def autocontrast(images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
    """Stretch each channel of each image to the whole of 0..1; constant channels stay as they are."""
    low, high = images.amin((-2, -1), keepdim=True), images.amax((-2, -1), keepdim=True)
    span = high - low
    return torch.where(span > 0, (images - low) / torch.where(span > 0, span, 1.0), images)


def _factor(change: Operation) -> Operation:
    """Magnitude -1..1 becomes a factor 0.1..1.9."""
    return lambda images, magnitude: change(images, (1 + 0.9 * magnitude).to(images.device, images.dtype))


def _geometry(name: str, largest: float) -> Operation:
    """Magnitude -1..1 becomes the parameter `name` of the warp, up to +-`largest`."""

    def move(images: Tensor, magnitude: Tensor) -> Tensor:
        return warp_images(images, dataclasses.replace(identity_warp(len(images)), **{name: largest * magnitude}))

    return move


def _posterize(images: Tensor, magnitude: Tensor) -> Tensor:
    bits = 4 + ((magnitude + 1) / 2 * 5).long().clamp(0, 4)  # 4 to 8 bits
    return posterize(images, bits.to(images.device))


def _solarize(images: Tensor, magnitude: Tensor) -> Tensor:
    return solarize(images, ((magnitude + 1) / 2).to(images.device, images.dtype))


GREY_OPERATIONS: tuple[Operation, ...] = (
    lambda images, _: images,
    lambda images, _: autocontrast(images),
    lambda images, _: equalize(images),
    _factor(adjust_brightness_accumulative),
    _factor(adjust_contrast_with_mean_subtraction),
    _factor(sharpness),
    _posterize,
    _solarize,
    _geometry("angle", math.radians(30)),
    _geometry("shear_x", 0.3),
    _geometry("shear_y", 0.3),
    _geometry("x", 0.6),  # half sides: 0.3 of the side
    _geometry("y", 0.6),
)
COLOUR_OPERATIONS: tuple[Operation, ...] = (*GREY_OPERATIONS, _factor(adjust_saturation_with_gray_subtraction))
