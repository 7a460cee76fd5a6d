"""The discriminant from moments against scikit-learn on the rows, by hand, and without a class or without rows."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from lnl_core.statistics.discriminant import fit_discriminant
from lnl_core.statistics.moments import Moments, accumulate


def moments(features: np.ndarray, label: np.ndarray, classes: int) -> Moments:
    halves = np.array_split(np.arange(len(label)), 2)
    batches = [(slice(rows[0], rows[-1] + 1), features[rows].astype(np.float32)) for rows in halves]
    return accumulate(batches, label.astype(np.int32), features.shape[1], classes)


def test_one_feature_by_hand() -> None:
    """Means -1 and 1, variance 1 within: log odds are 2x + log(prior odds), here log(2 / 4)."""
    features = np.array([[0.0], [-2.0], [0.0], [-2.0], [2.0], [0.0]])
    found = fit_discriminant(moments(features, np.array([0, 0, 0, 0, 1, 1]), 2), shrinkage=1e-9)
    probability = found.probabilities(np.array([[0.0], [3.0]]))[:, 1]
    odds = np.log(probability / (1 - probability))
    np.testing.assert_allclose(odds, [np.log(0.5), 6 + np.log(0.5)], rtol=1e-6)


def test_it_is_sklearns_on_rows() -> None:
    features, label = load_digits(return_X_y=True)
    features = features + np.random.default_rng(0).normal(0, 0.5, features.shape)  # no constant pixel
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(features, label)
    ours = fit_discriminant(moments(features, label, 10), shrinkage=1e-9)
    np.testing.assert_allclose(ours.probabilities(features), theirs.predict_proba(features), atol=2e-3)


def test_a_class_without_rows_is_never_said_and_constant_features_do_no_harm() -> None:
    features, label = load_digits(return_X_y=True)
    features = np.hstack([features, np.full((len(label), 3), 7.0)])
    said = fit_discriminant(moments(features[label != 3], label[label != 3], 10), 0.01).probabilities(features)
    assert np.isfinite(said).all()
    assert not said[:, 3].any()
    assert (said.argmax(axis=1) == label)[label != 3].mean() > 0.9


def test_no_rows() -> None:
    empty = Moments(rows=0, total=np.zeros(2), gram=np.zeros((2, 2)), cross=np.zeros((2, 3)), counts=np.zeros(3))
    with pytest.raises(ValueError, match="at least one row"):
        fit_discriminant(empty, 0.1)
