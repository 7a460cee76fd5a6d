"""What a purifier gets and gives. Nothing here holds a true label."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from jaxtyping import UInt8
from torch import Tensor, nn

from lnl_core.contracts import FloatArray, IntArray
from lnl_core.execution.shards import IN_PROCESS, Execution
from lnl_core.runtime import Runtime
from lnl_core.statistics.moments import Moments, accumulate


@runtime_checkable
class FeatureRows(Protocol):
    """Features of rows in a fixed order that can be streamed as often as needed: an array, or a cache on disk."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, width)."""
        ...

    def batches(self) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
        """Contiguous row ranges in order with their features [b, d] in float32."""
        ...


Place = tuple[slice, FeatureRows]  # some of the rows, and where they stand among all


@runtime_checkable
class PartedRows(FeatureRows, Protocol):
    """Rows in parts that can be read apart from each other, in other processes too."""

    def parts(self) -> list[Place]:
        """The parts in order; batches of a part are those that the whole gives of it."""
        ...


def parts_of(rows: FeatureRows) -> list[Place]:
    """The parts of the rows; where they have none, all of them are one."""
    return rows.parts() if isinstance(rows, PartedRows) else [(slice(0, rows.shape[0]), rows)]


Start = Literal["simclr", "scratch"]


@dataclass(frozen=True, kw_only=True)
class TaskImages:
    """The images of the rows, and what a method needs that trains networks on them. Only the pipeline has them."""

    noisy: UInt8[Tensor, "rows channels height width"]  # in memory or memory-mapped
    trusted: UInt8[Tensor, "trusted channels height width"]
    flip: bool  # may weak augmentation mirror?
    new_backbone: Callable[[Start, int], nn.Module]  # (start, seed) -> an encoder with its `width`, on the CPU
    runtime: Runtime
    checkpoint: Path  # file for the state of an unfinished run
    fingerprint: str  # of the images, labels, encoder and shared settings that a checkpoint belongs to


@dataclass(frozen=True, kw_only=True)
class PurifyTask:
    """The noisy rows and the trusted set, disjoint."""

    noisy: FeatureRows  # [n, d]
    observed: IntArray  # [n]
    trusted: FloatArray  # [m, d] features of the trusted rows; m may be 0
    trusted_label: IntArray  # [m] verified
    trusted_observed: IntArray  # [m] what the source had said; NO_LABEL where unknown
    classes: int
    second_view: FeatureRows | None = None  # [n, d2] another augmentation of the same rows, for methods that read two
    trusted_second_view: FloatArray | None = None  # [m, d2]
    images: Callable[[], TaskImages] | None = None  # loads them when a method asks; None: there are features alone
    sums: Callable[[], Moments] | None = None  # over the noisy rows by observed label, of a caller who keeps them
    execution: Execution = IN_PROCESS  # where work on the parts of the noisy rows is done

    def moments(self) -> Moments:
        """Sums over the noisy rows by observed label: the caller's, or one pass over the features."""
        if self.sums is not None:
            return self.sums()
        return accumulate(self.noisy.batches(), self.observed, self.noisy.shape[1], self.classes)


@dataclass(frozen=True, kw_only=True)
class Purification:
    """What a purifier gives for the noisy rows."""

    posterior: FloatArray  # [n, K] p(true label | features, observed label); rows sum to 1
    metrics: Mapping[str, Any]  # numbers and small tables for metrics.json
    curve: tuple[Mapping[str, int | float], ...] = ()  # one record a step, for the report
    trusted_posterior: FloatArray | None = None
    """[m, K] out of fold: p(true label | features, observed label) of each trusted row by a fit that did not see its
    verified label; without the observed label as evidence where that is unknown. None: the method leaves it to the
    caller to fit it again on folds."""


@runtime_checkable
class Purifier(Protocol):
    """`(task, config, generator) -> Purification`."""

    def __call__(self, task: PurifyTask, config: Any, generator: np.random.Generator) -> Purification: ...
