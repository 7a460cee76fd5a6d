"""Crop, flip, rotation, shift and shear of a whole batch in one resampling, with parameters of its own for each sample.

All geometry of a view is one affine map a sample, so pixels are interpolated once. Parameters are drawn on the CPU
from an explicit generator and then moved, so a view is the same on every device up to rounding.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Warp:
    """Where each output image lies in its input image; positions run from -1 to 1 over the image's side.

    The output window has `width` x `height` times the input's size, its centre stands at (`x`, `y`), it is turned by
    `angle` radians and slanted by `shear_x`, `shear_y`; `mirror` swaps left and right.
    """

    width: Float[Tensor, " batch"]
    height: Float[Tensor, " batch"]
    x: Float[Tensor, " batch"]
    y: Float[Tensor, " batch"]
    angle: Float[Tensor, " batch"]
    shear_x: Float[Tensor, " batch"]
    shear_y: Float[Tensor, " batch"]
    mirror: Bool[Tensor, " batch"]


def identity_warp(batch: int) -> Warp:
    """Parameters that leave every image as it is."""
    one, zero = torch.ones(batch), torch.zeros(batch)
    return Warp(
        width=one, height=one, x=zero, y=zero, angle=zero, shear_x=zero, shear_y=zero, mirror=zero.bool()
    )  # fmt: skip


def uniform(batch: int, low: float, high: float, generator: torch.Generator) -> Float[Tensor, " batch"]:
    """One number a sample, uniform in low..high, on the CPU."""
    return torch.rand(batch, generator=generator) * (high - low) + low


def chance(batch: int, probability: float, generator: torch.Generator) -> Bool[Tensor, " batch"]:
    """True with the given probability, one draw a sample, on the CPU. A draw is made even for 0 and 1."""
    return torch.rand(batch, generator=generator) < probability


def draw_resized_crop(
    batch: int, scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> Warp:
    """Inception-style crops: area uniform in `scale`, log aspect ratio uniform in `ratio`, position uniform.

    A side longer than the image is cut to it where `scale` ends at 1; a scale above 1 zooms out instead, and what
    lies outside the image is black.
    """
    area = uniform(batch, *scale, generator)
    stretch = torch.exp(0.5 * uniform(batch, math.log(ratio[0]), math.log(ratio[1]), generator))
    longest = max(1.0, math.sqrt(scale[1]))
    width = (area.sqrt() * stretch).clamp(max=longest)
    height = (area.sqrt() / stretch).clamp(max=longest)
    x = uniform(batch, -1.0, 1.0, generator) * (1 - width)  # for width > 1 the whole image stays inside the window
    y = uniform(batch, -1.0, 1.0, generator) * (1 - height)
    return dataclasses.replace(identity_warp(batch), width=width, height=height, x=x, y=y)


def draw_pad_crop(batch: int, side: tuple[int, int], pad: int, generator: torch.Generator) -> Warp:
    """Crops of the image's own size out of the image padded by `pad` pixels: shifts by whole pixels."""
    height, width = side
    shift = torch.randint(-pad, pad + 1, (2, batch), generator=generator).float()
    return dataclasses.replace(identity_warp(batch), x=2 * shift[0] / width, y=2 * shift[1] / height)


def warp_images(
    images: Float[Tensor, "batch channels height width"],
    warp: Warp,
    mode: Literal["bilinear", "nearest"] = "bilinear",
) -> Float[Tensor, "batch channels height width"]:
    """Resample every image by its own parameters; what lies outside is 0.

    `nearest` keeps pixel values exact where the map moves by whole pixels.
    """
    height, width = images.shape[-2:]
    theta = affine_matrices(warp, aspect=width / height).to(images.device, images.dtype)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode=mode, padding_mode="zeros", align_corners=False)


def affine_matrices(warp: Warp, aspect: float) -> Float[Tensor, "batch 2 3"]:
    """Maps from output to input positions: mirror, then slant and stretch, then turn, then move to the centre.

    Positions are in half sides, so the off-diagonal terms of the turn carry the image's aspect (width / height).
    """
    cos, sin = torch.cos(warp.angle), torch.sin(warp.angle)
    sign = torch.where(warp.mirror, -1.0, 1.0)
    a, b = warp.width * sign, warp.height * warp.shear_x  # the window before the turn: [[a, b], [c, d]]
    c, d = warp.width * sign * warp.shear_y, warp.height
    top = torch.stack([cos * a - sin * c / aspect, cos * b - sin * d / aspect, warp.x], dim=-1)
    bottom = torch.stack([sin * aspect * a + cos * c, sin * aspect * b + cos * d, warp.y], dim=-1)
    return torch.stack([top, bottom], dim=-2)
