"""Every kind of image that turns up in a folder: decoded right, or refused with its reason."""

import io

import numpy as np
import pytest
from PIL import Image

from lnl_core.config import ImageSettings
from lnl_core.images.decode import BrokenImage, decode_image, map_images, to_array


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width: int = 16, height: int = 16) -> Image.Image:
    row = np.linspace(0, 255, width).astype(np.uint8)
    pixels = np.stack([np.tile(row, (height, 1)), np.full((height, width), 40), np.full((height, width), 200)], axis=2)
    return Image.fromarray(pixels.astype(np.uint8))


def reason(data: bytes) -> str:
    with pytest.raises(BrokenImage) as caught:
        decode_image(data)
    assert caught.value.detail
    return caught.value.reason


def image_or_reason(data: bytes) -> str:
    """The mode of the decoded image, or why there is none; any other exception passes through."""
    try:
        return decode_image(data).mode
    except BrokenImage as error:
        return error.reason


REASONS = {"RGB", "empty-file", "not-an-image", "truncated-image", "damaged-image", "too-large", "unsupported-pixels"}


def test_rgb_png_is_unchanged() -> None:
    assert np.array_equal(np.asarray(decode_image(encoded(gradient(), "PNG"))), np.asarray(gradient()))


def test_palette_image_is_looked_up() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    assert np.asarray(decode_image(encoded(image, "PNG"))).tolist() == [[[255, 0, 0], [0, 0, 255]]]


@pytest.mark.parametrize(("alpha", "expected"), [(0, 255), (255, 0), (128, 127)])
def test_alpha_lies_on_white(alpha: int, expected: int) -> None:
    image = Image.new("RGBA", (4, 4), (0, 0, 0, alpha))
    assert np.abs(np.asarray(decode_image(encoded(image, "PNG"))).astype(int) - expected).max() <= 1


def test_transparent_colour_of_an_rgb_png_lies_on_white() -> None:
    image = Image.new("RGB", (2, 1), (10, 20, 30))
    image.putpixel((1, 0), (1, 2, 3))
    decoded = np.asarray(decode_image(encoded(image, "PNG", transparency=(10, 20, 30))))
    assert decoded.tolist() == [[[255, 255, 255], [1, 2, 3]]]


def test_cmyk_jpeg_keeps_its_colours() -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    pixels = np.asarray(decode_image(encoded(red, "JPEG", quality=95))).astype(int)
    assert np.abs(pixels - [255, 0, 0]).max() < 12


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    values = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    decoded = np.asarray(decode_image(encoded(Image.fromarray(values), "PNG")))
    assert decoded[0, :, 0].tolist() == [0, 1, 128, 255]
    assert decoded.shape == (1, 4, 3)


def test_16_bit_tiff_is_scaled_too() -> None:
    values = np.array([[0, 65535]], dtype=np.uint16)
    assert np.asarray(decode_image(encoded(Image.fromarray(values), "TIFF")))[0, :, 0].tolist() == [0, 255]


def test_float_tiff_has_no_agreed_range() -> None:
    assert reason(encoded(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF")) == "unsupported-pixels"


def test_32_bit_grey_beyond_16_bits_is_refused() -> None:
    values = np.array([[0, 70_000]], dtype=np.int32)
    assert reason(encoded(Image.fromarray(values), "TIFF")) == "unsupported-pixels"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation: int) -> None:
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    stored = {  # how a camera that was held so stores the upright picture
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    assert np.array_equal(np.asarray(decode_image(data))[:, :, 0], upright)


def test_the_first_frame_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(decode_image(data))[0, 0].tolist() == [255, 0, 0]


def test_reasons() -> None:
    jpeg = encoded(gradient(64, 64), "JPEG")
    assert reason(b"") == "empty-file"
    assert reason(b"hello, this is a text file\n") == "not-an-image"
    assert reason(jpeg[: len(jpeg) // 2]) == "truncated-image"
    png = encoded(gradient(64, 64), "PNG")
    assert reason(png[: len(png) // 2]) in ("truncated-image", "damaged-image")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_every_cut_of_a_file_is_an_image_or_a_reason() -> None:
    for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF"):
        data = encoded(gradient(24, 24).convert("P" if kind == "GIF" else "RGB"), kind)
        for cut in range(0, len(data), max(len(data) // 40, 1)):
            assert image_or_reason(data[:cut]) in REASONS


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_bytes_are_an_image_or_a_reason() -> None:
    generator = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "TIFF"):
        data = np.frombuffer(encoded(gradient(24, 24), kind), np.uint8)
        for _ in range(60):
            damaged = data.copy()
            damaged[generator.integers(0, len(data), 5)] = generator.integers(0, 256, 5)
            assert image_or_reason(damaged.tobytes()) in REASONS


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 20_000])
def test_decompression_bomb_is_refused_before_it_is_decoded(side: int) -> None:
    data = bytearray(encoded(Image.new("1", (8, 8)), "BMP"))
    data[18:26] = np.array([side, side], dtype="<i4").tobytes()
    assert reason(bytes(data)) == "too-large"


def test_to_array_leaves_an_image_of_the_right_size_alone() -> None:
    pixels = to_array(gradient(32, 32), ImageSettings(size=32))
    assert pixels.shape == (3, 32, 32)
    assert np.array_equal(pixels, np.asarray(gradient(32, 32)).transpose(2, 0, 1))


def test_grey_survives_the_way_through_rgb() -> None:
    grey = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    pixels = to_array(decode_image(encoded(grey, "PNG")), ImageSettings(size=16, channels=1))
    assert np.array_equal(pixels[0], np.asarray(grey))


def test_to_array_crops_the_centre() -> None:
    image = Image.new("RGB", (48, 16), "black")
    image.paste("white", (16, 0, 32, 16))  # the central square is white
    assert to_array(image, ImageSettings(size=16)).min() == 255
    assert to_array(image.rotate(90, expand=True), ImageSettings(size=16)).min() == 255


def test_shrinking_averages_instead_of_skipping_pixels() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    inner = to_array(Image.fromarray(stripes), ImageSettings(size=8))[:, :, 1:-1]
    assert np.abs(inner.astype(int) - 128).max() < 10


def test_map_images_keeps_the_order_on_threads() -> None:
    images = [bytes([number]) * 10_000 for number in range(50)]
    assert map_images(lambda data: data[0], images) == list(range(50))
