"""Stratified folds that also work where a class has fewer rows than there are folds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def stratified_folds(
    labels: npt.NDArray[np.integer], folds: int, generator: np.random.Generator
) -> npt.NDArray[np.intp]:
    """A fold number for each row: within each class the rows are shuffled and dealt out in turn.

    Dealing goes on where the last class ended, so that small classes do not all fall into fold 0.
    """
    order = np.lexsort((generator.random(len(labels)), labels))
    fold = np.empty(len(labels), dtype=np.intp)
    fold[order] = np.arange(len(labels)) % folds
    return fold
