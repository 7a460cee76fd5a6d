"""The mixture's equations against loops written from the paper."""

from __future__ import annotations

import numpy as np

from lnl_core.statistics.transition import posterior
from lnl_core.statistics.two_em_mixture import (
    clean_share,
    cleanness,
    cleanness_of_own,
    corruption_matrix,
    outlier_probability,
    refurbished,
)

K, N = 4, 30


def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    f = rng.dirichlet(np.ones(K), N)
    return f, rng.integers(0, K, N).astype(np.int32), rng.dirichlet(np.ones(K), K)


def test_each_equation_equals_its_loop() -> None:
    f, observed, corruption = drawn()
    gamma = 0.7
    eps = np.array([sum(f[i, y] * corruption[y, observed[i]] for y in range(K)) for i in range(N)])  # Eq. 14
    np.testing.assert_allclose(outlier_probability(f, corruption, observed), eps)
    q = np.empty(N)
    for i in range(N):  # Eq. 4
        clean = gamma * f[i, observed[i]]
        q[i] = clean / (clean + (1 - gamma) * eps[i])
    found = cleanness(gamma, f, eps, observed)
    np.testing.assert_allclose(found, q)
    assert clean_share(found) == np.mean(q)  # Eq. 6
    target = np.zeros((N, K))
    for i in range(N):  # Eq. 11
        for y in range(K):
            target[i, y] = q[i] * (observed[i] == y) + (1 - q[i]) * f[i, y]
    np.testing.assert_allclose(refurbished(found, f, observed), target)
    matrix = np.zeros((K, K))
    for y in range(K):
        below = sum((1 - q[i]) * f[i, y] for i in range(N))
        for j in range(K):
            matrix[y, j] = sum((1 - q[i]) * f[i, y] for i in range(N) if observed[i] == j) / below
    np.testing.assert_allclose(corruption_matrix(found, f, observed), matrix, atol=1e-10)


def test_with_the_corrupted_label_as_evidence_the_mixture_is_bayes_rule_for_the_matrix() -> None:
    """q(s=1) e_o + q(s=0) f T_c[:, o] / eps is the posterior under T = gamma I + (1 - gamma) T_c."""
    f, observed, corruption = drawn()
    gamma = 0.6
    eps = outlier_probability(f, corruption, observed)
    clean = cleanness(gamma, f, eps, observed)
    by_mixture = (1 - clean)[:, None] * f * corruption.T[observed] / eps[:, None]
    by_mixture[np.arange(N), observed] += clean
    matrix = gamma * np.eye(K) + (1 - gamma) * corruption
    np.testing.assert_allclose(posterior(f, matrix, observed), by_mixture, atol=1e-6)


def test_by_hand() -> None:
    """gamma 1/2, f = (3/4, 1/4), label 0, eps 1/2: q(s=1) = 3/8 / (3/8 + 1/4) = 3/5."""
    f, observed = np.array([[0.75, 0.25]]), np.array([0], dtype=np.int32)
    clean = cleanness(0.5, f, np.array([0.5]), observed)
    np.testing.assert_allclose(clean, [0.6])
    np.testing.assert_allclose(refurbished(clean, f, observed), [[0.9, 0.1]])


def test_the_own_probability_is_enough() -> None:
    f, observed, _ = drawn()
    eps = np.full(N, 1 / K)
    own = f[np.arange(N), observed]
    np.testing.assert_array_equal(cleanness_of_own(0.3, own, eps), cleanness(0.3, f, eps, observed))
