"""Ridge regression onto one-hot labels for every penalty at once, from one eigendecomposition of the Gram matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class RidgePath:
    """G = Q diag(g) Q' with G = F'F and Q'F'Y, so that any penalty costs only thin products."""

    basis: Array  # [d, d] Q
    spectrum: Array  # [d] g >= 0
    cross: Array  # [d, K] Q'F'Y

    @classmethod
    def of(cls, gram: Array, cross: Array) -> RidgePath:
        spectrum, basis = np.linalg.eigh(gram)
        return cls(basis=basis, spectrum=np.maximum(spectrum, 0.0), cross=basis.T @ cross)

    def weights(self, penalty: float, correction: Array | None = None) -> Array:
        """(G + penalty I)^-1 (F'Y + Q correction): [d, K] in the original coordinates.

        Args:
            correction: [d, K] what is added to Q'F'Y, in the coordinates of the basis.
        """
        right = self.cross if correction is None else self.cross + correction
        return np.asarray(self.basis @ (right / (self.spectrum + penalty)[:, None]))
