"""A look at a dataset before anything is written: how many rows of what kind, what is set aside, do images decode?"""

from __future__ import annotations

import collections
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lnl_core.config import ConfigError
from lnl_core.contracts import NO_LABEL, SPLITS, QuarantineRow
from lnl_core.datasets import DATASETS
from lnl_core.images.decode import BrokenImage, decode_image
from lnl_core.labels.index import Dataset, Index
from lnl_core.stages.prepare import PrepareSettings

Line = tuple[str, str]
SHOWN = 20  # names of classes


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """What the sampled images are; `faults` are those that prepare would set aside."""

    images: int
    mean_bytes: float
    mean_width: float
    mean_height: float
    faults: tuple[QuarantineRow, ...]


def check_source(settings: PrepareSettings, sample: int) -> list[Line]:
    """Names and values to print. Reads the index and `sample` images, evenly distributed over the ids.

    Raises:
        ConfigError, ContractError: as the reader does.
    """
    dataset = DATASETS.get(settings.dataset).make(settings.options[settings.dataset])
    if not isinstance(dataset, Dataset):
        raise ConfigError(f"prepare.dataset = {settings.dataset!r}: a crawl has no index; ask `lnl crawl status`")
    index = dataset.index()
    lines = [*_rows(index), *_set_aside("set aside by the lists", index.quarantined)]
    if sample and len(index):
        found = _look_at(dataset, index, sample)
        lines += _set_aside(f"set aside of {found.images:,} images looked at", found.faults)
        lines += _sizes(found, len(index))
    return lines


def _rows(index: Index) -> Iterator[Line]:
    yield (
        "classes",
        f"{len(index.class_names)}: {', '.join(index.class_names[:20])}" + "..." * (len(index.class_names) > 20),
    )
    for split in SPLITS:
        rows = index.split == split
        yield f"{split} rows", f"{np.count_nonzero(rows):,}{_fewest(index, rows)}"
    verified = (index.split == "train") & index.verified & (index.true_label != NO_LABEL)
    both = np.count_nonzero(verified & (index.observed_label != NO_LABEL))
    yield "train rows that may be trusted", f"{np.count_nonzero(verified):,}, {both:,} of them with an observed label"


def _fewest(index: Index, rows: npt.NDArray[np.bool_]) -> str:
    label = np.where(index.observed_label != NO_LABEL, index.observed_label, index.true_label)[rows]
    counts = np.bincount(label[label != NO_LABEL], minlength=len(index.class_names))
    if not len(label):
        return ""
    return f", {counts.min():,} to {counts.max():,} a class"


def _set_aside(what: str, rows: tuple[QuarantineRow, ...]) -> Iterator[Line]:
    reasons = collections.Counter(row.reason for row in rows)
    counted = ", ".join(f"{reason} {count:,}" for reason, count in sorted(reasons.items()))
    yield what, f"{len(rows):,}" + (f" ({counted})" if rows else "")
    if rows:
        yield "the first of them", f"{rows[0].id or rows[0].path}: {rows[0].detail}"


def _look_at(dataset: Dataset, index: Index, sample: int) -> Sampled:
    order = np.argsort(index.ids, kind="stable")
    rows = order[np.unique(np.linspace(0, len(order) - 1, sample).round().astype(np.intp))]
    faults: list[QuarantineRow] = []
    sizes: list[tuple[int, int, int]] = []
    for name, image in zip(index.ids[rows], dataset.images(index, rows), strict=True):
        if isinstance(image, QuarantineRow):
            faults.append(image)
            continue
        try:
            sizes.append((len(image), *decode_image(image).size))
        except BrokenImage as error:
            faults.append(QuarantineRow(stage="prepare", reason=error.reason, detail=error.detail, id=name))
    means = np.mean(sizes, axis=0) if sizes else np.zeros(3)
    return Sampled(
        images=len(rows), mean_bytes=means[0], mean_width=means[1], mean_height=means[2], faults=tuple(faults)
    )


def _sizes(found: Sampled, rows: int) -> Iterator[Line]:
    good = found.images - len(found.faults)
    if good:
        about = f"{found.mean_width:.0f} x {found.mean_height:.0f} pixels, {found.mean_bytes / 1e3:.1f} kB"
        yield "an image on average", about
        yield "images of all rows, about", f"{found.mean_bytes * rows * good / found.images / 1e9:.2f} GB"
