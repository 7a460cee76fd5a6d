"""The closed form against rows that are really drawn again and again, and against what can be counted by hand."""

import itertools

import numpy as np
import pytest

from lnl_core.versions.paired_bootstrap import Steps, bootstrap, steps


def slow_quantiles(counts: Steps, shares: list[float], resamples: int, generator: np.random.Generator) -> list[float]:
    """Row by row: half a row more that is lost and that is gained, a whole one more that is neither."""
    kinds = [-1] * counts.lost + [1] * counts.gained + [0] * (counts.rows - counts.lost - counts.gained) + [-1, 1, 0]
    weights = [1.0] * counts.rows + [0.5, 0.5, 1.0]
    probability = np.array(weights) / sum(weights)
    differences = []
    for _ in range(resamples):
        drawn = generator.choice(kinds, size=counts.rows, p=probability)
        differences.append(drawn.sum() / counts.rows)
    return [float(value) for value in np.quantile(differences, shares)]


@pytest.mark.parametrize("counts", [Steps(lost=12, gained=5, rows=150), Steps(lost=0, gained=3, rows=40)])
def test_quantiles_are_those_of_rows_drawn_with_replacement(counts: Steps) -> None:
    shares = [0.02, 0.1, 0.5, 0.9, 0.98]
    slow = slow_quantiles(counts, shares, 8000, np.random.default_rng(0))
    fast = [bootstrap(counts).quantile(share) for share in shares]
    np.testing.assert_allclose(fast, slow, atol=1.01 / counts.rows)


def test_two_rows_by_hand() -> None:
    """One row lost, one not: p(lost) = 1.5 / 4, p(gained) = 0.5 / 4, p(neither) = 2 / 4; all nine pairs of draws."""
    chance = {-1: 0.375, 1: 0.125, 0: 0.5}
    mass = dict.fromkeys(range(-2, 3), 0.0)
    for first, second in itertools.product(chance, repeat=2):
        mass[first + second] += chance[first] * chance[second]
    found = bootstrap(Steps(lost=1, gained=0, rows=2))
    np.testing.assert_allclose(found.cumulative, np.cumsum([mass[k] for k in range(-2, 3)]), atol=1e-12)
    assert found.quantile(0.14) == -1.0  # P(sum <= -2) = 0.140625
    assert found.quantile(0.15) == -0.5


def test_the_tails_are_exact_far_out() -> None:
    """Against the binomial: where nothing is gained but the half row, the sum of n steps is nearly -Binomial(n, p)."""
    counts = Steps(lost=60, gained=0, rows=5000)
    cumulative = bootstrap(counts).cumulative
    assert (np.diff(cumulative) >= 0).all()
    assert cumulative[-1] == pytest.approx(1, abs=1e-9)
    assert cumulative[0] < 1e-12


def test_few_rows_that_differ_are_no_certainty() -> None:
    """All of m differing rows lost: the plain percentile bootstrap says e^-m, the exact sign test 2^-m."""
    chance = [1 - bootstrap(Steps(lost=m, gained=0, rows=1000)).cumulative[999] for m in range(1, 7)]
    assert all(np.exp(-m) < share < 0.5 ** (m - 1) for m, share in enumerate(chance, start=1))


def test_steps_are_counted_by_row() -> None:
    new = np.array([True, True, False, False, True])
    old = np.array([True, False, True, False, False])
    counts = steps(new, old)
    assert (counts.lost, counts.gained, counts.rows) == (1, 2, 5)
    assert counts.difference == pytest.approx(0.2)
