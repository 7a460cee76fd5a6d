"""Leverage of ridge regression: how much a row's own label counts in its prediction, h = x' A^-1 x.

Exact where features are few. Beyond that it would cost as much as the Gram matrix and more than all the rest, so a
random projection that keeps lengths stands in (Johnson & Lindenstrauss 1984; for leverage: Drineas et al., JMLR 2012):
h is then right to about sqrt(2 / 256) = 9 %, of a number that is small wherever the rows are many.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lnl_core.contracts import FloatArray

Array = npt.NDArray[np.float64]
_BLOCK = 8192  # rows at a time
_PROJECTED = 256
_EXACT = 512  # features up to which nothing is projected
_LARGEST_MEAN = 0.1  # above, 9 % of a row's leverage is too much to be wrong by


@dataclass(frozen=True, kw_only=True)
class Leverage:
    """h(x) = |((x - shift) * scale)' root|^2."""

    shift: Array  # [d]
    scale: Array  # [d]
    root: Array  # [d, r] with root root' = A^-1, or near it

    @classmethod
    def of(cls, root: Array, mean: float, *, shift: Array, scale: Array, generator: np.random.Generator) -> Leverage:
        """From an exact root [d, d] and the mean leverage of the rows."""
        width = len(root)
        if width > _EXACT and mean < _LARGEST_MEAN:
            root = root @ (generator.standard_normal((width, _PROJECTED)) / np.sqrt(_PROJECTED))
        return cls(shift=shift, scale=scale, root=root)

    def __call__(self, features: FloatArray) -> Array:
        """[b, d] -> [b], below 1."""
        folded = (self.scale[:, None] * self.root).astype(np.float32)
        constant = ((self.shift * self.scale) @ self.root).astype(np.float32)
        found = np.empty(len(features))
        for start in range(0, len(features), _BLOCK):
            rows = slice(start, start + _BLOCK)
            rotated = features[rows] @ folded
            rotated -= constant
            found[rows] = np.einsum("bd,bd->b", rotated, rotated)
        return np.minimum(found, 0.999)

    def on_standardised(self, shift: Array, scale: Array) -> Leverage:
        """The same for features given as (x - shift) * scale."""
        deviation = np.divide(1.0, scale, out=np.ones_like(scale), where=scale > 0)
        return Leverage(shift=(self.shift - shift) / deviation, scale=deviation * self.scale, root=self.root)
