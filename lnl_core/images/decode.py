"""Encoded images to pixels: by content, never by file name, and with a reason where it cannot be done.

Every image becomes RGB with 8 bits a channel, turned upright by its EXIF orientation: palettes are looked up, alpha
is put on white, CMYK is converted, 16-bit grey is scaled by 255/65535 (Pillow's own conversion would clip it).
Of an animation or a multi-page file the first frame counts.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from lnl_core.config import ImageSettings

R = TypeVar("R")
Image.init()
# No format that starts another program (EPS); MPO is a JPEG with more than one image; WebP is optional in Pillow.
FORMATS = tuple(name for name in ("JPEG", "MPO", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM") if name in Image.OPEN)
MAX_PIXELS = 89_478_485  # 256 MiB of RGB, Pillow's own threshold for a decompression bomb
THREAD_BYTES = 4096  # smaller images decode faster than a thread can be handed one
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow's readers raise on damaged data, besides UnidentifiedImageError (an OSError).
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
)


class BrokenImage(ValueError):
    """An image that cannot be used: `reason` is a short slug, `detail` a sentence with the mend."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def decode_image(data: bytes) -> Image.Image:
    """Encoded bytes to an upright RGB image.

    Raises:
        BrokenImage: reason empty-file, not-an-image, too-large, truncated-image, damaged-image or unsupported-pixels.
    """
    image = _open(data)
    try:
        image.load()
    except _DAMAGE as error:
        raise _damage(error) from error
    return _upright(_to_rgb(image), _orientation(image))


def to_array(image: Image.Image, settings: ImageSettings) -> UInt8[np.ndarray, "channels height width"]:
    """The central square, resized with antialiasing to `settings.size`: the shorter side fits, the rest is cropped.

    An image that already has the right size is returned pixel for pixel.
    """
    size = settings.size
    if settings.channels == 1:
        image = image.convert("L")
    if image.size != (size, size):
        short = min(image.size)
        left, top = (image.width - short) / 2, (image.height - short) / 2
        image = image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + short, top + short))
    pixels = np.asarray(image, dtype=np.uint8).reshape(size, size, settings.channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def map_images(function: Callable[[bytes], R], images: Sequence[bytes]) -> list[R]:
    """`function` over encoded images, in order; on threads where they are big enough for that to pay."""
    workers = min(len(os.sched_getaffinity(0)), 8)
    if workers == 1 or sum(map(len, images)) < THREAD_BYTES * max(len(images), 1):
        return [function(image) for image in images]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, images, chunksize=8))


def _open(data: bytes) -> Image.Image:
    if not data:
        raise BrokenImage("empty-file", "0 bytes; fetch the image again")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise BrokenImage("too-large", f"{error}; scale the image down") from error
    except UnidentifiedImageError as error:
        detail = (
            f"{len(data)} bytes that begin with {data[:8]!r} are none of {', '.join(FORMATS)}; convert or remove it"
        )
        raise BrokenImage("not-an-image", detail) from error
    except (OSError, ValueError, EOFError, OverflowError) as error:
        raise _damage(error) from error
    if image.width * image.height > MAX_PIXELS:
        raise BrokenImage("too-large", f"{image.width} x {image.height} pixels, at most {MAX_PIXELS}; scale it down")
    return image


def _damage(error: BaseException) -> BrokenImage:
    text = str(error) or type(error).__name__
    cut = "truncated" in text or isinstance(error, EOFError) or "Truncated" in text
    return BrokenImage("truncated-image" if cut else "damaged-image", f"{text}; fetch the image again")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGB", "L", "1", "CMYK", "YCbCr", "HSV"):
        return _on_white(image) if "transparency" in image.info else image.convert("RGB")
    if image.mode in ("P", "PA", "LA", "La", "RGBA", "RGBa", "RGBX"):
        return _on_white(image)
    if image.mode.startswith("I"):
        return _from_16_bit(image).convert("RGB")
    raise BrokenImage("unsupported-pixels", f"pixel mode {image.mode!r} has no agreed range; save it with 8 or 16 bits")


def _on_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        detail = f"32-bit grey values from {values.min()} to {values.max()}; save the image with 8 or 16 bits"
        raise BrokenImage("unsupported-pixels", detail)
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))  # 65535 = 257 * 255; rounds to nearest


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except _DAMAGE:
        return 1  # a damaged EXIF block does not touch the pixels; every viewer shows such an image as it lies


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image
