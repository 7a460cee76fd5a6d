"""No noise: the observed labels stay what they are. For real noisy data, and for the clean end of a sweep."""

from __future__ import annotations

import numpy as np

from lnl_core.contracts import IntArray
from lnl_core.noise import NOISE_TYPES
from lnl_core.noise.source import NoiseConfig, NoiseSource


class NoneConfig(NoiseConfig):
    """Nothing to set."""


@NOISE_TYPES.register("none", config=NoneConfig, summary="the observed labels as they came (real noisy data)")
def none(source: NoiseSource, config: NoneConfig, generator: np.random.Generator) -> IntArray:
    """The true labels, unchanged; stage `inject` does not even call it and keeps the observed labels."""
    del config, generator
    return source.true_label.copy()
