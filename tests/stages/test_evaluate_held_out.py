"""The held-out table of the stage evaluate: what stands in it, what it is made from, and why it may be empty."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from lnl_core.contracts import (
    NO_LABEL,
    ContractError,
    parts,
    read_labels,
    read_purified,
    string_ids,
    write_labels,
    write_purified,
)
from lnl_core.evaluate.held_out import HeldOutPredictions, HeldOutTable, read_held_out, score_held_out, write_held_out
from lnl_core.features.shards import ShardKey, write_shard
from lnl_core.images.store import load_images
from lnl_core.layout import Layout
from lnl_core.report.summary import summary_table
from lnl_core.stages.stage import run_stage
from tests.stages.conftest import IMAGE_SETTINGS

PARAMS: dict[str, Any] = {
    "run": {"device": "cpu", "threads": 1},
    "images": {"size": 8, "channels": 1, "flip": False},
    "evaluate": {"embedding_rows": 0},
}


def hold_out(paths: Layout, share: float = 0.5) -> None:
    """Half of the trusted rows go to val; features are the pixels."""
    labels = read_labels(paths.labels)
    chosen = labels.where(trusted=True)
    split = labels.split.copy()
    split[chosen[: round(share * len(chosen))]] = "val"
    write_labels(paths.labels, dataclasses.replace(labels, split=split))
    store = load_images(paths.images, IMAGE_SETTINGS, scratch=paths.root / "scratch", memory_mb=100)
    for part in parts(paths.images):
        ids = string_ids(pq.read_table(part, columns=["id"])["id"].to_pylist())
        rows = np.flatnonzero(np.isin(store.ids.astype(str), ids.astype(str)))
        features = store.pixels[rows].flatten(1).numpy().astype(np.float32) / 255
        key = ShardKey(fingerprint="pixels", dtype="float32", source=part.name)
        write_shard(paths.features / part.name, iter([(store.ids[rows], features)]), key)


def evaluated(paths: Layout) -> tuple[HeldOutTable, dict[str, Any]]:
    metrics = run_stage("evaluate", PARAMS, paths)
    return read_held_out(paths.held_out), dict(metrics)


def test_probe_and_model_predict_the_held_out_rows_alone(digits_run: Callable[..., Layout]) -> None:
    paths = digits_run()
    hold_out(paths)
    table, metrics = evaluated(paths)
    labels = read_labels(paths.labels)
    held = labels.take(labels.where(split="val", trusted=True))
    assert table.ids.tolist() == held.ids.tolist()
    assert np.array_equal(table.label, held.label)
    assert np.array_equal(table.observed, held.observed_label)
    assert table.about["encoder"] == "pixels"
    scores = metrics["held_out"]
    assert scores["rows"] == 100
    assert scores["probe"]["accuracy"] == pytest.approx(table.right("probe").mean())
    assert scores["probe"]["accuracy"] > 0.75  # pixels, labels as purified
    assert scores["model"]["accuracy"] > 0.75
    assert scores["observed_accuracy"] < 0.6  # 60 % noise
    for said in table.predictions.values():
        assert (said.confidence > 0.1).all()
        assert (said.confidence <= 1).all()


def test_the_probe_follows_the_labels_of_the_version(digits_run: Callable[..., Layout]) -> None:
    paths = digits_run()
    hold_out(paths)
    good, _ = evaluated(paths)
    purified = read_purified(paths.purified)
    worse = np.where(purified.purified_label < 5, purified.label, purified.purified_label)
    write_purified(paths.purified, dataclasses.replace(purified, purified_label=worse.astype(np.int32)))
    bad, _ = evaluated(paths)
    assert bad.right("probe").sum() < good.right("probe").sum()
    assert np.array_equal(bad.predictions["model"].label, good.predictions["model"].label)


def test_parts_in_another_order_than_the_ids_give_the_same_predictions(digits_run: Callable[..., Layout]) -> None:
    """As in a crawl, whose new shards come last whatever their ids are."""
    paths = digits_run()
    hold_out(paths)
    table, _ = evaluated(paths)
    found = sorted(paths.features.iterdir())
    found[0].rename(paths.features / "part-99999.parquet")
    other, _ = evaluated(paths)
    assert np.array_equal(table.predictions["probe"].label, other.predictions["probe"].label)


def test_without_held_out_rows_the_table_is_empty_and_says_why(digits_run: Callable[..., Layout]) -> None:
    paths = digits_run()  # has no features either, and needs none
    table, metrics = evaluated(paths)
    assert len(table) == 0
    assert table.predictions == {}
    assert "held_out_share" in table.missing["held_out"]
    assert metrics["missing"]["held_out"] == table.missing["held_out"]
    assert metrics["held_out"] == {"rows": 0}


def test_without_a_model_the_probe_predicts_alone(digits_run: Callable[..., Layout]) -> None:
    paths = digits_run(test=False)
    hold_out(paths)
    for child in (paths.model / "best", paths.model / "last"):
        child.rename(paths.root / child.name)
    table, metrics = evaluated(paths)
    assert list(table.predictions) == ["probe"]
    assert table.missing == {"model": "no model was trained"}
    assert "model" not in metrics["held_out"]


def small(**changes: Any) -> HeldOutTable:
    said = HeldOutPredictions(label=np.array([0, 1, 1], np.int32), confidence=np.array([0.9, 0.8, 0.7], np.float32))
    table = HeldOutTable(
        ids=string_ids(["b", "a", "c"]),
        label=np.array([0, 1, 0], np.int32),
        observed=np.array([1, NO_LABEL, 0], np.int32),
        predictions={"probe": said},
        class_names=("cat", "dog"),
    )
    return dataclasses.replace(table, **changes)


def test_the_table_survives_the_disk_and_is_sorted(tmp_path: Path) -> None:
    write_held_out(tmp_path / "held_out.parquet", small())
    table = read_held_out(tmp_path / "held_out.parquet")
    assert table.ids.tolist() == ["a", "b", "c"]
    assert table.observed.tolist() == [NO_LABEL, 1, 0]
    assert table.predictions["probe"].label.tolist() == [1, 0, 1]
    assert table.right("probe").tolist() == [True, True, False]


def test_scores_by_hand() -> None:
    scores = score_held_out(small())
    assert scores["rows"] == 3
    assert scores["observed_accuracy"] == 0.5
    assert (scores["probe"]["right"], scores["probe"]["accuracy"]) == (2, 2 / 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"label": np.array([0, 2, 0], np.int32)}, "label = 2"), ({"ids": string_ids(["a", "a", "c"])}, "'a' stands in")],
)
def test_broken_tables_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        write_held_out(tmp_path / "held_out.parquet", small(**changes))


def test_the_summary_and_the_report_say_it_in_a_line(digits_run: Callable[..., Layout]) -> None:
    paths = digits_run()
    run_stage("evaluate", PARAMS, paths)
    assert "right on held-out trusted rows" not in dict(summary_table(paths))
    hold_out(paths)
    table, _ = evaluated(paths)
    line = dict(summary_table(paths))["right on held-out trusted rows"]
    assert line == f"probe {table.right('probe').mean():.1%}, model {table.right('model').mean():.1%} of 100".replace(
        "%", " %"
    )
    run_stage("report", {**PARAMS, "report": {}}, paths)
    assert "the promotion gate compares versions by them" in paths.report.read_text()
