"""Predictions of saved classifiers on stored images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from lnl_core.models.predictions import predict_probabilities
from lnl_core.runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Predicted labels of one classifier."""

    label: Int[np.ndarray, " rows"]
    confidence: Float[np.ndarray, " rows"]  # probability of that label, 0..1


def predict(
    network: nn.Module,
    pixels: UInt8[Tensor, "rows channels height width"],
    runtime: Runtime,
    batch_size: int,
) -> Predictions:
    """Labels and confidences of a network that gives probabilities and is on `runtime.device`.

    Holds one batch of probabilities, so many classes cost no memory.
    """
    labels, confidences = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.float32)]
    for start in range(0, len(pixels), batch_size):
        probabilities = predict_probabilities(network, pixels[start : start + batch_size], runtime, batch_size)
        labels.append(probabilities.argmax(axis=1))
        confidences.append(np.clip(probabilities.max(axis=1), 0.0, 1.0))
    return Predictions(label=np.concatenate(labels), confidence=np.concatenate(confidences))
