"""The perceptual hash: the same picture in other files stays near, another picture is far, a plain one has none."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from lnl_core.images.phash import LOW, NO_PHASH, SIDE, phash

PHOTOGRAPHS = [Image.fromarray(pixels) for pixels in load_sample_images().images]
CROPS = [
    photograph.crop((x, y, x + 160, y + 160))
    for photograph in PHOTOGRAPHS
    for x in range(0, 480, 160)
    for y in range(0, 320, 160)
]


def distance(one: int, other: int) -> int:
    return (one ^ other).bit_count()


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def by_hand(image: Image.Image) -> int:
    """The definition, as loops over floats."""
    pixels = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS), dtype=float)
    values = []
    for row in range(LOW):
        for column in range(LOW):
            scale = (1 if row else math.sqrt(0.5)) * (1 if column else math.sqrt(0.5))
            angle = math.pi / (2 * SIDE)
            rows = np.array([math.cos(angle * row * (2 * place + 1)) for place in range(SIDE)])
            columns = np.array([math.cos(angle * column * (2 * place + 1)) for place in range(SIDE)])
            values.append(scale * float(rows @ pixels @ columns))
    median = sorted(values[1:])[31]
    return sum(1 << place for place in range(1, 64) if values[place] > median)


@pytest.mark.parametrize("number", range(0, len(CROPS), 5))
def test_it_is_the_sign_pattern_of_the_low_frequencies(number: int) -> None:
    assert distance(phash(CROPS[number]), by_hand(CROPS[number])) <= 1  # a coefficient beside the median, by rounding
    assert phash(CROPS[number]).bit_count() == 31


def test_other_files_of_a_picture_are_near_and_other_pictures_far() -> None:
    for image in filter(phash, CROPS):
        for other in (as_jpeg(image, 60), image.resize((100, 100)), image.convert("L")):
            assert distance(phash(image), phash(other)) <= 4
    hashes = [phash(image) for image in CROPS if phash(image)]
    assert len(hashes) == len(CROPS) - 1  # a piece of plain sky has none
    apart = [distance(one, other) for row, one in enumerate(hashes) for other in hashes[:row]]
    assert min(apart) >= 4
    assert np.median(apart) > 24


@pytest.mark.parametrize("value", [0, 128, 255])
def test_plain_images_have_no_hash(value: int) -> None:
    assert phash(Image.new("RGB", (50, 40), (value, value, value))) == NO_PHASH
    faint = np.full((40, 40), value // 2, np.uint8)
    faint[:, :20] += 15
    assert phash(Image.fromarray(faint)) == NO_PHASH
    faint[:, :20] += 2
    assert phash(Image.fromarray(faint)) != NO_PHASH
