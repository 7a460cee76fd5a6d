"""Every noise type: labels in range, the same for the same seed, and a source that is left as it was."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from lnl_core.contract_tests import under_test
from lnl_core.contracts import string_ids
from lnl_core.noise import NOISE_TYPES
from lnl_core.noise.source import NoiseSource

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NAMES = [name for name in under_test.names(NOISE_TYPES) if name != "human"]  # reads a file
SETTINGS = {"matrix": {"matrix": tuple(map(tuple, np.full((10, 10), 0.1).tolist()))}}
ROWS = 600


def source() -> NoiseSource:
    """Labels of ten even classes, and pixels of noise."""
    ids = string_ids([f"r{row:05d}" for row in range(ROWS)])
    pixels = np.random.default_rng(5).integers(0, 256, (ROWS, 1, 4, 4)).astype(np.uint8)
    label = np.random.default_rng(1).permutation(np.arange(ROWS) % 10).astype(np.int32)

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, ROWS, 300):
            yield ids[start : start + 300], pixels[start : start + 300]

    return NoiseSource(ids=ids, true_label=label, class_names=CIFAR10, pixels=batches)


def draw(name: str, rows: NoiseSource, seed: int) -> np.ndarray:
    entry = NOISE_TYPES.get(name)
    return entry.make(rows, under_test.settings_of(entry, SETTINGS.get(name, {})), np.random.default_rng(seed))


@pytest.mark.parametrize("name", NAMES)
def test_every_type_is_deterministic_pure_and_in_range(name: str) -> None:
    rows = source()
    before = rows.true_label.copy()
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - the global one is the point
    first, second = (draw(name, rows, 3) for _ in range(2))
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    assert first.dtype == np.int32
    assert first.shape == before.shape
    assert np.array_equal(first, second)
    assert np.array_equal(rows.true_label, before)
    assert first.min() >= 0
    assert first.max() < 10


@pytest.mark.parametrize("name", NAMES)
def test_config_goes_round(name: str) -> None:
    entry = NOISE_TYPES.get(name)
    config = under_test.settings_of(entry, SETTINGS.get(name, {}))
    assert entry.config(**config.model_dump(mode="json")) == config
