"""The views that methods train on: weak, strong and SimCLR's, of whole batches, with parameters per sample.

Images are float [batch, channels, height, width] in 0..1 on any device, and stay so. Every random number comes from
the CPU generator that is passed in, as many for the same arguments whatever the pixels are, so a generator's state
decides the views on CPU and GPU alike. `flip` is the permission of section `images`: without it nothing is mirrored.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from lnl_core.config import Settings
from lnl_core.images.augment_colour import blur_images, draw_jitter, grey_images, jitter_images
from lnl_core.images.augment_geometry import chance, draw_pad_crop, draw_resized_crop, uniform, warp_images
from lnl_core.images.augment_rand import rand_augment


class SimCLRViewSettings(Settings):
    """How SimCLR's two views of an image are drawn. Defaults: SimCLR (arXiv 2002.05709) appendix B.9, for CIFAR."""

    scale_min: float = Field(default=0.2, gt=0, le=1)  # smallest crop as a share of the area; 0.08 at 224 px
    scale_max: float = Field(default=1.0, gt=0, le=2)  # above 1 zooms out, on black
    ratio: float = Field(default=4 / 3, ge=1, le=4)  # aspect ratios lie between 1/ratio and ratio
    flip_p: float = Field(default=0.5, ge=0, le=1)  # asks for images.flip: true
    rotate_degrees: float = Field(default=0.0, ge=0, le=180)  # 0 in the paper; small for digits, which have no flip
    translate: float = Field(default=0.0, ge=0, le=0.5)  # extra shift as a share of the side, on black
    brightness: float = Field(default=0.4, ge=0, le=1)  # 0.4, 0.4, 0.4, 0.1: strength 0.5, right for CIFAR
    contrast: float = Field(default=0.4, ge=0, le=1)
    saturation: float = Field(default=0.4, ge=0, le=1)
    hue: float = Field(default=0.1, ge=0, le=0.5)  # share of a whole turn
    jitter_p: float = Field(default=0.8, ge=0, le=1)
    grey_p: float = Field(default=0.2, ge=0, le=1)
    blur_p: float = Field(default=0.0, ge=0, le=1)  # off at 32 px; 0.5 at 224 px
    blur_sigma_max: float = Field(default=2.0, gt=0.1, le=10)  # pixels; the smallest is 0.1
    erase: float = Field(default=0.0, ge=0, le=1)  # side of an erased square as a share of the image's; 0: none


def weak_view(
    images: Float[Tensor, "batch channels height width"], generator: torch.Generator, *, flip: bool
) -> Float[Tensor, "batch channels height width"]:
    """Pad by an eighth of the side, crop back, mirror half of the images: the CIFAR standard (4 pixels at 32)."""
    batch, _, height, width = images.shape
    warp = draw_pad_crop(batch, (height, width), min(height, width) // 8, generator)
    mirror = chance(batch, 0.5 if flip else 0.0, generator)
    return warp_images(images, dataclasses.replace(warp, mirror=mirror), mode="nearest")


def strong_view(
    images: Float[Tensor, "batch channels height width"],
    generator: torch.Generator,
    *,
    flip: bool,
    layers: int = 2,  # FixMatch, appendix D
    erase: float = 0.5,  # largest side of the erased square, as a share of the image's; FixMatch, appendix D
) -> Float[Tensor, "batch channels height width"]:
    """The weak view, `layers` operations of RandAugment, then a square of random size filled with mid-grey."""
    images = rand_augment(weak_view(images, generator, flip=flip), layers, generator)
    return erase_squares(images, uniform(len(images), 0.0, erase, generator), 0.5, generator)


def simclr_view(
    images: Float[Tensor, "batch channels height width"],
    settings: SimCLRViewSettings,
    generator: torch.Generator,
    *,
    flip: bool,
) -> Float[Tensor, "batch channels height width"]:
    """One of SimCLR's views; call it twice for the pair."""
    batch = len(images)
    warp = draw_resized_crop(
        batch, (settings.scale_min, settings.scale_max), (1 / settings.ratio, settings.ratio), generator
    )
    turn = math.radians(settings.rotate_degrees)
    warp = dataclasses.replace(
        warp,
        x=warp.x + uniform(batch, -2 * settings.translate, 2 * settings.translate, generator),
        y=warp.y + uniform(batch, -2 * settings.translate, 2 * settings.translate, generator),
        angle=uniform(batch, -turn, turn, generator),
        mirror=chance(batch, settings.flip_p if flip else 0.0, generator),
    )
    return _simclr_colours(warp_images(images, warp), settings, generator)


def _simclr_colours(images: Tensor, settings: SimCLRViewSettings, generator: torch.Generator) -> Tensor:
    batch = len(images)
    strength = (settings.brightness, settings.contrast, settings.saturation, settings.hue)
    images = jitter_images(images, draw_jitter(batch, strength, settings.jitter_p, generator))
    images = grey_images(images, chance(batch, settings.grey_p, generator))
    if settings.blur_p > 0:
        sigma = uniform(batch, 0.1, settings.blur_sigma_max, generator)
        images = blur_images(images, sigma, chance(batch, settings.blur_p, generator))
    if settings.erase > 0:
        images = erase_squares(images, torch.full((batch,), settings.erase), 0.0, generator)
    return images.clamp(0, 1)


def erase_squares(
    images: Float[Tensor, "batch channels height width"],
    side: Float[Tensor, " batch"],
    fill: float,
    generator: torch.Generator,
) -> Float[Tensor, "batch channels height width"]:
    """Fill a square of `side` times the image's side, centred anywhere, in every image (cutout, arXiv 1708.04552)."""
    batch, _, height, width = images.shape
    centre = torch.rand(2, batch, 1, generator=generator)
    rows = (torch.arange(height) + 0.5) / height
    columns = (torch.arange(width) + 0.5) / width
    in_rows = (rows - centre[0]).abs() < side[:, None] / 2
    in_columns = (columns - centre[1]).abs() < side[:, None] / 2
    erased = (in_rows[:, :, None] & in_columns[:, None, :])[:, None].to(images.device)
    return images.masked_fill(erased, fill)
