"""The split by loss: against scikit-learn used directly, and against Bayes' rule looped by hand."""

import math

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from lnl_core.training.gmm_split import normalise_losses, split_losses


def two_heaps(seed=0):
    draw = np.random.default_rng(seed)
    return np.concatenate([draw.gamma(2.0, 0.1, 400), draw.normal(3.0, 0.4, 600)])


def fitted(losses):
    values = ((losses - losses.min()) / (losses.max() - losses.min()))[:, None]
    mixture = GaussianMixture(n_components=2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=3).fit(values)
    return mixture, values


@pytest.mark.parametrize("seed", range(3))
def test_is_scikit_learns_mixture(seed):
    losses = two_heaps(seed)
    mixture, values = fitted(losses)
    expected = mixture.predict_proba(values)[:, mixture.means_.argmin()]
    assert np.allclose(split_losses(losses, random_state=3, monotone=False).clean, expected, atol=1e-12)


def test_is_bayes_rule():
    losses = two_heaps()
    mixture, values = fitted(losses)
    clean, noisy = np.argsort(mixture.means_[:, 0])
    for row in range(0, len(losses), 97):
        joint = {}
        for part in (clean, noisy):
            variance = mixture.covariances_[part, 0, 0]
            distance = values[row, 0] - mixture.means_[part, 0]
            joint[part] = mixture.weights_[part] * math.exp(-(distance**2) / (2 * variance)) / math.sqrt(variance)
        expected = joint[clean] / (joint[clean] + joint[noisy])
        found = split_losses(losses, random_state=3, monotone=False).clean[row]
        assert found == pytest.approx(expected, abs=1e-9)


def test_monotone_never_calls_the_smallest_losses_noisy():
    draw = np.random.default_rng(0)
    losses = np.sort(np.concatenate([draw.normal(2.0, 0.05, 600), draw.normal(4.0, 1.0, 400)]))
    plain = split_losses(losses, random_state=0, monotone=False).clean
    fixed = split_losses(losses, random_state=0).clean
    assert plain[0] < 1e-3  # the trap: the smallest loss of all counts as noisy
    assert fixed[0] == fixed.max() > 0.9
    assert (np.diff(fixed) < 1e-12).all()
    high = losses > 3
    assert np.array_equal(fixed[high], plain[high])


def test_scale_and_shift_of_the_losses_do_not_matter():
    losses = two_heaps()
    assert np.allclose(
        split_losses(losses, random_state=0).clean, split_losses(7 * losses + 5, random_state=0).clean, atol=1e-9
    )


@pytest.mark.parametrize("losses", [[], [0.3], [0.3, 0.3, 0.3]])
def test_losses_without_information_call_nothing_noisy(losses):
    assert split_losses(np.array(losses), random_state=0).clean.tolist() == [1.0] * len(losses)


def test_two_rows():
    assert np.isfinite(split_losses(np.array([0.1, 2.0]), random_state=0).clean).all()


def test_normalised_losses():
    assert normalise_losses(np.array([1.0, 3.0, 2.0])).tolist() == [0.0, 1.0, 0.5]
    assert normalise_losses(np.array([2.0, 2.0])).tolist() == [0.0, 0.0]
