"""The listing of a crawl: appended to and never reordered; what is not whole waits, what has changed is refused."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from lnl_core.cli.app import app
from lnl_core.config import ConfigError
from lnl_core.contracts import ContractError, QuarantineRow
from lnl_core.crawl.listing import Listing, look_at, read_listing, update_listing, write_listing
from lnl_core.crawl.reader import CrawlReader, UnusableShard
from lnl_core.crawl.settings import CrawlSettings
from lnl_core.s3 import delete, write_bytes
from tests.crawl.crawl_fixture import CLASSES, Write, folder_shard, into, parquet_shard, rows

Drop = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Place:
    path: str
    write: Write
    drop: Drop


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty crawl on disk or on a real S3 server."""
    if request.param == "folder":
        root = tmp_path / "crawl"
        root.mkdir()
        return Place(str(root), into(root), lambda name: (root / name).unlink())
    prefix = f"{request.getfixturevalue('s3')}/crawl"
    return Place(
        prefix, lambda name, data: write_bytes(f"{prefix}/{name}", data), lambda name: delete(f"{prefix}/{name}")
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "crawl").mkdir()
    return tmp_path / "crawl"


def names(listing: Listing) -> list[str]:
    return [shard.name for shard in listing.shards]


def reader(path: str, listing: Path, **settings: object) -> CrawlReader:
    values = {"path": path, "listing": str(listing), "class_names": CLASSES, **settings}
    return CrawlReader(CrawlSettings.model_validate(values))


def test_new_shards_go_to_the_end_sorted_among_themselves(place: Place, tmp_path: Path) -> None:
    parquet_shard(place.write, "2026/week-2.parquet", rows(range(4)))
    folder_shard(place.write, "2026/week-1", rows(range(4, 8)))
    first, new = update_listing(place.path, Listing(), min_age=0.0)
    assert names(first) == ["2026/week-1", "2026/week-2.parquet"] == [shard.name for shard in new]
    assert [(shard.form, shard.files, shard.table) for shard in new] == [
        ("folder", 5, "labels.csv"),
        ("parquet", 1, ""),
    ]
    assert update_listing(place.path, first, min_age=0.0) == (first, [])
    parquet_shard(place.write, "2025/late.parquet", rows(range(8, 12)))
    folder_shard(place.write, "2026/week-3", rows(range(12, 16)), table="labels.parquet")
    second, new = update_listing(place.path, first, min_age=0.0)
    assert names(second) == [*names(first), "2025/late.parquet", "2026/week-3"]
    assert second.shards[:2] == first.shards
    write_listing(tmp_path / "listing.json", second)
    assert read_listing(tmp_path / "listing.json") == second


def test_what_is_not_whole_waits(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    buffer: dict[str, bytes] = {}
    parquet_shard(buffer.__setitem__, "cut.parquet", rows(range(4)))
    place.write("cut.parquet", buffer["cut.parquet"][:-20])
    folder_shard(buffer.__setitem__, "images", rows(range(4)))
    for name, data in buffer.items():
        if name.startswith("images/images"):
            place.write(name, data)
    place.write("_SUCCESS", b"")
    place.write(".part/x.parquet", b"")
    with caplog.at_level("INFO", "lnl"):
        listing, new = update_listing(place.path, Listing(), min_age=0.0)
    assert (listing, new) == (Listing(), [])
    assert "cut.parquet is left for the next time: cut.parquet is no whole Parquet file yet" in caplog.text
    assert "images is left for the next time: has no label file yet" in caplog.text
    place.write("cut.parquet", buffer["cut.parquet"])
    place.write("images/labels.csv", buffer["images/labels.csv"])
    assert names(update_listing(place.path, Listing(), min_age=0.0)[0]) == ["cut.parquet", "images"]
    assert update_listing(place.path, Listing(), min_age=3600.0)[1] == []


def test_a_file_that_may_still_grow_waits_until_it_is_old_enough(folder: Path) -> None:
    folder_shard(into(folder), "images", rows(range(3)))
    assert look_at(str(folder), Listing()).waiting[0][0] == "images"
    for file in folder.rglob("*.*"):
        os.utime(file, (time.time() - 100, time.time() - 100))
    assert [shard.name for shard in look_at(str(folder), Listing()).new] == ["images"]


def test_the_same_shard_under_another_name_is_listed_as_its_duplicate(place: Place) -> None:
    for name in ("a.parquet", "b.parquet"):
        parquet_shard(place.write, name, rows(range(4)))
        folder_shard(place.write, name[0], rows(range(4, 8)))
    listing, _ = update_listing(place.path, Listing(), min_age=0.0)
    assert {shard.name: shard.duplicate_of for shard in listing.shards} == {
        "a": "", "a.parquet": "", "b": "a", "b.parquet": "a.parquet",
    }  # fmt: skip
    parquet_shard(place.write, "later.parquet", rows(range(4)))
    assert update_listing(place.path, listing, min_age=0.0)[1][0].duplicate_of == "a.parquet"


def test_a_shard_that_was_overwritten_is_refused_unless_accepted(place: Place, tmp_path: Path) -> None:
    parquet_shard(place.write, "a.parquet", rows(range(4)))
    folder_shard(place.write, "b", rows(range(4, 8)))
    listing, _ = update_listing(place.path, Listing(), min_age=0.0)
    parquet_shard(place.write, "a.parquet", rows(range(4)))  # the same once more
    assert names(update_listing(place.path, listing, min_age=0.0)[0]) == ["a.parquet", "b"]
    parquet_shard(place.write, "a.parquet", rows(range(5)))
    with pytest.raises(ContractError, match=r"shard a\.parquet has changed since .* put the old one back"):
        update_listing(place.path, listing, min_age=0.0)
    again, new = update_listing(place.path, listing, min_age=0.0, accept_changed=True)
    assert [(shard.name, shard.overwritten) for shard in again.shards] == [
        ("a.parquet", True), ("b", False), ("a.parquet", False),
    ]  # fmt: skip
    assert len(new) == 1
    assert update_listing(place.path, again, min_age=0.0) == (again, [])
    write_listing(tmp_path / "l.json", again)
    assert reader(place.path, tmp_path / "l.json").open(again.shards[2]).texts.num_rows == 5
    with pytest.raises(ContractError, match="has changed since it was listed; put it back, or bring"):
        reader(place.path, tmp_path / "l.json").open(again.shards[0])


def test_a_shard_that_is_gone_is_a_warning_and_an_error_once_it_must_be_read(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parquet_shard(place.write, "a.parquet", rows(range(4)))
    parquet_shard(place.write, "b.parquet", rows(range(4, 6)))
    listing, _ = update_listing(place.path, Listing(), min_age=0.0)
    place.drop("a.parquet")
    assert update_listing(place.path, listing, min_age=0.0) == (listing, [])
    assert "1 listed shards are gone" in caplog.text
    with pytest.raises(ContractError, match=r"shard a\.parquet is listed and gone; put it back"):
        reader(place.path, tmp_path / "l.json").open(listing.shards[0])


def test_a_copied_crawl_has_the_same_listing_hash(folder: Path, tmp_path: Path) -> None:
    parquet_shard(into(folder), "a.parquet", rows(range(4)))
    folder_shard(into(folder), "b", rows(range(4, 8)))
    listing, _ = update_listing(str(folder), Listing(), min_age=0.0)
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    copied, _ = update_listing(str(tmp_path / "copy"), Listing(), min_age=0.0)
    assert copied.sha256 == listing.sha256
    same, new = update_listing(str(tmp_path / "copy"), listing, min_age=0.0)
    assert (same.sha256, new) == (listing.sha256, [])


def test_rows_and_images_of_both_forms(place: Place, tmp_path: Path) -> None:
    records = rows(range(6))
    parquet_shard(place.write, "a.parquet", records)
    folder_shard(place.write, "b", records)
    folder_shard(place.write, "c", [{**row, "id": f"c{row['id']}"} for row in records], "labels.parquet")
    listing, _ = update_listing(place.path, Listing(), min_age=0.0)
    for shard in listing.shards:
        found = reader(place.path, tmp_path / "l.json").open(shard)
        assert [name.removeprefix("c") for name in found.texts["id"].to_pylist()] == [row["id"] for row in records]
        assert found.texts["label"].to_pylist() == [row["label"] for row in records]
        assert found.texts["source"].to_pylist() == ["a.example"] * 6
        assert list(found.images) == [row["image"] for row in records]


def test_without_an_id_column_the_path_is_the_id_and_no_path_leaves_the_folder(folder: Path, tmp_path: Path) -> None:
    write, records = into(folder), rows(range(3))
    write("secret.txt", b"not the crawl's")
    for row in records:
        write(f"shop/{row['id']}.png", row["image"])  # type: ignore[arg-type]
    write(
        "shop/labels.csv", b"path,label\n0000.png,church\n../secret.txt,flower\n/etc/hostname,flower\ngone.png,church\n"
    )
    shard = update_listing(str(folder), Listing(), min_age=0.0)[1][0]
    found = reader(str(folder), tmp_path / "l.json").open(shard)
    assert found.texts["id"].to_pylist()[0] == "shop/0000.png"
    first, *others = found.images
    assert first == records[0]["image"]
    assert [one.reason for one in others if isinstance(one, QuarantineRow)] == [
        "path-outside", "path-outside", "missing-file",
    ]  # fmt: skip


def test_a_shard_without_the_columns_is_unusable(folder: Path, tmp_path: Path) -> None:
    parquet_shard(into(folder), "a.parquet", [{"id": "1", "caption": "a flower"}])
    into(folder)("b/labels.csv", b"name,label\nx,1\n")
    listing, _ = update_listing(str(folder), Listing(), min_age=0.0)
    for shard, text in zip(listing.shards, ("no column 'image'", "neither 'id' nor 'path'"), strict=True):
        with pytest.raises(UnusableShard, match=text):
            reader(str(folder), tmp_path / "l.json").open(shard)


def test_settings_that_cannot_be_read_with_are_errors(folder: Path, tmp_path: Path) -> None:
    parquet_shard(into(folder), "a.parquet", rows(range(4)))
    listing, path = update_listing(str(folder), Listing(), min_age=0.0)[0], tmp_path / "listing.json"
    with pytest.raises(ConfigError, match=r"prepare\.crawl\.class_names is not set"):
        reader(str(folder), path, class_names=()).shards()
    with pytest.raises(ContractError, match="no such file; `lnl crawl update` makes it"):
        reader(str(folder), path).shards()
    write_listing(path, listing)
    assert reader(str(folder), path, listing_sha256=listing.sha256).shards() == listing.shards
    with pytest.raises(ContractError, match=r"prepare\.crawl\.listing_sha256 says 0000"):
        reader(str(folder), path, listing_sha256="0" * 64).shards()
    path.write_text(path.read_text().replace("a.parquet", "b.parquet"))
    with pytest.raises(ContractError, match="does not fit its shards"):
        reader(str(folder), path).shards()
    with pytest.raises(ConfigError, match="no such folder"):
        update_listing(str(folder / "nowhere"), Listing())


def test_the_commands(folder: Path, tmp_path: Path) -> None:
    parquet_shard(into(folder), "a.parquet", rows(range(4)))
    (folder / "half").mkdir()
    shutil.copy(folder / "a.parquet", folder / "half" / "0001.jpg")
    listing = tmp_path / "deep" / "listing.json"
    common = ["--path", str(folder), "--listing", str(listing), "--min-age", "0"]
    seen = CliRunner().invoke(app, ["crawl", "status", *common])
    assert "new      a.parquet" in seen.output
    assert "waiting  half: has no label file yet" in seen.output
    assert not listing.exists()
    done = CliRunner().invoke(app, ["crawl", "update", *common])
    assert f"prepare.crawl.listing_sha256: {json.loads(listing.read_text())['sha256']}" in done.output
    before = listing.read_bytes()
    assert "1 shards in" in CliRunner().invoke(app, ["crawl", "update", *common]).output
    assert listing.read_bytes() == before
    assert pq.read_metadata(io.BytesIO((folder / "a.parquet").read_bytes())).num_rows == 4
