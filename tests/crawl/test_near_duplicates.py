"""The search for near hashes against a loop over all pairs."""

from __future__ import annotations

import numpy as np
import pytest

from lnl_core.crawl.near_duplicates import NOT_NEAR, nearest


def by_loops(hashes: list[int], references: list[int], distance: int) -> list[tuple[int, int]]:
    result = []
    for one in hashes:
        bits = [(one ^ other).bit_count() for other in references]
        best = min(bits, default=65)
        result.append((bits.index(best), best) if best <= distance else (NOT_NEAR, NOT_NEAR))
    return result


@pytest.mark.parametrize("distance", [0, 3, 12])
def test_it_finds_what_loops_find(distance: int) -> None:
    draw = np.random.default_rng(0)
    references = draw.integers(0, 2**64, 150, dtype=np.uint64)
    flips = np.uint64(1) << draw.integers(0, 64, (5000, 9), dtype=np.uint64)
    flips[np.arange(9)[None, :] >= draw.integers(0, 10, 5000)[:, None]] = 0
    hashes = references[draw.integers(0, 150, 5000)] ^ np.bitwise_xor.reduce(flips, axis=1)  # up to nine bits away
    references[7] = references[140]  # of equally near ones the first
    found, bits = nearest(hashes, references, distance)
    expected = by_loops([int(one) for one in hashes], [int(one) for one in references], distance)
    assert list(zip(found.tolist(), bits.tolist(), strict=True)) == expected
    assert (found != NOT_NEAR).any()


def test_nothing_is_near_nothing() -> None:
    none = np.empty(0, np.uint64)
    assert nearest(none, none, 4)[0].tolist() == []
    assert nearest(np.array([5], np.uint64), none, 4)[0].tolist() == [NOT_NEAR]
