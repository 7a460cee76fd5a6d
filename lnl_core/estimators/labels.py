"""Labels as a caller has them, ints or names with gaps, to class numbers and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from lnl_core.contracts import NO_LABEL, ContractError, IntArray
from lnl_core.labels.class_labels import label_text

MISSING = -1  # an int label that says that there is none, as in sklearn.semi_supervised


@dataclass(frozen=True, kw_only=True)
class GivenLabels:
    """One label a row in the caller's own type."""

    values: npt.NDArray[Any]  # [n]; meaningless where not known
    known: npt.NDArray[np.bool_]  # [n]
    what: str  # its name in messages

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def of(cls, labels: Any, what: str) -> GivenLabels:
        """Numpy, torch or a sequence of ints or names; -1, None, NaN and the empty text say that there is no label."""
        array = labels.numpy(force=True) if isinstance(labels, torch.Tensor) else np.asarray(labels)
        array = np.empty(0, dtype=int) if array.size == 0 else column_or_1d(array, warn=True)
        known = _known(array)
        present = np.asarray(array[known].tolist()) if array.dtype.kind == "O" else array[known]
        if len(present):
            check_classification_targets(present)
        if present.dtype.kind == "f":
            present = present.astype(np.int64)  # whole numbers, or the check above had raised
        values = np.zeros(len(array), dtype=present.dtype)
        values[known] = present
        return cls(values=values, known=known, what=what)

    def numbers(self, classes: npt.NDArray[Any]) -> IntArray:
        """Class numbers [n] in `classes` (sorted), `NO_LABEL` where there is no label.

        Raises:
            ContractError: a label that is no class.
        """
        found = np.full(len(self), NO_LABEL, dtype=np.int32)
        present = self.values[self.known]
        if len(present) == 0:
            return found
        places = np.minimum(np.searchsorted(classes, present), len(classes) - 1)
        wrong = np.flatnonzero(classes[places] != present)
        if len(wrong):
            row = int(np.flatnonzero(self.known)[wrong[0]])
            raise ContractError(
                f"{self.what}: row {row}: label {self.values[row]} is no class ({len(wrong)} such rows); allowed are "
                f"{_shown(classes)}; correct it or name all classes: fit(..., classes=...)"
            )
        found[self.known] = places
        return found


def classes_of(given: Any | None, *columns: GivenLabels) -> npt.NDArray[Any]:
    """Sorted class labels: those given, or those that occur.

    Raises:
        ContractError: names here and numbers there.
    """
    present = {column.what: column.values[column.known] for column in columns if column.known.any()}
    if given is not None:
        present["classes"] = np.asarray(given)
    names = {what for what, values in present.items() if values.dtype.kind in "US"}
    if names and len(names) < len(present):
        numbers = sorted(present.keys() - names)
        raise ContractError(f"{sorted(names)[0]} are names and {numbers[0]} are numbers; write the classes in one way")
    if given is not None:
        return np.unique(present["classes"])
    return np.unique(np.concatenate(list(present.values()))) if present else np.empty(0, dtype=np.int64)


def _known(labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Where something is written [n]."""
    if labels.dtype.kind == "i":
        return np.asarray(labels != MISSING)
    if labels.dtype.kind == "f":
        return np.asarray(~np.isnan(labels) & (labels != MISSING))
    if labels.dtype.kind in "OUS":
        return np.array([label_text(value) != "" for value in labels], dtype=bool)
    return np.ones(len(labels), dtype=bool)


def _shown(classes: npt.NDArray[Any]) -> str:
    return ", ".join(str(name) for name in classes[:10]) + (", ..." if len(classes) > 10 else "")
