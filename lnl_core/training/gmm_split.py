"""Which rows have small losses: a two-component Gaussian mixture over the rows' losses (Arazo et al. 2019; DivideMix).

Networks learn rightly labelled rows first, so after a warm-up the losses fall into two heaps.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture


def normalise_losses(losses: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
    """Losses scaled to 0..1; all 0 where they do not differ."""
    span = float(np.ptp(losses))
    return (losses - losses.min()) / span if span > 0 else np.zeros_like(losses)


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Two heaps of losses."""

    values: Float[np.ndarray, " rows"]  # the losses, scaled to 0..1
    clean: Float[np.ndarray, " rows"]  # p(component with the smaller mean | loss)
    parameters: Mapping[str, list[float]]  # means, variances, weights, the clean component first; empty: no split


def split_losses(
    losses: Float[np.ndarray, " rows"],
    *,
    random_state: int,
    max_iter: int = 10,
    tol: float = 1e-2,
    reg_covar: float = 5e-4,
    monotone: bool = True,
) -> Mixture:
    """p(component with the smaller mean | loss) of each row. DivideMix Sec. 3.1; its constants are the defaults.

    `monotone`: of two Gaussians the wider one wins on both sides, so the very smallest losses may come out as noisy;
    with it, a loss below the clean mean counts as one at the clean mean. Losses that do not differ, and fewer than
    two rows, distinguish nothing: every row is then clean with probability 1.
    """
    scaled = normalise_losses(losses.astype(np.float64)) if len(losses) else losses.astype(np.float64)
    if len(losses) < 2 or np.ptp(losses) == 0:
        return Mixture(values=scaled, clean=np.ones(len(losses)), parameters={})
    mixture = GaussianMixture(
        n_components=2, max_iter=max_iter, tol=tol, reg_covar=reg_covar, random_state=random_state
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # ten iterations are the method, not a failure
        mixture.fit(scaled[:, None])
    order = np.argsort(mixture.means_[:, 0])
    values = np.maximum(scaled, mixture.means_[order[0], 0]) if monotone else scaled
    return Mixture(
        values=scaled,
        clean=np.asarray(mixture.predict_proba(values[:, None]))[:, order[0]],
        parameters={
            "means": mixture.means_[order, 0].tolist(),
            "variances": mixture.covariances_[order, 0, 0].tolist(),
            "weights": mixture.weights_[order].tolist(),
        },
    )
