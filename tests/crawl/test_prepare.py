"""Stage prepare on a growing crawl: old parts keep their bytes, only new shards are read, each image is kept once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lnl_core.config import ConfigError
from lnl_core.contracts import (
    FLAGS,
    ContractError,
    parts,
    read_labels,
    read_quarantine,
    read_sources,
    read_table,
    read_truth,
)
from lnl_core.crawl.listing import Listing, Shard, read_listing, update_listing, write_listing
from lnl_core.crawl.reader import CrawlReader
from lnl_core.layout import Layout
from lnl_core.s3 import write_bytes
from lnl_core.stages.stage import run_stage
from tests.crawl.crawl_fixture import CLASSES, encoded, folder_shard, into, parquet_shard, picture, rows

TABLES = ("labels", "truth", "quarantine", "provenance", "flags")


class Crawl:
    """A crawl on disk, its listing, and the stage run on it."""

    def __init__(self, root: Path, path: str = "") -> None:
        self.root = root
        self.folder = root / "crawl"
        self.folder.mkdir()
        self.path = path or str(self.folder)
        self.write = into(self.folder)
        self.listing = root / "listing.json"

    def update(self, **options: Any) -> Listing:
        listing, _ = update_listing(self.path, read_listing(self.listing), min_age=0.0, **options)
        write_listing(self.listing, listing)
        return listing

    def params(self, **changes: Any) -> dict[str, Any]:
        crawl = {"path": self.path, "listing": str(self.listing), "class_names": list(CLASSES)}
        crawl |= changes.pop("crawl", {})
        return {"prepare": {"dataset": "crawl", "rows_per_shard": 10, "crawl": crawl, **changes}}

    def prepare(self, out: str, previous: str = "", **changes: Any) -> tuple[Layout, dict[str, Any]]:
        paths = Layout(self.root / out)
        if previous:
            target = paths.previous.root / "prepare"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(self.root / previous / "prepare", target)
        return paths, dict(run_stage("prepare", self.params(**changes), paths))


@pytest.fixture
def crawl(tmp_path: Path) -> Crawl:
    return Crawl(tmp_path)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the shards that were read."""
    names: list[str] = []
    really = CrawlReader.open

    def noting(self: CrawlReader, shard: Shard) -> Any:
        names.append(shard.name)
        return really(self, shard)

    monkeypatch.setattr(CrawlReader, "open", noting)
    return names


def made(paths: Layout) -> dict[str, bytes]:
    """All files of the stage but the metrics, which have times."""
    root = paths.root / "prepare"
    files = (file for file in root.rglob("*") if file.is_file() and file.name != "metrics.json")
    return {str(file.relative_to(root)): file.read_bytes() for file in files}


def aside(paths: Layout) -> dict[str, str]:
    return {row.id or row.path or "": row.reason for row in read_quarantine(paths.quarantine)}


def test_three_listings_in_a_row_read_only_what_is_new_and_keep_every_byte(crawl: Crawl, opened: list[str]) -> None:
    parquet_shard(crawl.write, "week-1.parquet", rows(range(25)))
    crawl.update()
    first, _ = crawl.prepare("one")
    assert sorted(part.name for part in parts(first.images)) == [f"part-00000-00{n}.parquet" for n in range(3)]

    folder_shard(crawl.write, "week-2", rows(range(25, 40), "b.example"))
    crawl.update()
    second, metrics = crawl.prepare("two", previous="one")
    assert opened == ["week-1.parquet", "week-2"]
    assert (metrics["images"], metrics["images_new"]) == (40, 15)
    assert metrics["rows_by_source"] == {"a.example": {"old": 25, "new": 0}, "b.example": {"old": 0, "new": 15}}
    assert metrics["shards"] == {"listed": 2, "repeated": 0, "new": 1, "unusable": 0}

    parquet_shard(crawl.write, "a-name-before-the-others.parquet", rows(range(40, 52)))
    parquet_shard(crawl.write, "week-3.parquet", rows(range(52, 60)))
    crawl.update()
    third, _ = crawl.prepare("three", previous="two")
    assert opened[2:] == ["a-name-before-the-others.parquet", "week-3.parquet"]
    assert made(first).keys() < made(second).keys() < made(third).keys()
    for name, data in made(first).items():
        if name.startswith(("images/", "ingest/")):
            assert made(second)[name] == data == made(third)[name], name
    assert (third.images / "part-00000-000.parquet").stat().st_nlink > 1, "linked, not copied"
    assert list(read_labels(third.source_labels).ids) == [f"{number:04d}" for number in range(60)]

    alone, metrics = crawl.prepare("alone")  # without a version before it
    assert metrics["images_new"] == 60
    assert made(alone) == made(third)
    ids, sources = read_sources(third.provenance)
    assert dict(zip(ids, sources, strict=True))["0030"] == "b.example"


def test_in_the_same_folder_the_last_run_is_built_upon(crawl: Crawl, opened: list[str]) -> None:
    parquet_shard(crawl.write, "a.parquet", rows(range(12)))
    crawl.update()
    crawl.prepare("run")
    parquet_shard(crawl.write, "b.parquet", rows(range(12, 20)))
    crawl.update()
    paths, _ = crawl.prepare("run")
    assert opened == ["a.parquet", "b.parquet"]
    assert made(paths) == made(crawl.prepare("alone")[0])


def test_other_settings_of_the_reader_read_everything_again_and_other_classes_nothing(
    crawl: Crawl, opened: list[str]
) -> None:
    records = [
        {**row, "site": "c.example", "label": "tower" if row["id"] == "0003" else row["label"]}
        for row in rows(range(8))
    ]
    parquet_shard(crawl.write, "a.parquet", records)
    crawl.update()
    one, _ = crawl.prepare("one")
    assert aside(one) == {"0003": "label-out-of-range"}
    two, _ = crawl.prepare("two", previous="one", crawl={"class_names": [*CLASSES, "tower"]})
    assert opened == ["a.parquet"]
    assert aside(two) == {}
    assert read_labels(two.source_labels).label[3] == 2
    three, _ = crawl.prepare("three", previous="two", crawl={"source_column": "site"})
    assert opened == ["a.parquet"] * 2
    assert set(read_sources(three.provenance)[1]) == {"c.example"}


def test_an_image_is_kept_once_and_what_comes_later_says_what_was_there(crawl: Crawl) -> None:
    first = rows(range(8))
    parquet_shard(crawl.write, "a.parquet", [first[0], *first])  # an id twice with the same bytes
    again = [
        first[2],  # seen again
        {**first[3], "image": first[4]["image"]},  # an id that is taken
        {**first[5], "id": "copy-same"},  # a picture that is there
        {**first[6], "id": "copy-other", "label": CLASSES[first[6]["label"] == CLASSES[0]]},
        rows(range(8, 9))[0],
        {**rows(range(8, 9))[0], "id": "copy-near"},  # twice within the shard
    ]
    folder_shard(crawl.write, "b", again)
    shutil.copy(crawl.folder / "a.parquet", crawl.folder / "c.parquet")
    crawl.update()
    paths, metrics = crawl.prepare("run")
    assert aside(paths) == {
        "0003": "id-taken",
        "copy-same": "duplicate-image",
        "copy-other": "duplicate-image",
        "copy-near": "duplicate-image",
    }
    detail = {row.id: row.detail for row in read_quarantine(paths.quarantine)}
    assert detail["0003"].startswith("shard a.parquet has this id with other bytes, and those stay")
    assert detail["copy-same"] == "the same bytes as 0005 of shard a.parquet, which stays"
    assert "; labelled 'church' there and 'flower' here" in detail["copy-other"]
    assert list(read_labels(paths.source_labels).ids) == [f"{number:04d}" for number in range(9)]
    assert metrics["rows_seen_before"] == 2
    assert metrics["shards"]["repeated"] == 1
    images = [name for part in parts(paths.images) for name in pq.read_table(part)["id"].to_pylist()]
    assert sorted(images) == [f"{number:04d}" for number in range(9)]


def test_what_cannot_be_used_is_set_aside_and_the_rest_goes_on(crawl: Crawl) -> None:
    good = rows(range(10))
    good[1]["image"] = good[1]["image"][:200]  # type: ignore[index]
    good[2]["id"] = None
    good[3]["image"] = None
    good[4]["label"] = "cathedral"
    good[5]["label"] = None
    again = {**good[1], "image": encoded(picture(1))}  # whole this time
    parquet_shard(crawl.write, "a.parquet", good)
    parquet_shard(crawl.write, "b.parquet", [again])
    parquet_shard(crawl.write, "c.parquet", [{"name": "x", "picture": b""}])
    crawl.update()
    paths, metrics = crawl.prepare("run")
    reasons = aside(paths)
    assert reasons == {
        "0001": "truncated-image",
        "a.parquet:2": "missing-id",
        "0003": "missing-image",
        "0004": "label-out-of-range",
        "0005": "missing-label",
        "c.parquet": "unusable-shard",
    }
    assert "0001" in read_labels(paths.source_labels).ids
    assert metrics["shards"]["unusable"] == 1
    assert not (paths.images / "part-00002-000.parquet").exists()
    with pytest.raises(ContractError, match=r"6 of 12 rows cannot be used .*max_quarantined_share = 0\.3"):
        crawl.prepare("strict", max_quarantined_share=0.3)


def test_a_shard_that_is_damaged_inside_gives_the_rows_before_the_damage(crawl: Crawl) -> None:
    buffer: dict[str, bytes] = {}
    parquet_shard(buffer.__setitem__, "a.parquet", rows(range(300)))
    data, reader = bytearray(buffer["a.parquet"]), pq.ParquetFile(pa.BufferReader(buffer["a.parquet"]))
    chunk = reader.metadata.row_group(30).column(reader.schema_arrow.names.index("image"))
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data[start : start + 40] = bytes(40)
    crawl.write("a.parquet", bytes(data))
    parquet_shard(crawl.write, "b.parquet", rows(range(300, 304)))
    crawl.update()
    paths, metrics = crawl.prepare("run")
    assert aside(paths) == {"a.parquet": "unusable-shard"}
    assert "a damaged Parquet file" in read_quarantine(paths.quarantine)[0].detail
    kept = set(read_labels(paths.source_labels).ids)
    assert {"0000", "0100", "0300", "0303"} <= kept
    assert "0215" not in kept
    assert metrics["shards"]["unusable"] == 1


def test_pictures_near_test_rows_are_not_learned_from_and_those_near_trusted_rows_flagged(
    crawl: Crawl, tmp_path: Path
) -> None:
    near = {number: encoded(picture(number), "JPEG", 70) for number in (2, 4, 6, 8)}
    parquet_shard(crawl.write, "a.parquet", rows(range(30)))
    parquet_shard(
        crawl.write,
        "b.parquet",
        [{"id": f"near-{n}", "image": data, "label": "flower", "source": "b"} for n, data in near.items()],
    )
    crawl.update()
    base, _ = crawl.prepare("base")
    (tmp_path / "test.csv").write_text("id,label\n0002,church\n0003,flower\nnot-yet,church\n")
    trusted = [(4, "church"), (6, "church"), (8, "church"), (5, "flower"), (7, "flower"), (9, "flower")]
    (tmp_path / "trusted.csv").write_text(
        "id,label\n" + "".join(f"{n:04d},{name}\n" for n, name in trusted) + "later,church\n"
    )
    settings: dict[str, Any] = {
        "crawl": {"test_file": str(tmp_path / "test.csv")},
        "trusted": {"source": "file", "file": str(tmp_path / "trusted.csv"), "held_out_share": 0.3},
    }
    paths, metrics = crawl.prepare("run", previous="base", **settings)
    labels = read_labels(paths.source_labels)
    split = dict(zip(labels.ids, labels.split, strict=True))
    assert {name for name, kind in split.items() if kind == "test"} == {"0002", "0003"}
    held_out = set(labels.ids[labels.trusted & (labels.split == "val")])
    table, _ = read_table(paths.flags, FLAGS)
    flags = {row["id"]: (row["kind"], row["other"]) for row in table.to_pylist()}
    expected = {"near-2": ("near-test", "0002")}
    for number in (4, 6, 8):
        kind = "near-held-out" if f"{number:04d}" in held_out else "near-trusted"
        expected[f"near-{number}"] = (kind, f"{number:04d}")
    assert flags == expected
    assert {kind for kind, _ in flags.values()} == {"near-test", "near-held-out", "near-trusted"}
    gone = {name for name, (kind, _) in expected.items() if kind != "near-trusted"}
    assert gone.isdisjoint(labels.ids)
    assert aside(paths) == {name: "near-duplicate-of-" + expected[name][0].removeprefix("near-") for name in gone}
    assert metrics["trusted_not_in_crawl"] == 1
    flagged = 4 - len(gone)
    assert metrics["near_duplicates"]["near_trusted_with_another_label"] == flagged  # all four are called flower
    for name, data in made(base).items():
        if name.startswith(("images/", "ingest/")):
            assert made(paths)[name] == data, "trust and test rows come later without touching an image part"
    off, _ = crawl.prepare("off", crawl={"near_duplicates": {"enabled": False}, **settings["crawl"]})
    assert read_table(off.flags, FLAGS)[0].num_rows == 0
    assert len(read_labels(off.source_labels)) == 34


def test_a_shard_that_is_gone_is_taken_from_the_last_version_or_is_an_error(crawl: Crawl) -> None:
    parquet_shard(crawl.write, "a.parquet", rows(range(8)))
    crawl.update()
    one, _ = crawl.prepare("one")
    (crawl.folder / "a.parquet").unlink()
    parquet_shard(crawl.write, "b.parquet", rows(range(8, 12)))
    crawl.update()
    two, _ = crawl.prepare("two", previous="one")
    assert len(read_labels(two.source_labels)) == 12
    with pytest.raises(ContractError, match=r"shard a\.parquet is listed and gone; put it back"):
        crawl.prepare("three")
    del one


def test_an_overwritten_shard_is_ingested_as_a_new_one_and_its_old_rows_stay(crawl: Crawl) -> None:
    parquet_shard(crawl.write, "a.parquet", rows(range(8)))
    crawl.update()
    crawl.prepare("one")
    parquet_shard(crawl.write, "a.parquet", rows(range(4, 12)))
    crawl.update(accept_changed=True)
    two, metrics = crawl.prepare("two", previous="one")
    assert list(read_labels(two.source_labels).ids) == [f"{number:04d}" for number in range(12)]
    assert (metrics["rows_seen_before"], metrics["images_new"]) == (4, 4)


def test_a_damaged_part_of_the_last_version_is_not_taken(crawl: Crawl, opened: list[str]) -> None:
    parquet_shard(crawl.write, "a.parquet", rows(range(12)))
    crawl.update()
    one, _ = crawl.prepare("one")
    whole = made(one)
    part = one.images / "part-00000-001.parquet"
    part.write_bytes(part.read_bytes()[:-7])
    assert made(crawl.prepare("two", previous="one")[0]) == whole
    assert opened == ["a.parquet"] * 2


def test_draws_are_refused_for_they_would_change_with_the_crawl(crawl: Crawl) -> None:
    parquet_shard(crawl.write, "a.parquet", rows(range(4)))
    crawl.update()
    with pytest.raises(ConfigError, match="each draw would be another; name a file"):
        crawl.prepare("run", trusted={"source": "draw", "count": 2})
    with pytest.raises(ConfigError, match=r"prepare\.val_share = 0\.1: a crawl grows"):
        crawl.prepare("run", val_share=0.1)


def test_splits_and_true_labels_of_benchmark_data(crawl: Crawl) -> None:
    records = [
        {**row, "split": "test" if n % 4 == 0 else "train", "truth": CLASSES[n % 2]}
        for n, row in enumerate(rows(range(12)))
    ]
    records[1]["split"] = "holdout"
    parquet_shard(crawl.write, "a.parquet", records)
    crawl.update()
    paths, metrics = crawl.prepare("run", crawl={"split_column": "split", "true_label_column": "truth"})
    assert metrics["rows"] == {"train": 8, "val": 0, "test": 3}
    assert aside(paths) == {"0001": "split-unknown"}
    truth = read_truth(paths.truth)
    assert (truth.true_label == np.array([int(name) % 2 for name in truth.ids])).all()


def test_a_crawl_on_s3_gives_what_the_same_crawl_on_disk_gives(crawl: Crawl, tmp_path: Path, s3: str) -> None:
    def on_s3(name: str, data: bytes) -> None:
        write_bytes(f"{s3}/shop/{name}", data)

    (tmp_path / "remote").mkdir()
    remote = Crawl(tmp_path / "remote", f"{s3}/shop")
    for write in (crawl.write, on_s3):
        parquet_shard(write, "a.parquet", rows(range(12)))
        folder_shard(write, "b", rows(range(12, 20)))
    crawl.update()
    remote.update()
    one, two = crawl.prepare("one")[0], remote.prepare("one")[0]
    same = {name: data for name, data in made(one).items() if not name.startswith("ingest/")}
    assert same == {name: made(two)[name] for name in same}  # the tables below ingest name ETags in their keys
    on_s3("late.parquet", (crawl.folder / "a.parquet").read_bytes())
    listing = remote.update()
    assert listing.shards[-1].duplicate_of == "a.parquet"


def test_a_run_killed_in_mid_ingest_goes_on_with_the_next_shard_and_ends_the_same(crawl: Crawl) -> None:
    for number in range(8):
        parquet_shard(crawl.write, f"{number:02d}.parquet", rows(range(number * 40, number * 40 + 40)))
    crawl.update()
    whole, _ = crawl.prepare("whole")
    (crawl.root / "params.json").write_text(json.dumps(crawl.params()))
    killed = Layout(crawl.root / "killed")
    notes = killed.resume("prepare") / "ingest"
    command = [sys.executable, "-m", "lnl_core.cli", "stage", "prepare", "--root", str(killed.root)]
    process = subprocess.Popen(
        [*command, "--params", str(crawl.root / "params.json")], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 60
    while not (notes / "00001.parquet").exists():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {file.name: file.stat().st_mtime_ns for file in notes.glob("?????.parquet")}
    assert 2 <= len(done) < 8
    kept = (notes / "00000.parquet").stat().st_ino
    killed, _ = crawl.prepare("killed")
    assert made(killed) == made(whole)
    assert (killed.ingest / "00000.parquet").stat().st_ino == kept, "what was done was not done again"
    assert list(killed.resume("prepare").glob("*")) == []
