"""A perceptual hash of 64 bits: two files of the same picture differ in few bits, two pictures in about half of them.

The sign pattern of the lowest frequencies of a cosine transform (the pHash of Zauner, Implementation and Benchmarking
of Perceptual Image Hash Functions, 2010, without its first coefficient, the mean). In whole numbers throughout, so each
machine finds the same bits. The library ImageHash does the same in floats, and brings PyWavelets with it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.fft import dct

NO_PHASH = 0  # of an image too plain to be distinguished from others; no other image has it
SIDE = 32  # pixels: the 8 lowest of 32 frequencies survive scaling and recompression
LOW = 8
PLAIN_VARIANCE = 64  # 8 grey levels squared: below it (a piece of sky) JPEG's own noise flips ten bits
_COSINES: npt.NDArray[np.int64] = np.round(dct(np.eye(SIDE), axis=0, norm="ortho")[:LOW] * 2**14).astype(np.int64)
_WEIGHTS: npt.NDArray[np.uint64] = np.uint64(1) << np.arange(1, LOW * LOW, dtype=np.uint64)


def phash(image: Image.Image) -> int:
    """The hash of a decoded image, or `NO_PHASH`. Bit k is set where coefficient k of 1..63 is above their median."""
    grey = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS), dtype=np.int64)
    if int((grey**2).sum()) * grey.size - int(grey.sum()) ** 2 < PLAIN_VARIANCE * grey.size**2:
        return NO_PHASH
    frequencies = (_COSINES @ grey @ _COSINES.T).ravel()[1:]
    above = frequencies > np.sort(frequencies)[len(frequencies) // 2]
    return int(_WEIGHTS[above].sum(dtype=np.uint64))
