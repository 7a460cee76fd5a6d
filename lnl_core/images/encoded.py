"""Images that stay encoded and are decoded batch by batch: for sets whose pixels fit neither memory nor disk.

A million photographs at 224 px are 150 GB of pixels and some 20 GB of JPEG. The encoded bytes are copied once from the
Parquet shards into one file, in which each image can be found; a batch is read from there and decoded on threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
from jaxtyping import UInt8
from torch import Tensor

from lnl_core.config import ImageSettings
from lnl_core.contracts import ContractError, Ids
from lnl_core.files import atomic_path
from lnl_core.images.decode import BrokenImage, decode_image, map_images, to_array
from lnl_core.progress import progress_bar

Decoded = UInt8[Tensor, "batch channels height width"]
CPU = torch.device("cpu")


@dataclass(frozen=True)
class EncodedPixels:
    """Gives `pixels[rows]` and `pixels[start:stop]` as a uint8 tensor does, by decoding. Holds 16 bytes a row."""

    data: npt.NDArray[np.uint8]  # the file, memory-mapped
    spans: npt.NDArray[np.int64]  # [rows, 2] first and last byte of each image
    ids: Ids
    settings: ImageSettings

    def __len__(self) -> int:
        return len(self.spans)

    @property
    def shape(self) -> torch.Size:
        side = self.settings.size
        return torch.Size((len(self), self.settings.channels, side, side))

    @property
    def device(self) -> torch.device:
        """Where the decoded batches are."""
        return CPU

    @property
    def nbytes(self) -> int:
        """What all pixels would take."""
        return self.shape.numel()

    def numel(self) -> int:
        return self.shape.numel()

    def part(self, start: int, stop: int) -> EncodedPixels:
        """The rows from `start` to before `stop`, still encoded."""
        return EncodedPixels(self.data, self.spans[start:stop], self.ids[start:stop], self.settings)

    def __getitem__(self, rows: Tensor | slice) -> Decoded:
        """Decode these rows.

        Raises:
            ContractError: an image that does not decode; `prepare` sets such images aside.
        """
        wanted = np.arange(len(self))[rows] if isinstance(rows, slice) else rows.numpy()
        arrays = map_images(self._decode, [self.data[slice(*self.spans[row])].tobytes() for row in wanted])
        result = np.empty((len(wanted), *self.shape[1:]), dtype=np.uint8)
        for place, array in enumerate(arrays):
            if isinstance(array, BrokenImage):
                raise ContractError(f"image {self.ids[wanted[place]]!r}: {array}; run the stage prepare again")
            result[place] = array
        return torch.from_numpy(result)

    def _decode(self, encoded: bytes) -> npt.NDArray[np.uint8] | BrokenImage:
        try:
            return to_array(decode_image(encoded), self.settings)
        except BrokenImage as error:
            return error


Pixels = UInt8[Tensor, "_ _ _ _"] | EncodedPixels  # [rows, channels, height, width]


def write_encoded(path: Path, shards: list[Path], target: npt.NDArray[np.int64]) -> None:
    """Copy the encoded images of the shards into `path`, the spans into `path`.spans.npy; holds one row group.

    Args:
        target: [images in shard order] row of each image, or -1 where it is not wanted.
    """
    spans = np.zeros((int((target >= 0).sum()), 2), dtype=np.int64)
    start, end = 0, 0
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        with progress_bar("copying images", len(spans), "images") as advance:
            for shard in shards:
                reader = pq.ParquetFile(shard)
                for group in range(reader.num_row_groups):
                    rows = reader.metadata.row_group(group).num_rows
                    keep = np.flatnonzero(target[start : start + rows] >= 0)
                    images = reader.read_row_group(group, columns=["image"])["image"].take(keep).to_pylist()
                    ends = end + np.cumsum([len(image) for image in images], dtype=np.int64)
                    spans[target[start + keep], 1] = ends
                    spans[target[start + keep], 0] = ends - [len(image) for image in images]
                    file.write(b"".join(images))
                    start, end = start + rows, int(ends[-1]) if len(ends) else end
                    advance(len(keep))
        with atomic_path(spans_path(path)) as spans_file, spans_file.open("wb") as output:
            np.save(output, spans)


def open_encoded(path: Path, ids: Ids, settings: ImageSettings) -> EncodedPixels:
    """What `write_encoded` has written."""
    return EncodedPixels(np.memmap(path, np.uint8, "r"), np.load(spans_path(path)), ids, settings)


def spans_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.spans.npy")
