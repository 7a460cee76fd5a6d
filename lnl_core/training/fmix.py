"""FMix: one image where a random mask is 1, another where it is 0; the mask is low-frequency noise cut at a level.

Harris et al., FMix: Enhancing Mixed Sample Data Augmentation (arXiv 2002.12047), Sec. 4.
Deviations: the spectrum is drawn for a real picture (half of it) instead of taking a complex one's real part, which is
the same noise up to its scale; the share of the targets is the share of pixels that the mask really has, not the one
that was drawn: at 8 x 8 pixels they differ by up to a 128th.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def draw_masks(
    share: Float[Tensor, " masks"], height: int, width: int, generator: torch.Generator, decay: float = 3.0
) -> Float[Tensor, "masks height width"]:
    """Masks of zeros and ones, on the CPU; about `share` of each one's pixels are ones (the nearest whole number).

    Args:
        decay: delta, the power of the frequency by which the noise falls; 3 in the paper, 0 is white noise.
    """
    noise = torch.randn(2, len(share), height, width // 2 + 1, generator=generator)
    spectrum = torch.complex(noise[0], noise[1]) / _frequencies(height, width) ** decay  # Eq. 7
    grey = torch.fft.irfft2(spectrum, s=(height, width)).flatten(1)
    count = (share * (height * width)).round()
    rank = grey.argsort(dim=1, descending=True).argsort(dim=1)
    masks: Tensor = (rank < count[:, None]).float()  # Eq. 8: the brightest `count` pixels
    return masks.view(-1, height, width)


def _frequencies(height: int, width: int) -> Float[Tensor, "height half"]:
    """The length of each entry's frequency vector, cycles a pixel; the constant one counts as the lowest."""
    lengths: Tensor = (torch.fft.fftfreq(height)[:, None].square() + torch.fft.rfftfreq(width)[None].square()).sqrt()
    return lengths.clamp_min(1 / max(height, width))
