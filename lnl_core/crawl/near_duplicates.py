"""Which perceptual hashes lie within a few bits of one of a reference set: all pairs, in blocks that fit the cache."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
NOT_NEAR = -1
_QUERIES, _REFERENCES = 256, 256  # half a megabyte of differences at a time


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
            if (differing <= distance).any():
                closest = differing.argmin(axis=1)
                count = differing[np.arange(len(block)), closest].astype(np.int32)
                here = slice(start, start + len(block))
                nearer = (count <= distance) & ((found[here] == NOT_NEAR) | (count < bits[here]))
                found[here][nearer], bits[here][nearer] = first + closest[nearer], count[nearer]
    return found, bits
