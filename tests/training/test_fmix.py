"""FMix's masks: a slow twin over an inverse Fourier sum, exact pixel counts, smoothness."""

import cmath
import math

import pytest
import torch

from lnl_core.training.fmix import draw_masks


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def slow_mask(noise, share, height, width, decay):
    """The paper's recipe, term by term; the half spectrum's other half is its mirrored conjugate."""
    grey = {}
    for y in range(height):
        for x in range(width):
            total = 0.0
            for v in range(height):
                for u in range(width // 2 + 1):
                    fv = (v if v <= (height - 1) // 2 else v - height) / height
                    length = max(math.hypot(fv, u / width), 1 / max(height, width))
                    value = complex(*noise[:, v, u].tolist()) / length**decay
                    wave = value * cmath.exp(2j * math.pi * (v * y / height + u * x / width))
                    alone = u == 0 or (width % 2 == 0 and u == width // 2)
                    total += wave.real if alone else 2 * wave.real
            grey[y, x] = total
    brightest = sorted(grey, key=lambda place: -grey[place])[: round(share * height * width)]
    return [[float((y, x) in brightest) for x in range(width)] for y in range(height)]


@pytest.mark.parametrize(("height", "width"), [(6, 6), (5, 7), (4, 6)])
def test_slow_twin(height, width):
    share = torch.tensor([0.31, 0.72])
    found = draw_masks(share, height, width, generator(3), decay=2.0)
    noise = torch.randn(2, 2, height, width // 2 + 1, generator=generator(3))
    for number in range(2):
        assert found[number].tolist() == slow_mask(noise[:, number], float(share[number]), height, width, 2.0)


def test_pixels_are_counted_exactly():
    share = torch.tensor([0.0, 0.25, 0.51, 1.0])
    masks = draw_masks(share, 8, 8, generator())
    assert masks.unique().tolist() == [0.0, 1.0]
    assert masks.sum(dim=(1, 2)).tolist() == [0, 16, 33, 64]  # 0.51 * 64 = 32.64
    assert draw_masks(torch.tensor([0.5]), 1, 1, generator()).shape == (1, 1, 1)


def edges(masks):
    return float((masks[:, 1:] != masks[:, :-1]).float().mean())


def test_decay_makes_the_mask_whole():
    share = torch.full((40,), 0.5)
    smooth, rough = (edges(draw_masks(share, 32, 32, generator(), decay=decay)) for decay in (3.0, 0.0))
    assert rough == pytest.approx(0.5, abs=0.02)  # white noise: neighbours know nothing of each other
    assert smooth < 0.1


def test_same_generator_same_masks():
    share = torch.full((2,), 0.5)
    assert torch.equal(draw_masks(share, 9, 9, generator(1)), draw_masks(share, 9, 9, generator(1)))
    first, second = draw_masks(share, 9, 9, generator(1))
    assert not torch.equal(first, second)
