"""The labels that a training method learned from, with the truth about them: what its trace speaks of."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Int

from lnl_core.contracts import NO_LABEL, Ids, Labels, Purified, Truth, positions
from lnl_core.evaluate.confusion import confusion, row_shares
from lnl_core.evaluate.labels import true_labels


@dataclass(frozen=True, kw_only=True)
class LearnedLabels:
    """The train rows that are not trusted, and the label that each was learned with."""

    ids: Ids
    label: Int[np.ndarray, " rows"]  # observed, or purified
    observed: Int[np.ndarray, " rows"]
    true: Int[np.ndarray, " rows"]  # NO_LABEL where unknown
    classes: int

    @property
    def known(self) -> Bool[np.ndarray, " rows"]:
        return np.asarray(self.true != NO_LABEL)

    @functools.cached_property
    def _lookup(self) -> pa.Array:
        return pa.array(self.ids, pa.string())

    def rows_of(self, ids: Ids) -> npt.NDArray[np.intp]:
        """Row number of each id; -1 for one that is none of these rows, as a trusted row that was added is."""
        found = pc.index_in(pa.array(ids, pa.string()), value_set=self._lookup)
        return np.asarray(found.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.intp)


def learned_labels(kind: str, labels: Labels, purified: Purified, truth: Truth) -> LearnedLabels:
    """`kind`: the setting train.labels. Purified labels are meant as they are applied: observed where under review."""
    rows = labels.where(split="train", trusted=False)
    ids, observed = labels.ids[rows], labels.label[rows]
    learned = observed
    if kind != "observed":
        learned = purified.applied_label[positions(ids, purified.ids, "purified.parquet")]
    true = true_labels(ids, truth)
    return LearnedLabels(ids=ids, label=learned, observed=observed, true=true, classes=len(labels.class_names))


def learned_transition(learned: LearnedLabels) -> Float[np.ndarray, "classes classes"] | None:
    """Realised T[true, learned label]; NaN rows for classes without rows; None without truth."""
    known = learned.known
    if not known.any():
        return None
    return row_shares(confusion(learned.true[known], learned.label[known], learned.classes))
