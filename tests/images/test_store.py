"""One tensor, whether in memory or in a file; ids decide which row is which."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lnl_core.config import ImageSettings
from lnl_core.contracts import ContractError, Ids, string_ids
from lnl_core.images.shards import write_shard
from lnl_core.images.store import ImageStore, iterate_images, load_images

SETTINGS = ImageSettings(size=8, channels=1)


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), value).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in range(3):
        values = range(part * 10, part * 10 + 10)
        write_shard(tmp_path / f"part-{part:05d}.parquet", [f"i{v:02d}" for v in values], map(png, values), "prepare")
    return tmp_path


def load(folder: Path, ids: Ids | None = None, memory_mb: int = 100, settings: ImageSettings = SETTINGS) -> ImageStore:
    return load_images(folder, settings, ids=ids, scratch=folder / "scratch", memory_mb=memory_mb)


def test_all_images_in_shard_order(folder: Path) -> None:
    store = load(folder)
    assert store.pixels.shape == (30, 1, 8, 8)
    assert store.pixels[:, 0, 0, 0].tolist() == list(range(30))
    assert list(store.ids[:2]) == ["i00", "i01"]


def test_the_given_ids_in_the_given_order(folder: Path) -> None:
    store = load(folder, string_ids(["i29", "i03", "i10"]))
    assert store.pixels[:, 0, 0, 0].tolist() == [29, 3, 10]
    assert store.rows(string_ids(["i10", "i29"])).tolist() == [2, 0]


def test_unknown_id_is_named(folder: Path) -> None:
    with pytest.raises(ContractError, match="'nobody'"):
        load(folder, string_ids(["i01", "nobody"]))


def test_memory_mapped_file_holds_the_same_pixels_and_is_reused(folder: Path) -> None:
    settings = ImageSettings(size=128, channels=3)  # 30 images of 48 kB: above 1 MiB
    mapped = load(folder, memory_mb=1, settings=settings)
    assert torch.equal(mapped.pixels, load(folder, settings=settings).pixels)
    (file,) = (folder / "scratch").iterdir()
    before = file.stat().st_mtime_ns
    mapped.pixels[0] = 7  # copy on write: the file must not change
    again = load(folder, memory_mb=1, settings=settings)
    assert file.stat().st_mtime_ns == before
    assert again.pixels[0, 0, 0, 0] == 0


def test_other_shards_settings_or_ids_are_another_file(folder: Path) -> None:
    settings = ImageSettings(size=256, channels=3)
    load(folder, memory_mb=1, settings=settings)
    load(folder, memory_mb=1, settings=settings.model_copy(update={"size": 255}))
    load(folder, string_ids([f"i{v:02d}" for v in range(29)]), memory_mb=1, settings=settings)
    write_shard(folder / "part-00002.parquet", [f"i{v}" for v in range(20, 30)], map(png, range(50, 60)), "prepare")
    changed = load(folder, memory_mb=1, settings=settings)
    assert len(list((folder / "scratch").iterdir())) == 4
    assert changed.pixels[20:, 0, 0, 0].tolist() == list(range(50, 60))


def test_stream_of_batches(folder: Path) -> None:
    batches = list(iterate_images(folder / "part-00001.parquet", SETTINGS, 4))
    assert [len(ids) for ids, _ in batches] == [4, 4, 2]
    assert np.concatenate([pixels for _, pixels in batches])[:, 0, 0, 0].tolist() == list(range(10, 20))


def test_shard_sets_broken_images_aside_and_goes_on(tmp_path: Path) -> None:
    shard = tmp_path / "part-00000.parquet"
    aside = write_shard(shard, ["a", "b", "c"], [png(1), b"nonsense", png(3)], "prepare")
    assert [(row.id, row.reason) for row in aside] == [("b", "not-an-image")]
    assert list(load(tmp_path).ids) == ["a", "c"]


def test_shard_bytes_depend_on_content_alone(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_shard(tmp_path / name, ["a", "b"], [png(1), png(2)], "prepare")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
