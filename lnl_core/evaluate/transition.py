"""The transition matrix T[true, observed] = p(observed label | true label), true against estimated."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def transition_error(
    true: Float[np.ndarray, "classes classes"], estimated: Float[np.ndarray, "classes classes"]
) -> float | None:
    """Mean absolute difference of the entries, over the rows of `true` that are known (not NaN); None without any."""
    known = np.isfinite(true).all(axis=1)
    return float(np.abs(true[known] - estimated[known]).mean()) if known.any() else None
