"""Stratified folds that also work where a class has fewer rows than there are folds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def stratified_folds(
    labels: npt.NDArray[np.integer], folds: int, shuffled: npt.NDArray[np.integer]
) -> npt.NDArray[np.intp]:
    """A fold 0..folds-1 for each row: a class goes to the folds row by row, from where the class before it ended.

    Args:
        shuffled: a random permutation of the rows; within a class it sets their order.
    """
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    fold = np.empty(len(labels), dtype=np.intp)
    fold[by_class] = np.arange(len(labels)) % folds
    return fold
