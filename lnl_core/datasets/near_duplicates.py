"""Which perceptual hashes lie within a few bits of one of a reference set: all pairs, in blocks that fit the cache."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
NOT_NEAR = -1
_QUERIES, _REFERENCES = 2048, 64  # a megabyte of differences at a time


def nearest(hashes: Hashes, references: Hashes, distance: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int32]]:
    """(row of `references` [n], bits in which they differ [n]) of the nearest within `distance`; else `NOT_NEAR`.

    Of equally near ones the first. Counts bits of all pairs, so time grows with the product of both lengths; held are a
    block of pairs and the result.
    """
    found = np.full(len(hashes), NOT_NEAR, dtype=np.intp)
    bits = np.full(len(hashes), NOT_NEAR, dtype=np.int32)
    for start in range(0, len(hashes), _QUERIES):
        block = hashes[start : start + _QUERIES, None]
        for first in range(0, len(references), _REFERENCES):
            differing = np.bitwise_count(block ^ references[None, first : first + _REFERENCES])
            near = differing <= distance
            if near.any():
                _keep_nearer(found, bits, start, first, np.argwhere(near), differing)
    return found, bits


def _keep_nearer(
    found: npt.NDArray[np.intp],
    bits: npt.NDArray[np.int32],
    start: int,
    first: int,
    pairs: npt.NDArray[np.intp],
    differing: npt.NDArray[np.uint8],
) -> None:
    for row, column in pairs:
        count = int(differing[row, column])
        if found[start + row] == NOT_NEAR or count < bits[start + row]:
            found[start + row], bits[start + row] = first + column, count
