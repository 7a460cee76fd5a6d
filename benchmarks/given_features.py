"""An encoder that looks features up by pixels: it stands for a user's own encoder in `reclean.py`.

`features.encoder: given_features:encoder` with this folder on PYTHONPATH, LNL_TEST_DATA and LNL_BENCH_WORK set. Held:
60,000 x 512 in float16. Images with the same pixels have the feature of the first of them.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from lnl_core.config import ImageSettings
from lnl_core.files import atomic_path
from lnl_core.images.decode import decode_image, to_array

SETTINGS = ImageSettings(size=32, channels=3)


class GivenFeatures:
    """Called with images [batch, 3, 32, 32] in 0..1, gives features [batch, 512]."""

    fingerprint = "cifar10_features.parquet, found by pixels"  # stated: nothing has to be hashed to know it

    def __init__(self, folder: Path, known: Path) -> None:
        """`known`: where the hashes of all pixels are kept, so that only the first call decodes them."""
        table = pq.read_table(folder / "cifar10_features.parquet", columns=["index", "feature"])
        values = table["feature"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        self.features = values.reshape(len(table), -1)
        row = {index: place for place, index in enumerate(table["index"].to_pylist())}
        if not known.exists():
            _write_hashes(folder, known)
        hashes = pq.read_table(known).to_pydict()
        self.row: dict[bytes, int] = {}
        for index, key in zip(hashes["index"], hashes["key"], strict=True):
            self.row.setdefault(key, row[index])

    def __call__(self, images: Tensor) -> Tensor:
        pixels = (images * 255).round().to(torch.uint8).contiguous(memory_format=torch.contiguous_format).numpy()
        return torch.from_numpy(self.features[[self.row[_key(image)] for image in pixels]].astype(np.float32))


def encoder() -> GivenFeatures:
    """The encoder of the folder LNL_TEST_DATA."""
    return GivenFeatures(Path(os.environ["LNL_TEST_DATA"]), Path(os.environ["LNL_BENCH_WORK"]) / "pixel-hashes.parquet")


def _write_hashes(folder: Path, known: Path) -> None:
    images = pq.read_table(folder / "cifar10.parquet", columns=["index", "image"])
    keys = [_key(to_array(decode_image(image), SETTINGS)) for image in images["image"].to_pylist()]
    with atomic_path(known) as temporary:
        pq.write_table(pa.table({"index": images["index"], "key": keys}), temporary)


def _key(pixels: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(pixels).tobytes(), digest_size=16).digest()
