"""Leverage: exact against the definition, and projected within what is promised."""

from __future__ import annotations

import numpy as np

from lnl_core.purify.ipc_eac.leverage import Leverage


def _case(width: int, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Leverage]:
    rng = np.random.default_rng(width)
    features = (rng.normal(size=(rows, width)) * np.linspace(0.2, 2, width) + 1).astype(np.float32)
    shift, scale = features.mean(axis=0).astype(np.float64), 1 / features.std(axis=0).astype(np.float64)
    z = (features - shift) * scale
    gram = z.T @ z
    spectrum, basis = np.linalg.eigh(gram)
    root = basis / np.sqrt(spectrum + 5.0)
    mean = float((spectrum / (spectrum + 5.0)).sum() / rows)
    found = Leverage.of(root, mean, shift=shift, scale=scale, generator=np.random.default_rng(0))
    slow = np.einsum("nd,de,ne->n", z, np.linalg.inv(gram + 5.0 * np.eye(width)), z)
    return features, shift, scale, slow, found


def test_exact_where_features_are_few() -> None:
    features, shift, scale, slow, found = _case(20, 90)
    np.testing.assert_allclose(found(features), slow, rtol=1e-4)
    standardised = ((features - shift) * scale).astype(np.float32)
    np.testing.assert_allclose(found.on_standardised(shift, scale)(standardised), slow, rtol=1e-3)


def test_projected_where_features_are_many_and_leverage_is_small() -> None:
    features, _, _, slow, found = _case(600, 7000)
    assert found.root.shape == (600, 256)
    error = found(features) / slow - 1
    assert np.sqrt((error**2).mean()) < 0.12  # sqrt(2 / 256) = 0.09
    assert abs(error.mean()) < 0.01


def test_exact_where_leverage_is_large() -> None:
    features, _, _, slow, found = _case(600, 700)
    np.testing.assert_allclose(found(features), np.minimum(slow, 0.999), rtol=1e-3)
