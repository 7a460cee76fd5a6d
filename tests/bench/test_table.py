"""The table from records made by hand: means and spreads computed by hand, published numbers only where they belong."""

from __future__ import annotations

import csv
import functools
import io
from typing import Any

import pytest
import yaml

from lnl_core.bench.published import published_for, published_noise, source_text
from lnl_core.bench.table import comma_separated, markdown, mean_and_sd, table_rows
from lnl_core.config import load_overlays, load_preset, preset_names

INCLUSIVE = {"type": "symmetric", "rate": 0.2, "protocol": "inclusive"}


def record(best: float, last: float, seed: int = 0, **changes: Any) -> dict[str, Any]:
    cell = {"preset": "cifar10", "noise": "sym20", "method": "divide_mix", "seed": seed} | changes.pop("cell", {})
    made: dict[str, Any] = {
        "cell": cell,
        "overrides": [],
        "group": f"{cell['noise']} {cell['method']}",
        "inject": INCLUSIVE,
        "test": {"best": best, "last": last},
        "test_rows": 10_000,
        "labels": {"before": 0.82, "after": 0.82},
        "held_out": {"kind": "trusted"},
        "epochs": 300,
        "rows": 49_000,
        "model": {"arch": "preact_resnet18", "width": 64},
        "made_with": {"device": "cuda (H100)", "torch": "2.13.0", "commit": "0123456789" * 4 + "-dirty"},
    }
    return {**made, **changes}


def test_mean_and_deviation_by_hand() -> None:
    assert mean_and_sd([0.94, 0.96]) == "95.0 ± 1.4"  # 2 / sqrt(2)
    assert mean_and_sd([0.94]) == "94.0"
    assert mean_and_sd([]) == "–"


def test_the_table_by_hand() -> None:
    records = [
        record(0.94, 0.93, seed=0),
        record(0.80, 0.79, cell={"method": "cross_entropy"}, labels={"before": 0.82, "after": 0.97}),
        record(0.96, 0.95, seed=1),
        {"cell": {"preset": "cifar10", "noise": "sym20", "method": "ssr", "seed": 0}, "error": "OSError: disk full"},
    ]
    lines = markdown(table_rows(records)).splitlines()
    assert lines[0].startswith("| noise | method | best | last | seeds | published best")
    assert lines[2] == "| sym20 | divide_mix | 95.0 ± 1.4 | 94.0 ± 1.4 | 2 | 96.1 [a] | 95.7 [a] | 82.0 ± 0.0 |"
    assert lines[3] == "| sym20 | cross_entropy | 80.0 | 79.0 | 1 | 86.8 [a] | 82.7 [a] | 82.0 → 97.0 |"
    text = "\n".join(lines[4:])
    assert "preact_resnet18, width 64; 49,000 train and 10,000 test rows" in text
    assert "epochs: 300 (divide_mix) or 300 (cross_entropy)" in text
    assert "commit 012345678901-dirty." in text
    assert text.count("[a] Tu et al., DMLP") == 1
    assert "ssr" not in text


def test_published_numbers_need_the_same_data_and_the_same_noise() -> None:
    assert {(one.which, one.accuracy) for one in published_for(record(0.9, 0.9))} == {("best", 96.1), ("last", 95.7)}
    assert not published_for(record(0.9, 0.9, inject={**INCLUSIVE, "protocol": "exclusive"}))
    assert not published_for(record(0.9, 0.9, inject={**INCLUSIVE, "rate": 0.3}))
    assert not published_for(record(0.9, 0.9, cell={"preset": "digits"}))
    assert not published_for(record(0.9, 0.9, cell={"noise": "sym50"}))
    assert published_for(record(0.9, 0.9, cell={"preset": "parquet"}), "cifar10")
    assert published_for(record(0.9, 0.9, cell={"preset": "cifar10+no_encoder"}))
    real = record(0.7, 0.7, cell={"preset": "clothing1m", "noise": ""}, inject={"type": "none"})
    assert [one.accuracy for one in published_for(real)] == [74.76]


def test_where_human_labels_lie_does_not_matter() -> None:
    worse = load_preset("cifar10+human-worse")["inject"]["human"]
    assert published_noise("cifar10", "human-worse") == {"type": "human", "label_column": worse["label_column"]}


def test_the_same_cell_with_other_overrides_is_another_row() -> None:
    short = record(0.5, 0.5, overrides=["train.divide_mix.epochs=2"], group="other")
    text = markdown(table_rows([record(0.9, 0.9), short]))
    assert "| divide_mix (no overrides) |" in text
    assert "| divide_mix (train.divide_mix.epochs=2) |" in text


def test_csv_has_a_line_a_published_number() -> None:
    rows = list(
        csv.DictReader(io.StringIO(comma_separated(table_rows([record(0.94, 0.93), record(0.96, 0.95, seed=1)]))))
    )
    assert [(row["published"], row["published_which"], row["published_by"]) for row in rows] == [
        ("96.1", "best", "quoted"),
        ("95.7", "last", "quoted"),
    ]
    assert (rows[0]["best"], rows[0]["best_sd"], rows[0]["seeds"]) == ("95.000", "1.414", "2")


def test_no_cell_is_a_table_too() -> None:
    assert "No cell is finished" in markdown(table_rows([]))
    assert comma_separated(table_rows([])).startswith("preset,noise,method")


def test_every_published_entry_names_what_exists() -> None:
    from importlib import resources

    entries = yaml.safe_load(resources.files("lnl_core").joinpath("bench", "published.yaml").read_text("utf-8"))
    overlays, settings = load_overlays(), functools.cache(published_noise)
    for entry in entries["results"]:
        assert entry["preset"] in preset_names()
        assert overlays[entry["method"]].kind == "methods"
        assert source_text(entry["source"])
        for which in ("best", "last"):
            for noise, accuracy in entry.get(which, {}).items():
                assert "unknown" not in settings(entry["preset"], noise), (entry, noise)
                assert 1 < accuracy < 100


@pytest.mark.parametrize("preset", ["cifar10", "cifar100"])
def test_last_is_never_above_best(preset: str) -> None:
    from lnl_core.bench.published import _read

    for entry in _read()["results"]:
        if entry["preset"] == preset and "last" in entry:
            assert all(value <= entry["best"][noise] for noise, value in entry["last"].items()), entry
