"""The map of test features: the same every time, neighbours stay together, and reasons where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lnl_core.config import ModelSettings
from lnl_core.evaluate.embedding import (
    LEAST_ROWS,
    drawn_rows,
    first_encoder,
    penultimate_features,
    tsne,
    why_no_map,
)
from lnl_core.models.classifier import Ensemble, build_classifier
from lnl_core.runtime import Runtime

CPU = Runtime(device=torch.device("cpu"), precision="float32", seed=0, image_memory_mb=100)


def test_two_heaps_stay_two_heaps_and_the_map_is_the_same_every_time() -> None:
    heaps = np.repeat([0, 1], 40)
    features = (8 * heaps[:, None] + np.random.default_rng(0).standard_normal((80, 5))).astype(np.float32)
    places = tsne(features)
    assert places.shape == (80, 2)
    gaps = np.linalg.norm(places[:, None] - places[None], axis=2) + np.diag(np.full(80, np.inf))
    assert (heaps[gaps.argmin(axis=1)] == heaps).all()
    np.testing.assert_array_equal(places, tsne(features))


def test_the_fewest_rows_make_a_map() -> None:
    features = np.random.default_rng(0).standard_normal((LEAST_ROWS, 3)).astype(np.float32)
    assert why_no_map(features) is None
    assert np.isfinite(tsne(features)).all()


@pytest.mark.parametrize(
    ("features", "why"),
    [
        (np.eye(29, dtype=np.float32), "29 test rows are too few"),
        (np.ones((40, 3), np.float32), "do not distinguish the test rows"),
        (np.full((40, 3), np.nan, np.float32), "do not distinguish the test rows"),
    ],
)
def test_why_there_is_no_map(features: np.ndarray, why: str) -> None:
    assert why in (why_no_map(features) or "")


def test_rows_are_drawn_once_and_from_the_generator() -> None:
    drawn = drawn_rows(50, 20, np.random.default_rng(0))
    assert len(set(drawn.tolist())) == 20
    assert drawn.tolist() == sorted(drawn.tolist())
    assert drawn.tolist() == drawn_rows(50, 20, np.random.default_rng(0)).tolist()
    assert drawn.tolist() != drawn_rows(50, 20, np.random.default_rng(1)).tolist()
    assert drawn_rows(5, 20, np.random.default_rng(0)).tolist() == [0, 1, 2, 3, 4]


def test_features_are_what_the_head_of_the_first_network_sees() -> None:
    networks = [build_classifier(ModelSettings(arch="small_cnn", width=8), 1, 3, seed=seed) for seed in (0, 5)]
    ensemble = Ensemble(networks).eval()
    pixels = torch.randint(0, 256, (7, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = penultimate_features(first_encoder(ensemble), pixels, CPU, batch_size=3)
    with torch.inference_mode():
        logits = networks[0].head(torch.from_numpy(features))
        expected = networks[0](pixels.float() / 255)
    torch.testing.assert_close(logits, expected)
