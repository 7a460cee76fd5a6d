"""`lnl crawl import`: a dataset becomes the first shards of a crawl, and prepare reads of it what the dataset said."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from lnl_core.cli.app import app
from lnl_core.config import load_params
from lnl_core.contracts import NO_LABEL, read_labels
from lnl_core.crawl.listing import Listing, update_listing, write_listing
from lnl_core.layout import Layout
from lnl_core.stages.stage import run_stage

ROWS = [  # id, observed, verified label, split
    ("noisy1", "cat", "", "train"),
    ("noisy2", "dog", "", "train"),
    ("both1", "dog", "cat", "train"),
    ("both2", "dog", "dog", "train"),
    ("verified1", "", "cat", "train"),
    ("val1", "cat", "cat", "val"),
    ("test1", "dog", "dog", "test"),
    ("gone", "dog", "", "train"),
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with a table, as Clothing1M's labels are; the params of a run on it."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, (name, *_) in enumerate(ROWS):
        if name != "gone":
            Image.radial_gradient("L").rotate(40 * number).resize((40, 30 + number)).save(folder / f"{name}.png")
    lines = [f"{name},{name}.png,{seen},{right},{split}" for name, seen, right, split in ROWS]
    (folder / "labels.csv").write_text("\n".join(["id,path,label,true,split", *lines]))
    reader = {"path": str(folder), "table": "labels.csv", "true_label_column": "true", "split_column": "split"}
    prepare = {"dataset": "image_folder", "image_folder": reader, "trusted": {"source": "draw", "share": 1.0}}
    (tmp_path / "photos.yaml").write_text(yaml.safe_dump({"images": {"size": 32}, "prepare": prepare}))
    return tmp_path / "photos.yaml"


def begin(source: Path, out: Path, *more: str) -> str:
    done = CliRunner().invoke(app, ["crawl", "import", "--params", str(source), "--out", str(out), *more])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_prepare_reads_of_the_crawl_what_the_dataset_said(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "crawl"
    said = begin(source, out, "--rows-a-shard", "3")
    assert "8 rows in 3 shards, 4 trusted, 1 test" in said
    assert "left out: missing-file 1" in said
    params = load_params(out / "crawl.yaml")
    assert params["images"] == {"size": 32}
    assert params["prepare"]["crawl"]["class_names"] == ["cat", "dog"]
    listing, _ = update_listing(str(out / "shards"), Listing(), min_age=0.0)
    write_listing(tmp_path / "listing.json", listing)
    params["prepare"]["crawl"]["listing"] = str(tmp_path / "listing.json")
    run_stage("prepare", params, Layout(tmp_path / "run"))
    labels = read_labels(Layout(tmp_path / "run").source_labels)
    columns = zip(labels.ids, labels.label, labels.observed_label, labels.trusted, labels.split, strict=True)
    assert {
        name: (int(label), int(seen), bool(trusted), str(split)) for name, label, seen, trusted, split in columns
    } == {
        "noisy1": (0, 0, False, "train"),
        "noisy2": (1, 1, False, "train"),
        "both1": (0, 1, True, "train"),
        "both2": (1, 1, True, "train"),
        "verified1": (0, NO_LABEL, True, "train"),
        "val1": (0, NO_LABEL, True, "train"),  # a verified label is no crawler's
        "test1": (1, 1, False, "test"),
    }


def test_a_second_call_writes_what_is_missing(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "crawl"
    begin(source, out, "--rows-a-shard", "3")
    shards = sorted((out / "shards").iterdir())
    assert [shard.name for shard in shards] == [f"image_folder-{number:05d}.parquet" for number in range(3)]
    assert pq.read_schema(shards[0]).names == ["id", "image", "label", "source"]
    ids = [name for shard in shards for name in pq.read_table(shard)["id"].to_pylist()]
    assert ids == [
        "test1",
        "both1",
        "both2",
        "val1",
        "verified1",
        "noisy1",
        "noisy2",
    ]  # the first of equal images stays
    before = [shard.stat().st_mtime_ns for shard in shards]
    shards[1].unlink()
    (out / "crawl.yaml").write_text("mine: {}")
    said = begin(source, out, "--rows-a-shard", "3")
    after = [shard.stat().st_mtime_ns for shard in shards]
    assert (after[0], after[2]) == (before[0], before[2])
    assert after[1] != before[1]
    assert "left out: missing-file 1" in said or "left-out-before 1" in said
    assert (out / "crawl.yaml").read_text() == "mine: {}"  # what a person has changed stays
