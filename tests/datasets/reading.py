"""What the tests of the readers share: small images, files, and what a reader gives as a dictionary."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lnl_core.config import parse
from lnl_core.contracts import QuarantineRow
from lnl_core.datasets import DATASETS
from lnl_core.labels.index import Dataset, Index


def jpeg(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 8), (value, 255 - value, 9)).save(buffer, "JPEG")
    return buffer.getvalue()


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def reader(name: str, **settings: Any) -> Dataset:
    entry = DATASETS.get(name)
    return entry.make(parse(entry.config, settings, f"prepare.{name}"))


def as_dict(index: Index) -> dict[str, tuple[int, int, bool, str]]:
    columns = (index.observed_label, index.true_label, index.verified, index.split)
    return {name: (int(o), int(t), bool(v), s) for name, o, t, v, s in zip(index.ids, *columns, strict=True)}


def images_of(dataset: Dataset, index: Index) -> dict[str, bytes | QuarantineRow]:
    """In order of id, as the stage asks for them."""
    rows = np.argsort(index.ids)
    return dict(zip(index.ids[rows], dataset.images(index, rows), strict=True))
