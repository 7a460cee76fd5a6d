"""What a noise type gets and gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from lnl_core.config import Settings
from lnl_core.contracts import Ids, IntArray

Counting = Literal["exact", "bernoulli"]
Rows = npt.NDArray[np.intp]


class NoiseConfig(Settings):
    """Base of the noise types' settings: what the protocol card says, where a type has more to say than its fields."""

    @property
    def protocol_name(self) -> str | None:
        """The variant of the type, which must be the same wherever numbers are compared."""
        return getattr(self, "protocol", None)

    @property
    def counting_name(self) -> str | None:
        """exact or bernoulli; None where nothing is counted."""
        return getattr(self, "counting", None)

    @property
    def nominal_rate(self) -> float | None:
        """None where the type has no rate of its own."""
        return getattr(self, "rate", None)


@dataclass(frozen=True, kw_only=True)
class NoiseSource:
    """The rows to be noised, sorted by id."""

    ids: Ids  # [n]
    true_label: IntArray  # [n]
    class_names: tuple[str, ...]
    pixels: Callable[
        [], Iterator[tuple[Ids, npt.NDArray[np.uint8]]]
    ]  # batches [b, C, H, W]; instance noise alone reads it


class NoiseFunction(Protocol):
    """`(source, config, generator) -> noisy labels [n]`. Never changes `source`; draws from `generator` alone."""

    def __call__(self, source: NoiseSource, config: Any, generator: np.random.Generator) -> IntArray: ...


def chosen_in_classes(
    label: IntArray, classes: Iterable[int], rate: float, counting: Counting, generator: np.random.Generator
) -> Rows:
    """A share `rate` of the rows of each of `classes`, sorted; drawn class by class in the given order."""
    by_class = [np.flatnonzero(label == number) for number in classes]
    chosen = [chosen_rows(rows, rate, counting, generator) for rows in by_class]
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, dtype=np.intp)


def chosen_rows(rows: Rows, rate: float, counting: Counting, generator: np.random.Generator) -> Rows:
    """A share `rate` of `rows`, sorted: exactly round(rate * n) of them, or each with chance `rate`."""
    if counting == "bernoulli":
        return rows[generator.random(len(rows)) < rate]
    return np.sort(generator.permutation(rows)[: round(rate * len(rows))])
