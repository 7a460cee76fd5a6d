"""The log pool against its formula as a loop, and what its weights do."""

from __future__ import annotations

import numpy as np

from lnl_core.statistics.log_pool import LogPool, fit_log_pool
from lnl_core.statistics.softmax_link import log_loss, softmax


def members(rows: int, deviations: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Independent members: logits of the true class raised by 2 and blurred by each deviation."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, rows)
    truth = 2 * np.eye(3)[labels]
    return np.stack([softmax(truth + deviation * rng.normal(size=(rows, 3))) for deviation in deviations]), labels


def test_pool_equals_its_formula() -> None:
    found, _ = members(7, (1.0, 2.0))
    pool = LogPool(np.array([0.7, 0.2]), np.array([0.1, 0.0, -0.3]))
    for row, pooled in enumerate(pool(found)):
        slow = [
            found[0, row, label] ** 0.7 * found[1, row, label] ** 0.2 * np.exp(pool.bias[label]) for label in range(3)
        ]
        np.testing.assert_allclose(pooled, np.array(slow) / sum(slow), rtol=1e-6)


def test_pool_is_better_than_each_member_and_leaves_noise_out() -> None:
    found, labels = members(3000, (1.2, 1.2, 1.0))
    found[2] = found[2][np.random.default_rng(1).permutation(3000)]  # says nothing about its row
    pool = fit_log_pool(found[:, :1500], labels[:1500])
    assert pool.weights[2] < 0.1 < pool.weights[:2].min()
    losses = [log_loss(one[1500:], labels[1500:]) for one in found]
    assert log_loss(pool(found[:, 1500:]), labels[1500:]) < min(losses) - 0.02


def test_few_rows_stay_near_even_weights() -> None:
    found, labels = members(4, (1.0, 1.0))
    assert np.abs(fit_log_pool(found, labels).weights - 0.5).max() < 0.6
