"""Encoded images give rows and slices as the tensor of their pixels does."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from lnl_core.config import ImageSettings
from lnl_core.contracts import ContractError, string_ids
from lnl_core.images.encoded import EncodedPixels
from lnl_core.images.shards import write_shard
from lnl_core.images.store import load_images, open_pixels
from lnl_core.models.normalise import pixel_statistics

SETTINGS = ImageSettings(size=160, channels=3)  # 40 images: 3 MB


def png(seed):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    for part in range(2):
        seeds = range(part * 25, part * 25 + 25)
        write_shard(tmp_path / f"part-{part:05d}.parquet", [f"i{s:02d}" for s in seeds], map(png, seeds), "prepare")
    return tmp_path


def opened(folder, ids, **limits):
    return open_pixels(folder, SETTINGS, ids=ids, scratch=folder / "scratch", **limits)


def test_every_way_of_asking_gives_the_same_pixels(folder):
    ids = string_ids([f"i{s:02d}" for s in np.random.default_rng(0).permutation(50)[:40]])
    encoded = opened(folder, ids, memory_mb=1, disk_mb=1)
    assert isinstance(encoded, EncodedPixels)
    plain = load_images(folder, SETTINGS, ids=ids, scratch=folder, memory_mb=100).pixels
    assert encoded.shape == plain.shape
    assert len(encoded) == 40
    assert torch.equal(encoded[torch.tensor([7, 0, 7, 39])], plain[[7, 0, 7, 39]])
    assert torch.equal(encoded[3:9], plain[3:9])
    assert torch.equal(encoded.part(10, 40)[torch.tensor([2])], plain[[12]])
    assert encoded[torch.empty(0, dtype=torch.int64)].shape == (0, 3, 160, 160)
    for one, other in zip(pixel_statistics(encoded), pixel_statistics(plain), strict=True):
        assert torch.equal(one, other)


def test_the_file_is_reused_and_smaller_sets_stay_tensors(folder):
    ids = string_ids([f"i{s:02d}" for s in range(50)])
    opened(folder, ids, memory_mb=1, disk_mb=1)
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "scratch").iterdir()}
    opened(folder, ids, memory_mb=1, disk_mb=1)
    assert before == {path.name: path.stat().st_mtime_ns for path in (folder / "scratch").iterdir()}
    assert isinstance(opened(folder, ids, memory_mb=1, disk_mb=100), torch.Tensor)
    assert isinstance(opened(folder, ids, memory_mb=100, disk_mb=1), torch.Tensor)


def test_an_unknown_id_is_named(folder):
    with pytest.raises(ContractError, match="'nobody'"):
        opened(folder, string_ids(["i01", "nobody"] * 20), memory_mb=1, disk_mb=1)
