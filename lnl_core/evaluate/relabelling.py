"""What purification did to the labels: was each change a gain, and how doubtful is each observed label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True, kw_only=True)
class Relabelling:
    """Every row falls into exactly one of these; the counts add up to the rows."""

    right_kept: int
    wrong_to_right: int
    right_to_wrong: int
    wrong_to_wrong: int  # changed, but to another wrong class
    wrong_kept: int


def relabelling(
    true: Int[np.ndarray, " rows"], observed: Int[np.ndarray, " rows"], purified: Int[np.ndarray, " rows"]
) -> Relabelling:
    """Count the five fates of a label."""
    before, after, changed = observed == true, purified == true, observed != purified
    return Relabelling(
        right_kept=int((before & after).sum()),
        wrong_to_right=int((~before & after).sum()),
        right_to_wrong=int((before & ~after).sum()),
        wrong_to_wrong=int((~before & ~after & changed).sum()),
        wrong_kept=int((~before & ~after & ~changed).sum()),
    )


def suspicion(
    soft_label: Float[np.ndarray, "rows classes"], observed: Int[np.ndarray, " rows"]
) -> Float[np.ndarray, " rows"]:
    """p(the observed label is wrong) = 1 - soft_label[observed], in 0..1."""
    kept = soft_label[np.arange(len(observed)), observed].astype(np.float64)
    return np.asarray(np.clip(1.0 - kept, 0.0, 1.0))
