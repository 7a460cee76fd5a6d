"""Predictions for stored pixels, batch by batch."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from lnl_core.contracts import FloatArray
from lnl_core.images.encoded import Pixels
from lnl_core.images.network_input import as_input
from lnl_core.runtime import Runtime

__all__ = ["as_input", "predict_probabilities"]


@torch.inference_mode()
def predict_probabilities(network: nn.Module, pixels: Pixels, runtime: Runtime, batch_size: int = 512) -> FloatArray:
    """Probabilities [rows, classes] of an `Ensemble` that is on `runtime.device`; holds one batch of floats at a time.

    The network is put into evaluation mode and left in it.
    """
    network.eval()
    found = []
    for start in range(0, len(pixels), batch_size):
        with runtime.autocast():
            probabilities = network(as_input(pixels[start : start + batch_size], runtime.device))
        found.append(probabilities.float().cpu().numpy())
    return np.concatenate(found) if found else np.empty((0, 0), dtype=np.float32)
