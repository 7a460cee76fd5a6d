"""Small finished runs and held-out tables whose predictions a test chooses row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lnl_core.contracts import Labels, Purified, string_ids, write_labels, write_purified
from lnl_core.evaluate.held_out import Classifier, HeldOutPredictions, HeldOutTable, write_held_out
from lnl_core.files import write_json
from lnl_core.layout import Layout

NAMES = ("cat", "dog", "eel")
TIME = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
Right = Mapping[Classifier, np.ndarray]


def held_out_table(right: Right, label: np.ndarray, **changes: Any) -> HeldOutTable:
    """A table whose classifiers are right where `right` says so, else say the next class."""
    classes = len(changes.get("class_names", NAMES))
    said = {name: np.where(hits, label, (label + 1) % classes).astype(np.int32) for name, hits in right.items()}
    confidence = np.full(len(label), 0.9, np.float32)
    values: dict[str, Any] = {
        "ids": string_ids([f"held-{row:04d}" for row in range(len(label))]),
        "label": label.astype(np.int32),
        "observed": label.astype(np.int32),
        "predictions": {name: HeldOutPredictions(label=each, confidence=confidence) for name, each in said.items()},
        "class_names": NAMES,
        "about": {"encoder": "one"},
    }
    return HeldOutTable(**{**values, **changes})


def mostly_right(rows: int, wrong: int, seed: int = 0) -> np.ndarray:
    """`wrong` of the rows are wrong, the same ones for the same seed; a larger number keeps those of a smaller."""
    right = np.ones(rows, dtype=bool)
    right[np.random.default_rng(seed).permutation(rows)[:wrong]] = False
    return right


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Layout]:
    """`make_run(name, labels={id: label in use}, wrong=n)`: see `write_run`."""
    return lambda name, **wishes: write_run(tmp_path / name, **wishes)


def write_run(root: Path, labels: Mapping[str, str] | None = None, wrong: int = 30, rows: int = 300) -> Layout:
    """Twelve train rows, four trusted ones, and `rows` held-out ones, of which `wrong` get a wrong prediction."""
    paths = Layout(root)
    _write_tables(paths, labels or {}, rows)
    label = np.arange(rows) % len(NAMES)
    right = mostly_right(rows, wrong)
    table = held_out_table({"probe": right, "model": right}, label)
    if not rows:
        table = held_out_table({}, label, missing={"held_out": "no trusted rows are held out"})
    write_held_out(paths.held_out, table)
    write_json(paths.metrics("purify"), {"purify": {"churn": {"flips": 3, "flip_share": 0.25, "by_class": []}}})
    return paths


def _write_tables(paths: Layout, in_use: Mapping[str, str], held_out: int) -> None:
    """Row r of twelve is observed as class r % 3; rows t0..t3 are trusted cats, of which t0 was seen as a dog."""
    ids = string_ids([f"row-{row:02d}" for row in range(12)])
    observed = (np.arange(12) % 3).astype(np.int32)
    used = observed.copy()
    for name, label in in_use.items():
        used[ids.tolist().index(name)] = NAMES.index(label)
    soft = np.eye(3, dtype=np.float32)[used]
    write_purified(
        paths.purified,
        Purified(
            ids=ids,
            label=observed,
            purified_label=used,
            confidence=np.full(12, 0.8, np.float32),
            soft_label=soft,
            class_names=NAMES,
            about={"method": "dmlp", "version": "0.1.0"},
        ),
    )
    trusted = string_ids(["t0", "t1", "t2", "t3"])
    held = string_ids([f"held-{row:04d}" for row in range(held_out)])
    held_label = (np.arange(held_out) % 3).astype(np.int32)
    zeros = np.zeros(4, np.int32)
    labels = Labels(
        ids=np.concatenate([ids, trusted, held]),
        label=np.concatenate([observed, zeros, held_label]),
        observed_label=np.concatenate([observed, np.array([1, 0, 0, 0], np.int32), held_label]),
        trusted=np.concatenate([np.zeros(12, bool), np.ones(4 + held_out, bool)]),
        split=np.array(["train"] * 16 + ["val"] * held_out, dtype=object),
        class_names=NAMES,
    )
    write_labels(paths.labels, labels)
