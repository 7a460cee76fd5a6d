"""A map of the test images: t-SNE (van der Maaten and Hinton 2008) of the features that a classifier's head sees."""

from __future__ import annotations

import numpy as np
import threadpoolctl
import torch
from jaxtyping import Float, Int, UInt8
from sklearn.manifold import TSNE
from torch import Tensor, nn

from lnl_core.models.classifier import Classifier, Ensemble
from lnl_core.models.predictions import as_input
from lnl_core.runtime import Runtime

LEAST_ROWS = 30  # fewer points have no neighbourhoods to show
PERPLEXITY = 30.0  # neighbours that a point attends to; the middle of the paper's 5 to 50
SEED = 0  # the same test rows and the same start in every run, so that maps of two runs can be put side by side


def drawn_rows(rows: int, most: int, generator: np.random.Generator) -> Int[np.ndarray, " drawn"]:
    """At most `most` of `rows` row numbers, in order."""
    return np.sort(generator.permutation(rows)[:most])


def first_encoder(ensemble: Ensemble) -> nn.Module:
    """The encoder of the first network: maps of several networks could not be drawn over each other."""
    network = ensemble.networks[0]
    assert isinstance(network, Classifier), "saved ensembles are made of classifiers"
    return network.encoder


@torch.inference_mode()
def penultimate_features(
    encoder: nn.Module, pixels: UInt8[Tensor, "rows channels height width"], runtime: Runtime, batch_size: int
) -> Float[np.ndarray, "rows features"]:
    """Features of an encoder that is in evaluation mode on `runtime.device`."""
    found = []
    for start in range(0, len(pixels), batch_size):
        with runtime.autocast():
            features = encoder(as_input(pixels[start : start + batch_size], runtime.device))
        found.append(features.float().cpu().numpy())
    return np.concatenate(found)


def why_no_map(features: Float[np.ndarray, "rows features"]) -> str | None:
    """What stands against a map of these features; None where nothing does."""
    if len(features) < LEAST_ROWS:
        return f"{len(features)} test rows are too few for a map, {LEAST_ROWS} are the least"
    if features.shape[1] < 2 or not np.isfinite(features).all() or not np.ptp(features, axis=0).any():
        return "the model's features do not distinguish the test rows"
    return None


def tsne(features: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, "rows 2"]:
    """Places on the map; PCA start and one thread, so the same features give the same map. 1,000 rows take seconds."""
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    with threadpoolctl.threadpool_limits(1):  # sums of several threads come out in any order
        places = TSNE(perplexity=perplexity, init="pca", random_state=SEED).fit_transform(features)
    return np.asarray(places)
