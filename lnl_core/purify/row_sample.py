"""A uniform sample of the noisy rows, read in one pass: what a method learns from where it cannot hold them all."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from lnl_core.contracts import FloatArray
from lnl_core.purify.task import FeatureRows

Rows = npt.NDArray[np.intp]


def row_sample(
    noisy: FeatureRows,
    most: int,
    generator: np.random.Generator,
    *,
    prepare: Callable[[FloatArray], FloatArray] | None = None,
    room: int = 0,
) -> tuple[Rows, FloatArray]:
    """At most `most` rows, drawn without replacement.

    Args:
        prepare: applied to features [b, d] before they are kept; as wide afterwards.
        room: further rows at the end, for the caller to fill.
    Returns:
        Row numbers [s], ascending, and features [s + room, d] in float32.
    """
    total, width = noisy.shape
    rows = np.sort(generator.choice(total, size=min(most, total), replace=False))
    features = np.empty((len(rows) + room, width), dtype=np.float32)
    for block, batch in noisy.batches():
        start, stop = np.searchsorted(rows, [block.start, block.stop])
        taken = batch if stop - start == len(batch) else batch[rows[start:stop] - block.start]
        features[start:stop] = taken if prepare is None else prepare(taken)
    return rows, features
