"""Mixup: convex combinations of images and of their targets (arXiv 1710.09412, as MixMatch uses it: 1905.02249)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def draw_lambda(count: int, alpha: float, generator: torch.Generator) -> Float[Tensor, " count"]:
    """l ~ Beta(alpha, alpha), then max(l, 1 - l), so that a mixed image stays nearer to its own than to its partner.

    MixMatch Eqs. 8 and 9. torch's Beta takes no generator, so one integer of it seeds a numpy generator.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    drawn = np.random.default_rng(seed).beta(alpha, alpha, size=count)
    return torch.from_numpy(np.maximum(drawn, 1 - drawn).astype(np.float32))


def mix(
    images: Float[Tensor, "batch channels height width"],
    targets: Float[Tensor, "batch classes"],
    lam: Float[Tensor, " lambdas"],
    generator: torch.Generator,
) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, "batch classes"]]:
    """l * own + (1 - l) * partner, partners by a random permutation. `lam` has one value a batch, or one a row."""
    partner = torch.randperm(len(images), generator=generator).to(images.device)
    lam = lam.to(images.device)
    mixed = torch.lerp(images[partner], images, lam[:, None, None, None])
    return mixed, torch.lerp(targets[partner], targets, lam[:, None])
