"""Instance-dependent noise: which label a row gets depends on its pixels.

Source: X. Xia et al., Part-dependent Label Noise, NeurIPS 2020: its algorithm for generating the noise.
    q_i ~ TruncNorm(rate, 0.1) on [0, 1]        the row's own flip rate
    W_c ~ N(0, 1), d x K for each class c
    p_i = q_i * softmax over j != y_i of (x_i W_{y_i})_j,   p_i[y_i] = 1 - q_i
Deviation: the labels are drawn by inverting the cumulative p_i at uniforms drawn beforehand in order of id, so that
they do not depend on how the images are sharded or batched.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import stats

from lnl_core.config import ConfigError
from lnl_core.contracts import IntArray
from lnl_core.noise import NOISE_TYPES
from lnl_core.noise.source import NoiseConfig, NoiseSource

Floats = npt.NDArray[np.float64]
Projections = npt.NDArray[np.float32]
MAX_PROJECTION_BYTES = 2 * 2**30  # K * d * K float32; 123 MB for CIFAR-100


class InstanceConfig(NoiseConfig):
    """The mean flip rate, and how pixels enter the scores."""

    rate: float = Field(default=0.4, ge=0.0, le=1.0)
    rate_std: float = Field(default=0.1, gt=0.0, le=1.0)  # standard deviation of q before truncation; the paper's 0.1
    # unit: pixels / 255. raw: 0 to 255; the scores are then so large that the softmax is nearly one-hot.
    scaling: Literal["unit", "raw"] = "unit"

    @property
    def protocol_name(self) -> str:
        return f"part-dependent, {self.scaling} pixels"

    @property
    def counting_name(self) -> str:
        return "bernoulli"


@NOISE_TYPES.register(
    "instance",
    config=InstanceConfig,
    summary="the wrong label depends on the image (part-dependent noise)",
    source="Xia et al., Part-dependent Label Noise, NeurIPS 2020",
)
def instance(source: NoiseSource, config: InstanceConfig, generator: np.random.Generator) -> IntArray:
    """Noisy labels [n]. Streams the pixels; holds K projections of d x K float32 and one batch."""
    rows, classes = len(source.true_label), len(source.class_names)
    low, high = (0 - config.rate) / config.rate_std, (1 - config.rate) / config.rate_std
    flip = stats.truncnorm.rvs(low, high, config.rate, config.rate_std, size=rows, random_state=generator)
    uniform = generator.random(rows)
    noisy = source.true_label.copy()
    projections: Projections | None = None
    for ids, pixels in source.pixels():
        at = np.searchsorted(source.ids, ids)
        vectors = pixels.reshape(len(pixels), -1).astype(np.float32)
        vectors = vectors / np.float32(255) if config.scaling == "unit" else vectors
        if projections is None:
            projections = _projections(classes, vectors.shape[1], generator)
        chances = noisy_chances(vectors, source.true_label[at], flip[at], projections)
        noisy[at] = (uniform[at, None] > np.cumsum(chances, axis=1)).sum(axis=1).clip(0, classes - 1)
    return noisy


def noisy_chances(vectors: Projections, label: IntArray, flip: Floats, projections: Projections) -> Floats:
    """p(noisy label | image) [b, K] for pixel vectors [b, d], true labels [b], flip rates [b] and
    projections [K, d, K]."""
    scores = np.empty((len(vectors), projections.shape[2]))
    for number in np.unique(label):
        of_class = label == number
        scores[of_class] = vectors[of_class] @ projections[number]
    row = np.arange(len(label))
    scores[row, label] = -np.inf
    chances: Floats = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances *= flip[:, None] / chances.sum(axis=1, keepdims=True)
    chances[row, label] = 1 - flip
    return chances


def _projections(classes: int, width: int, generator: np.random.Generator) -> Projections:
    size = classes * width * classes * 4
    if size > MAX_PROJECTION_BYTES:
        raise ConfigError(
            f"inject.instance: {classes} classes and {width} pixel values need {size / 2**30:.1f} GiB of projections, "
            f"at most {MAX_PROJECTION_BYTES / 2**30:.0f}; lower images.size"
        )
    return generator.standard_normal((classes, width, classes), dtype=np.float32)
