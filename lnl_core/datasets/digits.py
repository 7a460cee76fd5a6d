"""The 1,797 scanned digits of 8 x 8 pixels that ship inside scikit-learn: real data that needs no download.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository, 1998 (its test part).
The labels are right, so every row is verified. scikit-learn's copy has no split: here a fifth of each class is the
test split, chosen by the SHA-256 of the id, so it is the same whatever the seed of a run.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field
from sklearn.datasets import load_digits

from lnl_core.config import Settings
from lnl_core.contracts import Ids, IntArray, QuarantineRow, string_ids
from lnl_core.datasets import DATASETS
from lnl_core.labels.index import Index


class DigitsConfig(Settings):
    """Nothing but the size of the test split."""

    test_share: float = Field(default=0.2, ge=0.0, le=0.9)  # of each class; 359 of 1,797 rows


@DATASETS.register(
    "digits",
    config=DigitsConfig,
    summary="1,797 scanned digits of 8 x 8 pixels from scikit-learn; needs no files",
    source="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI 1998",
)
class Digits:
    """Ids digit-0000 to digit-1796, in scikit-learn's order. Holds 115 kB."""

    def __init__(self, config: DigitsConfig) -> None:
        self._config = config

    def index(self) -> Index:
        label = np.asarray(load_digits().target, dtype=np.int32)
        ids = string_ids([f"digit-{row:04d}" for row in range(len(label))])
        return Index(
            ids=ids,
            observed_label=label,
            true_label=label.copy(),
            verified=np.ones(len(ids), dtype=bool),
            split=_split(ids, label, self._config.test_share),
            class_names=tuple(str(digit) for digit in range(10)),
        )

    def images(self, index: Index, rows: npt.NDArray[np.intp]) -> Iterator[bytes | QuarantineRow]:
        scans = load_digits().images  # [1797, 8, 8], 0..16
        for row in rows:
            number = int(index.ids[row].removeprefix("digit-"))
            yield _png(np.round(scans[number] * (255 / 16)).astype(np.uint8))

    def source_files(self) -> Sequence[str]:
        return ()


def _split(ids: Ids, label: IntArray, test_share: float) -> Ids:
    split = string_ids(["train"] * len(ids))
    key = np.array([hashlib.sha256(name.encode()).hexdigest() for name in ids])
    for digit in range(10):
        rows = np.flatnonzero(label == digit)
        rows = rows[np.argsort(key[rows])]
        split[rows[: round(test_share * len(rows))]] = "test"
    return split


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
