"""Thumbnails out of shards: the wanted ones, at a bounded cost, whatever the image."""

from __future__ import annotations

import base64
import hashlib
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image

from lnl_core.contracts import IMAGES, ContractError
from lnl_core.report.thumbnails import LARGEST, Thumbnail, thumbnail, thumbnails


def encoded(pixels: np.ndarray, kind: str = "PNG", mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, kind)
    return buffer.getvalue()


def digit(row: int) -> np.ndarray:
    return np.round(load_digits().images[row] * (255 / 16)).astype(np.uint8)


def opened(image: Thumbnail) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(image.uri.split(",")[1])))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    for part in range(3):
        rows = range(part * 20, part * 20 + 20)
        images = [encoded(digit(row)) for row in rows]
        columns = [
            pa.array([f"digit-{row:04d}" for row in rows], pa.string()),
            pa.array(images, pa.binary()),
            pa.array([8] * 20, pa.int32()),
            pa.array([8] * 20, pa.int32()),
            pa.array([hashlib.sha256(image).hexdigest() for image in images], pa.string()),
        ]
        path = tmp_path / f"part-{part:05d}.parquet"
        pq.write_table(pa.Table.from_arrays(columns, schema=IMAGES), path, row_group_size=5)
    return tmp_path


def test_the_pixels_are_the_images(shards: Path) -> None:
    found = thumbnails(shards, ["digit-0003", "digit-0041", "no-such-id"])
    assert sorted(found) == ["digit-0003", "digit-0041"]
    image = found["digit-0041"]
    assert (image.width, image.height, image.pixelated) == (8, 8, True)
    assert (np.asarray(opened(image).convert("L")) == digit(41)).all()


def test_only_row_groups_with_a_wanted_id_are_read(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, list[str]]] = []
    true_read = pq.ParquetFile.read_row_group

    def spy(self: pq.ParquetFile, group: int, columns: list[str]) -> pa.Table:
        read.append((group, columns))
        return true_read(self, group, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", spy)
    thumbnails(shards, ["digit-0027"])
    assert [group for group, columns in read if "image" in columns] == [1]
    assert len(read) == 2


def test_photographs_become_small() -> None:
    photo = load_sample_image("china.jpg")  # 640 x 427
    for kind, mode in (("JPEG", None), ("JPEG", "CMYK"), ("PNG", None)):
        image = thumbnail(encoded(photo, kind, mode))
        assert image is not None
        assert (image.width, image.height, image.pixelated) == (640, 427, False)
        assert max(opened(image).size) == LARGEST
        assert len(image.uri) < 20_000


def test_what_does_not_decode_has_no_thumbnail() -> None:
    assert thumbnail(b"no image") is None
    assert thumbnail(b"") is None


def test_no_ids_and_no_folder(tmp_path: Path) -> None:
    assert thumbnails(tmp_path / "missing", ["a"]) == {}
    assert thumbnails(tmp_path, []) == {}
    with pytest.raises(ContractError, match="has no part-"):
        thumbnails(tmp_path, ["a"])
