"""Views: per-sample parameters, reproducible, in range, identity where wanted; slow twins loop over the samples."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from lnl_core.images.augment import SimCLRViewSettings, erase_squares, simclr_view, strong_view, weak_view
from lnl_core.images.augment_colour import Jitter, blur_images, draw_jitter, grey_images, jitter_images
from lnl_core.images.augment_geometry import draw_pad_crop, draw_resized_crop, identity_warp, warp_images
from lnl_core.images.augment_rand import COLOUR_OPERATIONS, GREY_OPERATIONS, autocontrast, rand_augment

NO_CHANGE = SimCLRViewSettings(scale_min=1.0, ratio=1.0, flip_p=0, jitter_p=0, grey_p=0)


@pytest.fixture(scope="module")
def grey() -> Tensor:
    return torch.from_numpy(load_digits().images[:24] / 16).float()[:, None]


@pytest.fixture(scope="module")
def colour(grey: Tensor) -> Tensor:
    """Real digits tinted by fixed colours, 12 x 10 pixels: not square, so a swapped axis shows."""
    large = torch.nn.functional.interpolate(grey, size=(12, 10), mode="bilinear")
    tint = torch.linspace(0.3, 1.0, 24 * 3).reshape(24, 3, 1, 1)
    return large * tint + 0.05


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


VIEWS = {
    "weak": lambda images, draw, flip: weak_view(images, draw, flip=flip),
    "strong": lambda images, draw, flip: strong_view(images, draw, flip=flip),
    "simclr": lambda images, draw, flip: simclr_view(
        images, SimCLRViewSettings(rotate_degrees=10, translate=0.1, blur_p=0.5, erase=0.2), draw, flip=flip
    ),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("channels", [1, 3])
def test_same_generator_state_gives_the_same_view_and_values_stay_in_range(
    view: str, channels: int, grey: Tensor, colour: Tensor
) -> None:
    images = grey if channels == 1 else colour
    before = images.clone()
    first, again, other = (VIEWS[view](images, generator(seed), True) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == images.shape
    assert first.dtype == torch.float32
    assert first.min() >= 0
    assert first.max() <= 1
    assert torch.equal(images, before)


@pytest.mark.parametrize("view", VIEWS)
def test_each_sample_has_parameters_of_its_own(view: str, grey: Tensor) -> None:
    same = grey[:1].expand(24, -1, -1, -1)
    views = VIEWS[view](same, generator(), True)
    assert len(torch.unique(views.flatten(1), dim=0)) > 5


def test_global_generator_is_untouched(colour: Tensor) -> None:
    before = torch.random.get_rng_state()
    for view in VIEWS.values():
        view(colour, generator(), True)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_identity_parameters_leave_images_as_they_are(colour: Tensor) -> None:
    assert torch.allclose(warp_images(colour, identity_warp(24)), colour, atol=1e-5)
    assert torch.equal(warp_images(colour, identity_warp(24), mode="nearest"), colour)
    assert torch.allclose(simclr_view(colour, NO_CHANGE, generator(), flip=True), colour, atol=1e-5)
    one = torch.ones(24)
    jitter = Jitter(
        applies=one.bool(), brightness=one, contrast=one, saturation=one, hue=0 * one, order=("hue", "saturation")
    )
    assert torch.allclose(jitter_images(colour, jitter), colour, atol=1e-5)
    untouched = dataclasses.replace(jitter, applies=~one.bool(), brightness=0.1 * one, order=("brightness",))
    assert torch.equal(jitter_images(colour, untouched), colour)


@pytest.mark.parametrize("view", ["weak", "simclr"])
def test_nothing_is_mirrored_without_permission(view: str) -> None:
    """An image that is bright on its left half: a mirrored one is brighter on the right, whatever was cropped."""
    images = torch.zeros(200, 1, 16, 16)
    images[..., :8] = 1.0
    settings = SimCLRViewSettings(scale_min=0.9, ratio=1.0, flip_p=1.0, jitter_p=0, grey_p=0)

    def mirrored(flip: bool) -> int:
        out = (
            weak_view(images, generator(), flip=flip)
            if view == "weak"
            else simclr_view(images, settings, generator(), flip=flip)
        )
        return int((out[..., 8:].mean((1, 2, 3)) > out[..., :8].mean((1, 2, 3))).sum())

    assert mirrored(False) == 0
    assert mirrored(True) == 200 if view == "simclr" else 60 < mirrored(True) < 140


def slow_pad_crop(images: Tensor, shift_x: Tensor, shift_y: Tensor) -> Tensor:
    """Loop over samples and pixels: out[y, x] = in[y + shift_y, x + shift_x], black outside."""
    out = torch.zeros_like(images)
    _, _, height, width = images.shape
    for i in range(len(images)):
        for y in range(height):
            for x in range(width):
                from_y, from_x = y + int(shift_y[i]), x + int(shift_x[i])
                if 0 <= from_y < height and 0 <= from_x < width:
                    out[i, :, y, x] = images[i, :, from_y, from_x]
    return out


def test_pad_crop_equals_its_slow_twin(colour: Tensor) -> None:
    warp = draw_pad_crop(24, (12, 10), 2, generator())
    shift_x, shift_y = (warp.x * 10 / 2).round(), (warp.y * 12 / 2).round()
    assert set(shift_x.tolist()) == {-2, -1, 0, 1, 2}
    assert torch.equal(warp_images(colour, warp, mode="nearest"), slow_pad_crop(colour, shift_x, shift_y))


def slow_resized_crop(image: np.ndarray, left: float, top: float, width: float, height: float) -> np.ndarray:
    """Bilinear sampling of one channel, pixel by pixel; the box is in pixels, pixel centres lie at .5."""
    rows, columns = image.shape
    out = np.zeros_like(image)
    for r in range(rows):
        for c in range(columns):
            y, x = top + (r + 0.5) * height / rows - 0.5, left + (c + 0.5) * width / columns - 0.5
            y0, x0 = math.floor(y), math.floor(x)
            for yy, wy in ((y0, 1 - (y - y0)), (y0 + 1, y - y0)):
                for xx, wx in ((x0, 1 - (x - x0)), (x0 + 1, x - x0)):
                    if 0 <= yy < rows and 0 <= xx < columns:
                        out[r, c] += wy * wx * image[yy, xx]
    return out


def test_resized_crop_equals_its_slow_twin_and_lies_inside(colour: Tensor) -> None:
    warp = draw_resized_crop(24, (0.2, 1.0), (0.75, 1.33), generator())
    fast = warp_images(colour, warp)
    for i in range(24):
        width, height = float(warp.width[i]) * 10, float(warp.height[i]) * 12
        left = (float(warp.x[i]) + 1) / 2 * 10 - width / 2
        top = (float(warp.y[i]) + 1) / 2 * 12 - height / 2
        assert -1e-4 <= left <= 10 - width + 1e-4
        assert -1e-4 <= top <= 12 - height + 1e-4
        slow = slow_resized_crop(colour[i, 0].double().numpy(), left, top, width, height)
        assert np.allclose(fast[i, 0].numpy(), slow, atol=1e-4)


def test_crop_area_and_ratio_stay_in_their_ranges() -> None:
    warp = draw_resized_crop(2000, (0.2, 1.0), (0.75, 4 / 3), generator())
    area, ratio = warp.width * warp.height, warp.width / warp.height
    assert area.max() <= 1 + 1e-6
    assert area.min() > 0.17  # a side that is cut to the image's takes a little of the area
    assert ratio.min() >= 0.75 - 1e-6
    assert ratio.max() <= 4 / 3 + 1e-6
    zoomed_out = draw_resized_crop(100, (1.2, 1.4), (1.0, 1.0), generator())
    assert (zoomed_out.width > 1.09).all()


def test_quarter_turn_of_an_image_that_is_not_square() -> None:
    """By hand: a turn by 90 degrees moves what is right of the centre to below or above it, and keeps its distance."""
    image = torch.zeros(1, 1, 12, 8)
    image[0, 0, 5:7, 6:8] = 1.0  # 3 pixels right of the centre
    warp = dataclasses.replace(identity_warp(1), angle=torch.tensor([math.pi / 2]))
    out = warp_images(image, warp)[0, 0]
    assert torch.allclose(out[2:4, 3:5], torch.ones(2, 2), atol=1e-4)
    assert out.sum() == pytest.approx(4, abs=1e-3)


def test_one_channel_keeps_brightness_and_contrast_but_has_no_hue(grey: Tensor) -> None:
    jitter = draw_jitter(24, (0.0, 0.0, 0.4, 0.5), 1.0, generator())
    assert torch.equal(jitter_images(grey, jitter), grey)
    brighter = draw_jitter(24, (0.4, 0.4, 0.0, 0.0), 1.0, generator())
    assert not torch.equal(jitter_images(grey, brighter), grey)
    assert torch.equal(grey_images(grey, torch.ones(24).bool()), grey)


def test_brightness_by_hand() -> None:
    images = torch.full((2, 3, 4, 4), 0.4)
    one = torch.ones(2)
    jitter = Jitter(
        applies=one.bool(),
        brightness=torch.tensor([0.5, 1.5]),
        contrast=one,
        saturation=one,
        hue=0 * one,
        order=("brightness", "contrast", "saturation", "hue"),
    )
    changed = jitter_images(images, jitter)
    assert torch.allclose(changed[:, 0, 0, 0], torch.tensor([0.2, 0.6]), atol=1e-5)


def test_grey_and_blur_touch_only_the_chosen(colour: Tensor) -> None:
    chosen = torch.arange(24) % 2 == 0
    grey = grey_images(colour, chosen)
    assert torch.equal(grey[~chosen], colour[~chosen])
    assert torch.allclose(grey[chosen][:, 0], grey[chosen][:, 2])
    blurred = blur_images(colour, torch.full((24,), 1.0), chosen)
    assert torch.equal(blurred[~chosen], colour[~chosen])
    assert (blurred[chosen].std((2, 3)) < colour[chosen].std((2, 3))).all()


def test_erased_squares_have_their_size() -> None:
    erased = erase_squares(torch.ones(500, 1, 16, 16), torch.full((500,), 0.5), 0.0, generator())
    share = 1 - erased.mean((1, 2, 3))
    assert share.max() == pytest.approx(0.25, abs=0.02)  # squares wholly inside
    assert share.min() > 0.05  # centred in a corner, a quarter of it is left


def test_every_operation_keeps_the_range_and_magnitude_matters(colour: Tensor) -> None:
    for operation in COLOUR_OPERATIONS:
        out = operation(colour, torch.linspace(-1, 1, 24))
        assert out.shape == colour.shape
        assert torch.isfinite(out).all()
    assert len(COLOUR_OPERATIONS) == len(GREY_OPERATIONS) + 1
    assert torch.equal(rand_augment(colour, 0, generator()), colour.clamp(0, 1))


def test_autocontrast_by_hand() -> None:
    images = torch.tensor([[[[0.2, 0.4], [0.6, 0.7]]], [[[0.3, 0.3], [0.3, 0.3]]]])
    stretched = autocontrast(images)
    assert torch.allclose(stretched[0, 0], torch.tensor([[0.0, 0.4], [0.8, 1.0]]))
    assert torch.equal(stretched[1], images[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("view", VIEWS)
def test_views_on_the_gpu_equal_those_on_the_cpu(view: str, colour: Tensor) -> None:
    on_cpu = VIEWS[view](colour, generator(3), True)
    on_gpu = VIEWS[view](colour.cuda(), generator(3), True).cpu()
    close = (on_cpu - on_gpu).abs() < 1e-3
    assert close.float().mean() > 0.99  # posterize may round a borderline value the other way
